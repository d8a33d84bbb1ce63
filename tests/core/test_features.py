"""What a run can do besides learning, each shown on the small classifier: AMP, limits,
monitors, freezing, schedule.
"""

import json
import logging
import math
import re
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from classifier import Accuracy, ClassifierTrainer, assert_same_run, make, settings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.config import TrainConfig
from engine.config.train import AUTOMATIC
from engine.core import amp, early_stopping, optim
from engine.core.checkpoint import load_checkpoint
from engine.core.ema import ModelEMA, planned_tau
from engine.core.optim import apply_schedule, build_optimizer
from engine.core.results import read_results
from engine.core.schedule import Schedule, decay_factor, planned_warmup
from engine.core.setup import NOMINAL_BATCH, STEPS_TO_SPARE, make_plan
from engine.errors import ConfigError, TrainingError
from engine.plots import plot_results

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)

# --- AMP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("native", "kind"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bf16_where_the_gpu_has_it_else_fp16(monkeypatch, native, kind):
    def supported(including_emulation=True):
        return native or including_emulation  # PyTorch emulates it on every GPU

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert amp.half_type(CUDA) is kind
    assert amp.half_type(CPU) is None


def test_a_cpu_computes_in_float32_whatever_is_asked():
    with amp.autocast(True, CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32
    assert not amp.make_scaler(True, CPU).is_enabled()


def scaled(project, init_scale, **changes):
    """A classifier whose loss is scaled as for fp16, with PyTorch's own scaler."""
    trainer = make(project, nbs=16, **changes)
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=10_000)
    trainer.add_callback("on_train_start", lambda t: setattr(t, "scaler", scaler))
    return trainer


def test_a_step_that_the_scaler_leaves_out_counts_nowhere(tmp_path):
    trainer = scaled(tmp_path, init_scale=2.0**120, clip_norm=0)
    criterion = trainer.criterion
    trainer.criterion = lambda preds, batch: (
        2.0**12 * criterion(preds, batch)[0],
        criterion(preds, batch)[1],
    )  # too much
    events, scales, moved = [], [], []
    before = {}

    def start(t):
        before.update({name: p.detach().clone() for name, p in t.model.named_parameters()})
        scales.append(t.scaler.get_scale())

    def end(t):
        skipped = t.scaler.get_scale() < scales[-1]
        moved.append(
            any(not torch.equal(before[name], p) for name, p in t.model.named_parameters())
        )
        assert moved[-1] is not skipped

    trainer.add_callback("on_train_batch_start", start)
    trainer.add_callback("on_train_batch_end", end)
    for event in ("optimizer_step", "on_before_zero_grad"):
        trainer.add_callback(event, lambda t, event=event: events.append(event))
    trainer.train()
    steps = sum(moved)
    assert len(moved) == 9 and 0 < steps < 9, moved
    assert events == ["optimizer_step", "on_before_zero_grad"] * steps
    assert trainer.ema.updates == steps


@pytest.mark.parametrize("event", ["on_train_batch_end", "on_fit_epoch_end"])
def test_a_scaled_run_with_steps_left_out_resumes_to_the_same_bits(tmp_path, monkeypatch, event):
    """Scale, average and schedule go on where they were, also with gradients that add up over
    batches.
    """
    monkeypatch.setattr(
        amp,
        "make_scaler",
        lambda on, device: torch.amp.GradScaler("cpu", 2.0**126, growth_interval=3),
    )
    plan = {
        "batch": 4,
        "nbs": 12,
        "epochs": 4,
        "warmup_epochs": 0,
        "clip_norm": 0,
    }  # steps after batches 3, 6, 9 and 10
    whole = make(tmp_path, name="whole", **plan)
    scales = []
    whole.add_callback("on_train_batch_end", lambda t: scales.append(t.scaler.get_scale()))
    whole.train()
    assert len(set(scales)) > 1 and 0 < whole.ema.updates < 16  # some were left out
    cut = make(tmp_path, name="cut", **plan)
    cut.add_callback(event, lambda t: 1 / 0 if t.epoch == 1 else None)
    with pytest.raises(ZeroDivisionError):
        cut.train()
    make(tmp_path, name="cut", resume=True, **plan).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_scale_that_is_never_found_ends_the_run(tmp_path):
    trainer = scaled(tmp_path, init_scale=1.0, epochs=30)
    trainer.criterion = lambda preds, batch: nan_gradient(preds)
    steps = []
    trainer.add_callback("on_train_batch_end", lambda t: steps.append(t.epoch))
    with pytest.raises(TrainingError, match="the gradient is not finite"):
        trainer.train()
    assert len(steps) == amp.SCALER_PATIENCE_STEPS - 1


