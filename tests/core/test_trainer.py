"""BaseTrainer trains something that is no detector: two Gaussian clouds and a linear classifier."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from classifier import (
    Accuracy,
    Batches,
    ClassifierTrainer,
    assert_same_run,
    make,
    settings_of,
    weights,
)
from torch import nn

from engine.config import TrainConfig
from engine.core.checkpoint import load_checkpoint
from engine.core.events import TRAIN_EVENTS
from engine.core.results import read_results
from engine.errors import CheckpointError, ConfigError, TrainingError


def test_it_learns_and_leaves_what_it_promises(tmp_path):
    trainer = make(tmp_path, epochs=20)
    result = trainer.train()
    assert result.metrics["metrics/accuracy"] > 0.9
    assert result.stop_reason == "done" and result.epochs == 20
    rows = read_results(result.save_dir / "results.csv")
    assert [row["epoch"] for row in rows] == list(range(1, 21))
    assert list(rows[0])[:4] == ["epoch", "time_s", "train/ce_loss", "metrics/accuracy"]
    assert rows[-1]["train/ce_loss"] < rows[0]["train/ce_loss"]
    resolved = TrainConfig.load(result.save_dir / "args.yaml")
    assert (
        resolved.optimizer == "AdamW"
        and resolved.warmup_epochs is not None
        and resolved.lr0 == 0.05
    )
    sidecar = json.loads((result.save_dir / "weights" / "best.json").read_text())
    assert sidecar["sha256"] == result.best_sha256


def test_the_order_of_events_as_one_list(tmp_path):
    trainer = make(tmp_path, epochs=2, batch=20, nbs=20, warmup_epochs=0)
    seen = []
    for name in TRAIN_EVENTS:
        trainer.add_callback(name, lambda _, name=name: seen.append(name))
    trainer.train()
    batch = ["on_train_batch_start", "optimizer_step", "on_before_zero_grad", "on_train_batch_end"]
    val = ["on_val_start", *["on_val_batch_start", "on_val_batch_end"] * 5, "on_val_end"]
    epoch = [
        "on_train_epoch_start",
        *batch * 2,
        "on_train_epoch_end",
        *val,
        "on_model_save",
        "on_fit_epoch_end",
    ]
    assert seen == [
        "on_pretrain_routine_start",
        "on_pretrain_routine_end",
        "on_train_start",
        *epoch * 2,
        *val,
        "on_final_eval_end",
        "on_train_end",
        "teardown",
    ]


def test_last_on_disk_holds_this_epochs_weights(tmp_path):
    trainer = make(tmp_path)
    seen = []

    def check(t):
        assert load_checkpoint(t.last).training["epoch"] == t.epoch
        on_disk, live = load_checkpoint(t.last).model, t.model.state_dict()
        assert all(torch.equal(on_disk[k], live[k]) for k in live)
        seen.append(t.epoch)

    trainer.add_callback("on_train_epoch_end", check)
    trainer.train()
    assert seen == [0, 1, 2]


def test_two_trainers_share_nothing(tmp_path):
    first, second = make(tmp_path, name="a"), make(tmp_path, name="b")
    first.add_callback("on_train_start", lambda t: pytest.fail("leaked"))
    second.train()
    with pytest.raises(ConfigError, match="Did you mean 'on_train_end'"):
        first.add_callback("on_train_ends", print)
    with pytest.raises(ConfigError, match="not a function"):
        first.set_callback("on_train_end", 3)


def test_same_seed_same_bits_another_seed_another_result(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make(tmp_path, name=name, seed=seed).train()
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a/weights/best.pt").read_bytes() == (
        tmp_path / "b/weights/best.pt"
    ).read_bytes()
    assert not all(
        torch.equal(x, y)
        for x, y in zip(*(weights(tmp_path / n / "weights/last.pt").values() for n in "ac"))
    )


@pytest.mark.parametrize(
    "event", ["on_train_batch_end", "on_train_epoch_end", "on_val_batch_end", "on_fit_epoch_end"]
)
def test_an_interrupted_run_resumes_to_the_same_bits(tmp_path, event):
    make(tmp_path, name="whole", epochs=5).train()
    cut = make(tmp_path, name="cut", epochs=5)
    reasons = []

    def interrupt(t):
        if cut.epoch == 2:
            raise KeyboardInterrupt

    cut.add_callback(event, interrupt)
    cut.add_callback("teardown", lambda t: reasons.append(t.stop_reason))
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    assert reasons == ["interrupted"]
    make(tmp_path, name="cut", epochs=5, resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_new_run_in_an_old_folder_takes_nothing_of_the_old_one(tmp_path):
    make(tmp_path, name="run", epochs=2).train()
    fresh = make(tmp_path, name="run", epochs=2, exist_ok=True, seed=5)
    fresh.add_callback(
        "on_train_start",
        lambda t: pytest.fail("old weights") if t.last.exists() or t.best.exists() else None,
    )
    assert fresh.train().epochs == 2


def test_a_new_run_does_not_overwrite_the_weights_it_starts_from(tmp_path):
    make(tmp_path, name="run", epochs=2).train()
    weights = tmp_path / "run/weights/best.pt"
    before = {file.name: file.read_bytes() for file in weights.parent.iterdir()}
    with pytest.raises(
        ConfigError,
        match="model=.*best.pt lies in .*exist_ok=true overwrites.*another name=.*resume=true",
    ):
        make(tmp_path, name="run", epochs=2, exist_ok=True, model=str(weights)).train()
    assert {file.name: file.read_bytes() for file in weights.parent.iterdir()} == before
    assert (
        make(tmp_path, name="next", epochs=2, exist_ok=True, model=str(weights)).train().epochs == 2
    )


def test_resume_refuses_another_run(tmp_path):
    make(tmp_path, name="run", epochs=2).train()
    with pytest.raises(ConfigError, match="planned with epochs=2, not 4"):
        make(tmp_path, name="run", epochs=4, resume=True).train()
    with pytest.raises(ConfigError, match="weight_decay: 0.0005 then, 0.1 now"):
        make(tmp_path, name="run", epochs=2, weight_decay=0.1, resume=True).train()
    with pytest.raises(CheckpointError, match="nothing to resume"):
        make(tmp_path, name="other", resume=True).train()
    assert make(tmp_path, name="run", epochs=4, extend=True, resume=True).train().epochs == 4


def flipped(content):
    content = bytearray(content)
    content[len(content) // 2] ^= 1
    return bytes(content)


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:100], lambda _: b"", None])
def test_a_damaged_or_lost_checkpoint_gives_way_to_the_one_before(tmp_path, caplog, damage):
    make(tmp_path, name="run", epochs=4).train()
    weights = tmp_path / "run" / "weights"
    last, wanted = weights / "last.pt", load_checkpoint(weights / "last.pt")
    if damage is None:
        last.unlink()
    else:
        last.write_bytes(damage(last.read_bytes()))
        broken = last.read_bytes()
    assert make(tmp_path, name="run", epochs=4, resume=True).train().epochs == 4
    again = load_checkpoint(last)
    assert all(torch.equal(again.model[name], wanted.model[name]) for name in wanted.model)
    assert "going on from the checkpoint before it" in caplog.text
    if damage is not None:
        assert (weights / "last.damaged.pt").read_bytes() == broken


def test_where_the_one_before_is_damaged_too_nothing_is_moved(tmp_path):
    make(tmp_path, name="run").train()
    weights = tmp_path / "run" / "weights"
    for name in ("last.pt", "last.prev.pt"):
        (weights / name).write_bytes(flipped((weights / name).read_bytes()))
    before = {file.name: file.read_bytes() for file in weights.iterdir()}
    with pytest.raises(CheckpointError, match="last.pt: damaged"):
        make(tmp_path, name="run", resume=True).train()
    assert {file.name: file.read_bytes() for file in weights.iterdir()} == before


def test_a_nan_loss_stops_before_the_step(tmp_path):
    trainer = make(tmp_path, epochs=3)
    trainer.criterion = lambda preds, batch: (
        preds.sum() * float("nan"),
        torch.tensor([float("nan")]),
    )
    with pytest.raises(TrainingError, match=r"not finite at epoch 1, batch 1: ce_loss nan"):
        trainer.train()
    assert not any(torch.isnan(v).any() for v in trainer.model.state_dict().values())
    assert trainer.stop_reason == "exception"


def test_a_failing_tracker_never_ends_a_run_a_users_callback_does(tmp_path):
    def fail(t):
        raise RuntimeError("tracker is down")

    trainer = make(tmp_path, name="tracked")
    trainer.add_callback("on_fit_epoch_end", fail, may_fail=True)
    assert trainer.train().stop_reason == "done"
    mine = make(tmp_path, name="mine")
    mine.add_callback("on_fit_epoch_end", fail)
    with pytest.raises(RuntimeError, match="tracker is down"):
        mine.train()
    assert mine.last.exists()


def test_an_unmeasured_monitor_names_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'metrics/accuracy'"):
        make(tmp_path, monitor="metrics/acuracy").train()


class Declared(Accuracy):
    metric_names = ("metrics/accuracy",)


class WithMargin(Declared):
    def get_stats(self):
        return {**super().get_stats(), "metrics/margin": 0.5}


class Declaring(ClassifierTrainer):
    validator_class = Declared

    def get_validator(self):
        return self.validator_class(self.get_dataloader(None, 7, mode="val"))


def refused(trainer):
    """The batches that were trained before the monitor was refused, and what was said."""
    batches = []
    trainer.add_callback("on_train_batch_start", batches.append)
    with pytest.raises(ConfigError, match="is not measured") as error:
        trainer.train()
    return len(batches), str(error.value)


def test_a_monitor_that_will_not_be_measured_is_refused_before_training(tmp_path):
    def with_monitor(name, trainer=Declaring):
        return trainer(settings_of(tmp_path, monitor=name, name="refused"))

    batches, said = refused(with_monitor("metrics/acuracy"))
    assert batches == 0 and not (tmp_path / "refused").exists()
    assert said == (
        "monitor='metrics/acuracy' is not measured. Did you mean 'metrics/accuracy'? There are: "
        "metrics/accuracy, val/ce_loss, train/ce_loss, lr/bias, lr/weight, lr/norm"
    )
    unvalidated = with_monitor("metrics/accuracy")
    unvalidated.get_validator = lambda: None
    assert refused(unvalidated) == (
        0,
        "monitor='metrics/accuracy' is not measured. There are: train/ce_loss, lr/bias, "
        "lr/weight, lr/norm",
    )
    for name in ("val/ce_loss", "train/ce_loss", "lr/weight"):
        assert with_monitor(name).train().stop_reason == "done"


def test_without_validation_the_training_loss_decides(tmp_path, caplog):
    """Lowest in epoch 2 of those it goes through, as written down here."""
    losses = (3.0, 1.0, 2.0, 2.5, 0.5)
    trainer = make(tmp_path, name="run", epochs=5, patience=2, monitor="")
    trainer.get_validator = lambda: None
    plain = trainer.criterion

    def scripted(preds, batch):
        loss, _ = plain(preds, batch)
        return loss, torch.tensor([losses[trainer.epoch]])

    trainer.criterion = scripted
    caplog.set_level("INFO", "detectflow")
    done = trainer.train()
    assert (done.best_epoch, done.epochs) == (2, 4) and done.best.exists()
    assert load_checkpoint(done.best).training.get("epoch", 1) == 1
    assert "stopping: the training loss has not improved for 2 epochs" in caplog.text


def test_where_code_of_the_users_own_may_measure_more_the_first_validation_shows(tmp_path):
    class Margin(Declaring):
        validator_class = WithMargin

    class Wider(Declaring):
        def validate(self):
            return {**super().validate(), "metrics/margin": 0.5}

    def by_callback(trainer):
        trainer.add_callback("on_val_end", lambda v: v.metrics.update({"metrics/margin": 0.5}))
        return trainer

    plan = settings_of(tmp_path, epochs=1)
    makers = (lambda p: Margin(p), lambda p: Wider(p), lambda p: by_callback(Declaring(p)))
    for make_trainer in makers:
        assert make_trainer({**plan, "monitor": "metrics/margin"}).train().stop_reason == "done"
        batches, said = refused(make_trainer({**plan, "monitor": "metrics/margins"}))
        assert batches == 3 and "Did you mean 'metrics/margin'" in said


def test_a_tracker_at_the_end_of_validation_does_not_put_the_check_off(tmp_path):
    trainer = Declaring(settings_of(tmp_path, monitor="metrics/margin"))
    trainer.add_callback("on_val_end", print, may_fail=True)
    assert refused(trainer)[0] == 0


class Generated:
    """A loader that says how many batches come and gives others."""

    def __init__(self, says, gives):
        self.says, self.gives = says, gives

    def __len__(self):
        return self.says

    def __iter__(self):
        return iter(list(Batches(self.gives, 1, 1, True)) if self.gives else [])


def returns(value):
    return lambda self, *_, **__: value


@pytest.mark.parametrize(
    ("method", "value", "said"),
    [
        ("get_model", None, "Mine.get_model must return a torch.nn.Module; it returned NoneType"),
        ("get_model", nn.ReLU(), "ReLU, the model of Mine, has no parameter that learns"),
        (
            "get_dataset",
            "data",
            "Mine.get_dataset must return what get_dataloader is given for each mode.* it "
            "returned str",
        ),
        (
            "get_dataloader",
            (n for n in ()),
            "get_dataloader must return batches that .* have a length; it returned generator",
        ),
        ("get_dataloader", Generated(3, 0), "has a length of 3 and gave no batch at epoch 1"),
        (
            "get_validator",
            {},
            "Mine.get_validator must return a validator, called with trainer=, or None; it "
            "returned dict",
        ),
        (
            "build_optimizer",
            None,
            "Mine.build_optimizer must return a torch.optim.Optimizer; it returned NoneType",
        ),
        (
            "build_scheduler",
            torch.optim.lr_scheduler.StepLR,
            "must return an engine.core.schedule.Schedule.* returned StepLR",
        ),
        (
            "criterion",
            (torch.tensor(1.0), torch.ones(1)),
            "the loss that Mine.criterion returned does not depend on the model",
        ),
        (
            "checkpoint_meta",
            {"from": {"file": Path("a.pt")}},
            r"plain data only.*: meta\.from\.file is a PosixPath",
        ),
        ("checkpoint_meta", {"scores": [np.float32(1)]}, r"meta\.scores\[0\] is a float32"),
    ],
)
def test_a_method_of_ones_own_that_returns_something_else_is_an_error(
    tmp_path, method, value, said
):
    with pytest.raises((TrainingError, CheckpointError), match=said):
        type("Mine", (ClassifierTrainer,), {method: returns(value)})(
            settings_of(tmp_path, epochs=1)
        ).train()


def test_loss_names_that_are_one_text(tmp_path):
    with pytest.raises(
        TrainingError, match=r"Mine.loss_names is text, not a tuple of names: \('ce_loss',\)"
    ):
        type("Mine", (ClassifierTrainer,), {"loss_names": "ce_loss"})(settings_of(tmp_path)).train()


def test_a_loader_that_gives_other_than_it_says_is_reported_once(tmp_path, caplog):
    trainer = make(tmp_path)
    loaders = {"train": Generated(9, 4), "val": Batches(30, 7, 2, False)}
    trainer.get_dataloader = lambda dataset_path, batch_size, mode="train", rank=0: loaders[mode]
    trainer.get_validator = lambda: Accuracy(loaders["val"])
    trainer.criterion = lambda preds, batch: ((loss := preds.square().mean()), loss.detach()[None])
    trainer.args = trainer.args.with_overrides({"freeze": ["1."]})
    with caplog.at_level(logging.WARNING, "detectflow"):
        trainer.train()
    assert caplog.text.count("the training loader has a length of 9 and gave 4 batches") == 1


def test_patience_stops_early(tmp_path):
    trainer = make(tmp_path, epochs=50, patience=2, lr0=1e-9, ema=False)
    assert trainer.train().stop_reason == "stopped"
    assert len(trainer.rows) < 50