# --- numbers that are none ------------------------------------------------------------------------


def nan_gradient(preds):
    """A loss of 0 whose gradient is not finite: the root of nothing."""
    loss = (preds * 0).sum().sqrt()
    return loss, loss.detach()[None]


class Failing(ClassifierTrainer):
    """From the second epoch on, at the second batch, a loss or a gradient is no number."""

    sample_word = "images"

    def __init__(self, overrides, kind):
        super().__init__(overrides)
        self.kind = kind

    def criterion(self, preds, batch):
        loss, items = super().criterion(preds, batch)
        if self.epoch != 1 or self.batch_index != 1 or not self.model.training:
            return loss, items
        return (
            (loss * float("nan"), items * float("nan"))
            if self.kind == "loss"
            else (loss + nan_gradient(preds)[0], items)
        )

    def batch_names(self, batch):
        return [f"{i}.png" for i in range(len(batch["img"]))]


@pytest.mark.parametrize(
    ("kind", "terms"), [("loss", "ce_loss nan"), ("gradient", r"ce_loss 0\.\d+")]
)
def test_a_number_that_is_none_stops_before_the_step_and_keeps_the_checkpoint(
    tmp_path, kind, terms
):
    trainer = Failing(settings_of(tmp_path, nbs=16), kind)
    before = {}
    trainer.add_callback(
        "on_train_batch_start",
        lambda t: before.update({k: v.clone() for k, v in t.model.named_parameters()}),
    )
    trainer.add_callback(
        "optimizer_step", lambda t: before.update(steps=before.get("steps", 0) + 1)
    )
    with pytest.raises(TrainingError) as error:
        trainer.train()
    said = str(error.value)
    images = ", ".join(f"{i}.png" for i in range(8)) + " and 8 more"
    assert (
        f"the {kind} is not finite at epoch 2, batch 2: " in said and f"Images: {images}." in said
    )
    assert re.search(terms, said) and f"the last good checkpoint is {trainer.last}" in said
    assert before.pop("steps") == 4
    assert all(
        torch.equal(before[name], parameter) for name, parameter in trainer.model.named_parameters()
    )
    assert load_checkpoint(trainer.last).training["epoch"] == 0
    assert (
        "lower lr0 (now 0.05; try 0.001)" in said
        and f"start another run, for example with model={trainer.last}" in said
    )
    written = json.loads(trainer.paths.failed_batch.read_text())
    assert (written["not_finite"], written["epoch"], written["batch"]) == (kind, 2, 2)
    assert written["images"] == [f"{i}.png" for i in range(16)] and set(written["lr"]) == {
        "bias",
        "weight",
        "norm",
    }
    assert (
        f"The learning rate was {max(written['lr'].values()):g}" in said
        and str(trainer.paths.failed_batch) in said
    )
    if kind == "gradient":
        assert "It is inf or nan in 0.weight, 0.bias" in said


def test_a_bad_gradient_names_the_images_of_all_batches_that_went_into_it(tmp_path):
    trainer = Failing(settings_of(tmp_path, nbs=48, batch=4, warmup_epochs=0), "gradient")
    with pytest.raises(
        TrainingError, match="Images: 0.png, 1.png, 2.png, 3.png, 0.png.* and 32 more"
    ):
        trainer.train()


def test_weights_that_were_saved_and_fail_at_once_are_not_called_good(tmp_path):
    """A rate that bursts the weights at the last step of an epoch: they lie in last.pt, and the
    next batch is no number.
    """

    def burst(t):
        if t.epoch == 1 and t.batch_index == 2:
            t.model[0].weight.data.fill_(math.inf)
            t.model[4].weight.data.fill_(math.inf)

    for name, eventually in (
        ("best", "the cause, {best} is of an earlier epoch"),
        ("none", "holds these weights. resume"),
    ):
        trainer = make(tmp_path, name=name, epochs=4, ema=False)
        trainer.add_callback("on_before_zero_grad", burst)
        good = {"best": 0, "none": 1}[name]
        trainer.validate = lambda t=trainer, good=good: {"metrics/accuracy": float(t.epoch == good)}
        with pytest.raises(TrainingError, match="not finite at epoch 3, batch 1") as error:
            trainer.train()
        said = str(error.value)
        assert (
            f"{trainer.last} holds these weights" in said
            and eventually.format(best=trainer.best) in said
        )


def test_a_loss_of_validation_that_is_no_number_is_warned_of_once(tmp_path, caplog):
    trainer = make(tmp_path)
    trainer.val_loss_items = lambda preds, batch: torch.tensor([math.nan])
    with caplog.at_level(logging.WARNING, "detectflow"):
        trainer.train()
    assert [r.message for r in caplog.records] == [
        "epoch 1: val/ce_loss is no finite number, though the losses of training are: the weights "
        "may have grown too large. Lower lr0 (now 0.05)"
    ]


def test_what_was_written_of_a_failed_batch_goes_when_the_run_is_taken_up_again(tmp_path):
    with pytest.raises(TrainingError):
        Failing(settings_of(tmp_path, name="run"), "loss").train()
    assert (tmp_path / "run" / "failed_batch.json").exists()
    make(tmp_path, name="run", resume=True).train()
    assert not (tmp_path / "run" / "failed_batch.json").exists()


# --- when a run ends, and what it keeps -----------------------------------------------------------


def test_a_time_limit_ends_the_run_after_the_epoch_that_passes_it(tmp_path):
    trainer = make(tmp_path, epochs=50, time_limit_minutes=2)

    def a_minute_passes(t):
        t.started_s -= 60

    trainer.add_callback("on_train_epoch_end", a_minute_passes)
    result = trainer.train()
    assert result.stop_reason == "stopped" and result.epochs == 2 and result.best.exists()


def test_periods_of_saving_and_validating(tmp_path):
    trainer = make(tmp_path, epochs=5, save_period=2, val_period=3)
    trainer.train()
    assert sorted(p.name for p in trainer.paths.weights.glob("epoch*.pt")) == [
        "epoch2.pt",
        "epoch4.pt",
    ]
    rows = read_results(trainer.paths.results_csv)
    assert [row["epoch"] for row in rows if "metrics/accuracy" in row] == [
        3,
        5,
    ]  # every third, and the last
    every = make(tmp_path, name="every", epochs=1)
    every.train()
    header = trainer.paths.results_csv.read_text().splitlines()[
        0
    ]  # the first epoch has no metrics, its columns keep their place
    assert header == every.paths.results_csv.read_text().splitlines()[0]
    assert trainer.best_epoch in (3, 5)
    kept = load_checkpoint(trainer.paths.weights / "epoch2.pt")
    assert kept.optimizer is None and kept.weights.keys() == trainer.model.state_dict().keys()


def test_a_monitor_may_be_smallest(tmp_path):
    trainer = make(tmp_path, epochs=6, monitor="val/ce_loss", monitor_mode="min")
    trainer.train()
    losses = [row["val/ce_loss"] for row in trainer.rows]
    assert trainer.best_fitness == min(losses)
    assert trainer.best_epoch == losses.index(min(losses)) + 1


@pytest.mark.parametrize(
    ("new", "old", "mode", "better"),
    [
        (1.0, None, "max", True),
        (None, None, "max", False),
        (None, 1.0, "min", False),
        (2.0, 1.0, "max", True),
        (1.0, 1.0, "max", False),
        (2.0, 1.0, "min", False),
        (0.5, 1.0, "min", True),
    ],
)
def test_what_is_better(new, old, mode, better):
    assert early_stopping.is_better(new, old, mode) is better


def test_what_decides():
    row = {
        "epoch": 0,
        "metrics/map": 0.5,
        "metrics/none": None,
        "metrics/nan": math.nan,
        "train/loss": 1.0,
    }
    assert early_stopping.fitness_of(row, "metrics/map", True) == 0.5
    assert early_stopping.fitness_of(row, "metrics/none", True) is None
    assert (
        early_stopping.fitness_of(row, "metrics/nan", True) is None
    )  # or nothing would ever beat it
    assert (
        early_stopping.fitness_of({"train/loss": 1.0}, "metrics/map", True) is None
    )  # an epoch without validation
    with pytest.raises(
        ConfigError, match="monitor='metrics/mAP' is not measured. Did you mean 'metrics/map'"
    ):
        early_stopping.fitness_of(row, "metrics/mAP", True)
    with pytest.raises(ConfigError, match="There are: train/loss"):
        early_stopping.fitness_of(
            {"train/loss": 1.0}, "metrics/map", False
        )  # nothing validates, so it will never come


@pytest.mark.parametrize(
    "settings, epoch, best_epoch, elapsed_s, said",
    [
        ({}, 6, 4, 59, ""),
        ({}, 7, 4, 0, "m has not improved for 3 epochs (best: epoch 4)"),
        ({}, 2, 2, 61, "the time limit of 1 minutes has passed"),
        ({"patience": 0, "time_limit_minutes": None}, 999, 1, 1e9, ""),
        ({}, 9, 0, 0, ""),  # nothing was measured yet
    ],
)
def test_why_a_run_stops(caplog, settings, epoch, best_epoch, elapsed_s, said):
    config = TrainConfig(**{"patience": 3, "time_limit_minutes": 1, "monitor": "m", **settings})
    caplog.set_level("INFO")
    for say in (False, True):
        stops = early_stopping.should_stop(config, epoch, best_epoch, elapsed_s, say=say)
        assert stops == bool(said)
        assert caplog.messages == ([f"stopping: {said}"] if say and said else [])


class Odd(Accuracy):
    """Metrics as a user's own validator may return them."""

    returned: ClassVar = {}

    def get_stats(self):
        return self.returned


def odd(project, returned, **changes):
    trainer = make(project, **changes)
    validator = type("Mine", (Odd,), {"returned": returned})
    trainer.get_validator = lambda: validator(trainer.get_dataloader(None, 7, mode="val"))
    return trainer


def test_metrics_that_are_no_python_numbers_or_none_at_all(tmp_path, caplog):
    """numpy's and torch's become plain ones; None and nan are kept apart, and a resumed run has the
    same.
    """
    returned = {
        "metrics/accuracy": torch.tensor(0.5),
        "metrics/mAP50": None,
        "metrics/recall": math.nan,
        "metrics/small": np.float32(0.25),
        "metrics/high": math.inf,
        "metrics/count": np.int64(3),
    }
    with caplog.at_level(logging.INFO, "detectflow"):
        odd(tmp_path, returned, name="whole", verbose=True).train()
    assert "mAP50 - recall nan small 0.250 high inf" in caplog.text
    cut = odd(tmp_path, returned, name="cut")
    cut.add_callback("on_train_batch_end", lambda t: 1 / 0 if t.epoch == 2 else None)
    with pytest.raises(ZeroDivisionError):
        cut.train()
    result = odd(tmp_path, returned, name="cut", resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert result.metrics == {"metrics/accuracy": 0.5, "metrics/small": 0.25, "metrics/count": 3.0}
    row = read_results(tmp_path / "cut" / "results.csv")[0]
    assert (
        row["metrics/small"] == 0.25
        and "metrics/mAP50" not in row
        and math.isnan(row["metrics/recall"])
    )
    for file in (tmp_path / "cut").rglob("*.json"):
        json.loads(file.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    plot_results(read_results(tmp_path / "cut" / "results.csv"), tmp_path / "results.png")


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "Mine.get_stats must return metrics by name, a dict; it returned NoneType"),
        ([0.5], "a dict; it returned list"),
        (
            {"metrics/accuracy": torch.zeros(3)},
            r"'metrics/accuracy' must be one number or None, and is a Tensor of shape \(3,\)",
        ),
        ({"metrics/accuracy": "good"}, "must be one number or None, and is a str"),
    ],
)
def test_what_is_no_metric_is_an_error(tmp_path, returned, said):
    with pytest.raises(TrainingError, match=said):
        odd(tmp_path, returned).train()


# --- freezing -------------------------------------------------------------------------------------


def test_what_is_frozen_by_name_does_not_move_and_its_norms_stay_in_eval(tmp_path):
    trainer = make(tmp_path, freeze=["0.", "1."], ema=False)
    first, modes = {}, []
    trainer.add_callback(
        "on_train_start",
        lambda t: first.update({k: v.clone() for k, v in t.model.state_dict().items()}),
    )
    trainer.add_callback(
        "on_train_batch_end", lambda t: modes.append((t.model[1].training, t.model[3].training))
    )
    trainer.train()
    after = trainer.model.state_dict()
    frozen = {
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    }
    assert {name for name in after if torch.equal(first[name], after[name])} == frozen
    assert set(modes) == {(False, True)}  # the norm, the dropout


def test_a_norm_that_learns_follows_its_batches(tmp_path):
    trainer = make(tmp_path, freeze="0.")
    trainer.train()
    assert trainer.model[1].num_batches_tracked == 9


def test_a_name_that_freezes_nothing_is_an_error(tmp_path):
    with pytest.raises(
        ConfigError, match=r"freeze: no parameter starts with 'backbone'\. They start with: 0, 1, 4"
    ):
        make(tmp_path, freeze="backbone").train()


def test_freezing_everything_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="freeze: 0, 1, 4 leave no parameter that learns"):
        make(tmp_path, freeze=["0", "1", "4"]).train()


# --- optimizers, schedules -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)],
)
def test_every_optimizer_learns(tmp_path, name, kind):
    trainer = make(tmp_path, optimizer=name, epochs=10)
    assert trainer.train().metrics["metrics/accuracy"] > 0.85
    assert type(trainer.optimizer) is kind


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_only_weights_decay_and_every_parameter_is_in_one_group(name):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False)
    )
    model[3].weight.requires_grad_(False)
    optimizer = build_optimizer(model, name, lr=0.1, momentum=0.9, weight_decay=0.5)
    groups = {group["group"]: group for group in optimizer.param_groups}
    assert {name: len(group["params"]) for name, group in groups.items()} == {
        "bias": 3,
        "weight": 1,
        "norm": 2,
    }
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "bias": 0.0,
        "weight": 0.5,
        "norm": 0.0,
    }
    apply_schedule(optimizer, SCHEDULE, 99, peak=0.1)
    momenta = {
        group["momentum"] if name == "SGD" else group["betas"][0]
        for group in optimizer.param_groups
    }
    assert momenta == {0.9}


def test_the_choice_between_optimizers():
    assert (
        optim.choose_optimizer("auto", 10_000) == "AdamW"
        and optim.choose_optimizer("auto", 10_001) == "SGD"
    )
    assert {optim.choose_optimizer("Adam", n) for n in (1, 10**6)} == {"Adam"}


SCHEDULE = Schedule(
    total=100,
    warmup=10,
    shape="cosine",
    final=0.01,
    accumulate=4,
    warmup_bias_lr=0.1,
    warmup_momentum=0.8,
    momentum=0.9,
)


def test_schedule_by_hand():
    assert [decay_factor("cosine", at, 0.01) for at in (0, 0.5, 1, 2)] == pytest.approx(
        [1, 0.505, 0.01, 0.01]
    )
    assert [decay_factor("linear", at, 0.2) for at in (0, 0.5, 1)] == pytest.approx([1, 0.6, 0.2])
    assert [decay_factor("constant", at, 0.2) for at in (0, 0.5, 1)] == [1, 1, 1]
    assert SCHEDULE.lr(10, 1.0) == pytest.approx(decay_factor("cosine", 0.1, 0.01))
    assert SCHEDULE.lr(0, 1.0) == pytest.approx(1 / 11) and SCHEDULE.lr(100, 1.0) == pytest.approx(
        0.01
    )
    assert SCHEDULE.lr(0, 1.0, is_bias=True) == pytest.approx(0.1 + (1 - 0.1) / 11)
    assert [SCHEDULE.momentum_at(i) for i in (0, 5, 10, 99)] == pytest.approx([0.8, 0.85, 0.9, 0.9])
    assert [SCHEDULE.accumulate_at(i) for i in (0, 5, 10)] == [1, 2, 4]


@given(
    shape=st.sampled_from(["cosine", "linear", "constant"]),
    final=st.floats(0, 1),
    at=st.integers(10, 99),
)
def test_the_rate_never_rises_after_warm_up_and_never_leaves_its_range(shape, final, at):
    schedule = replace(SCHEDULE, shape=shape, final=final)
    assert final - 1e-9 <= schedule.lr(at + 1, 1.0) <= schedule.lr(at, 1.0) + 1e-12 <= 1 + 1e-9
    assert all(schedule.lr(i, 1.0) <= schedule.lr(i + 1, 1.0) + 0.01 for i in range(9))


def test_warm_up_as_asked_or_a_tenth_of_the_run_at_most():
    assert planned_warmup(None, 100, 50) == 150  # three epochs
    assert planned_warmup(None, 100, 10) == 100  # at least a hundred iterations
    assert planned_warmup(None, 5, 25) == 12  # at most a tenth
    assert (
        planned_warmup(2.5, 100, 10) == 25
        and planned_warmup(50, 3, 10) == 30
        and planned_warmup(0, 3, 10) == 0
    )


def test_gradients_add_up_to_the_nominal_batch(tmp_path):
    trainer = make(
        tmp_path, batch=8, nbs=16, warmup_epochs=0, epochs=2
    )  # 5 batches an epoch: steps after 2, 4 and the last
    steps = []
    trainer.add_callback("optimizer_step", lambda t: steps.append((t.epoch, t.batch_index)))
    trainer.train()
    assert steps == [(epoch, index) for epoch in (0, 1) for index in (1, 3, 4)]
    assert trainer.scheduler.optimizer_steps(5) == len(steps)


def test_the_norm_of_gradients_is_clipped(tmp_path):
    for clip, most in ((1e-3, 1.001e-3), (0, math.inf)):
        trainer = make(tmp_path, clip_norm=clip)
        norms = []
        trainer.add_callback(
            "optimizer_step", lambda t, norms=norms: norms.append(norm_of(t.model))
        )
        trainer.train()
        assert max(norms) <= most
    assert max(norms) > 0.01


def norm_of(model):
    return float(
        torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in model.parameters()]))
    )


def test_the_average_by_hand():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    model[0].weight.data.fill_(0.0)
    ema = ModelEMA(model, decay=0.9, tau=10.0)
    model[0].weight.data.fill_(1.0)
    model[1].num_batches_tracked.fill_(7)
    ema.update(model)
    kept = 0.9 * (1 - math.exp(-1 / 10))
    assert float(ema.module[0].weight.detach()) == pytest.approx(1 - kept, rel=1e-6)
    assert int(ema.module[1].num_batches_tracked) == 7 and ema.updates == 1
    assert not ema.module.training and not any(p.requires_grad for p in ema.module.parameters())
    assert planned_tau(400) == 100 and planned_tau(10**6) == 2000 and planned_tau(1) == 1


def test_without_an_average_the_weights_themselves_are_validated_and_saved(tmp_path):
    trainer = make(tmp_path, ema=False)
    seen = []
    trainer.validate = lambda: (
        seen.append(trainer.epoch) or {"metrics/accuracy": float(trainer.epoch)}
    )  # the last is best
    trainer.train()
    assert seen == [0, 1, 2] and load_checkpoint(trainer.last).ema is None
    raw, best = trainer.model.state_dict(), trainer.best_model().state_dict()
    assert raw.keys() == best.keys() and all(torch.equal(raw[name], best[name]) for name in raw)


# --- what is given always wins --------------------------------------------------------------------

POSSIBLE = {
    "optimizer": st.sampled_from(["SGD", "Adam", "AdamW"]),
    "lr0": st.floats(1e-6, 0.1),
    "nbs": st.integers(1, 200),
    "warmup_epochs": st.floats(0, 3),
    "ema_tau_steps": st.floats(0.1, 5000),
    "batch": st.integers(2, 40),
}


@settings(deadline=None, max_examples=30)
@given(given_values=st.fixed_dictionaries({}, optional=POSSIBLE))
def test_a_given_value_is_used_and_written_whatever_would_be_chosen(tmp_path_factory, given_values):
    folder = tmp_path_factory.mktemp("run")
    plan = {k: v for k, v in settings_of(folder).items() if k not in AUTOMATIC}
    trainer = ClassifierTrainer({**plan, **given_values})
    trainer.add_callback("on_train_start", lambda t: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    written = TrainConfig.load(trainer.paths.args_yaml)
    for config in (trainer.args, written):
        assert {key: getattr(config, key) for key in given_values} == given_values
        assert all(
            getattr(config, key) != automatic for key, automatic in AUTOMATIC.items()
        )  # everything is decided
    assert len(trainer.train_loader) == math.ceil(40 / written.batch)
    assert (
        type(trainer.optimizer).__name__ == written.optimizer
        and trainer.ema.tau == written.ema_tau_steps
    )
    assert trainer.scheduler.accumulate == max(round(written.nbs / written.batch), 1)
    assert trainer.scheduler.warmup == round(written.warmup_epochs * len(trainer.train_loader))


def test_every_automatic_setting_is_among_those():
    assert set(POSSIBLE) == set(AUTOMATIC)


def test_a_plan_by_hand():
    def rate(optimizer):
        return {"SGD": 0.01, "AdamW": 0.002}[optimizer]

    short = make_plan(TrainConfig(epochs=10), batch=16, per_epoch=10, default_lr=rate)
    assert (short.optimizer, short.nbs, short.accumulate, short.lr0) == ("AdamW", 16, 1, 0.002)
    long = make_plan(TrainConfig(epochs=1001), batch=16, per_epoch=10, default_lr=rate)
    assert (long.optimizer, long.nbs, long.accumulate, long.lr0) == ("SGD", NOMINAL_BATCH, 4, 0.01)
    assert long.weight_decay == pytest.approx(5e-4)
    assert make_plan(
        TrainConfig(epochs=STEPS_TO_SPARE), batch=48, per_epoch=1, default_lr=rate
    ).weight_decay == pytest.approx(5e-4 * 48 / 64)


# --- the end of a run -----------------------------------------------------------------------------


def test_at_teardown_everybody_is_called_and_the_runs_own_error_stays(tmp_path):
    def breaks(trainer):
        raise OSError("no disk to say goodbye on")

    called = []
    for name, stops in (("well", False), ("ill", True)):
        trainer = make(tmp_path, name=name, epochs=1)
        trainer.add_callback("teardown", breaks)
        trainer.add_callback("teardown", lambda t: called.append(t.stop_reason))
        if stops:
            trainer.add_callback("on_train_epoch_start", lambda t: 1 / 0)
        with pytest.raises(ZeroDivisionError if stops else OSError):
            trainer.train()
    assert called == ["done", "exception"]
