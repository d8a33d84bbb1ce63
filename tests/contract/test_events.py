"""Events: the whole order of one run as one list for each executor, what is guaranteed at each, and
how runs end.
"""

import json
import signal

import pytest
import torch

from engine.core.checkpoint import load_checkpoint
from engine.core.events import EXPORT_EVENTS, PREDICT_EVENTS, TRAIN_EVENTS, VAL_EVENTS
from engine.core.results import read_results
from engine.detect import DetectionPredictor, DetectionTrainer, DetectionValidator
from engine.errors import ConfigError
from engine.export import Exporter

VALIDATION = ["on_val_start", "on_val_batch_start", "on_val_batch_end", "on_val_end"]


def listen(executor, events, seen: list) -> None:
    for name in events:
        executor.add_callback(name, lambda _, name=name: seen.append(name))


# The order ----------------------------------------------------------------------------------------


def test_training_as_one_list(tiny):
    trainer, seen = DetectionTrainer(overrides=tiny(epochs=3, val_period=2)), []
    listen(trainer, TRAIN_EVENTS, seen)
    trainer.train()
    batch = ["on_train_batch_start", "optimizer_step", "on_before_zero_grad", "on_train_batch_end"]
    start, end = (
        ["on_train_epoch_start", *batch * 2, "on_train_epoch_end"],
        ["on_model_save", "on_fit_epoch_end"],
    )
    assert seen == [
        "on_pretrain_routine_start",
        "on_pretrain_routine_end",
        "on_train_start",
        *start,
        *end,
        *start,
        *VALIDATION,
        *end,
        *start,
        *VALIDATION,
        *end,
        *VALIDATION,
        "on_final_eval_end",
        "on_train_end",
        "teardown",
    ]
    assert seen.count("on_fit_epoch_end") == 3
    assert set(TRAIN_EVENTS) - set(seen) == {"on_params_update"}  # nobody changed any


def test_with_accumulation_the_optimizer_events_come_once_a_real_step(tiny):
    trainer, seen = DetectionTrainer(overrides=tiny(nbs=8, warmup_epochs=0)), []
    listen(
        trainer,
        ["on_train_batch_start", "optimizer_step", "on_before_zero_grad", "on_train_batch_end"],
        seen,
    )
    trainer.train()
    start, end = "on_train_batch_start", "on_train_batch_end"
    assert seen == [start, end, start, "optimizer_step", "on_before_zero_grad", end]


def test_a_validator_alone_as_one_list(trained, squares):
    validator, seen = DetectionValidator(overrides={"batch": 2, "plots": False}), []
    listen(validator, VAL_EVENTS, seen)
    validator(model=trained.best, data=squares)
    assert seen == ["on_val_start", *["on_val_batch_start", "on_val_batch_end"] * 2, "on_val_end"]


def test_a_predictor_as_one_list(trained, squares):
    settings = {"model": str(trained.best), "batch": 3, "save": False, "verbose": False}
    predictor, seen = DetectionPredictor(settings), []
    listen(predictor, PREDICT_EVENTS, seen)
    predictor(squares / "images" / "val")
    assert seen == [
        "on_predict_start",
        *["on_predict_batch_start", "on_predict_batch_end"] * 2,
        "on_predict_end",
    ]


def test_an_exporter_as_one_list(trained, tmp_path):
    exporter, seen = Exporter(), []
    listen(exporter, EXPORT_EVENTS, seen)
    exporter(trained.best, "safetensors", tmp_path)
    exporter(trained.best, "safetensors", tmp_path / "again")
    assert seen == ["on_export_start", "on_export_end"] * 2


# What is guaranteed -------------------------------------------------------------------------------


class Witness:
    """Callbacks of one run that check, at its event, each line of the contract's table."""

    def __init__(self, trainer: DetectionTrainer):
        self.trainer, self.seen = trainer, []
        self.weight_before: torch.Tensor | None = None
        self.items: list[torch.Tensor] = []
        self.counted = 0
        for name in TRAIN_EVENTS:
            trainer.add_callback(name, lambda subject, name=name: self.hear(name, subject))

    def hear(self, name: str, subject) -> None:
        assert subject is (self.trainer.validator if name in VALIDATION else self.trainer)
        getattr(self, name)(subject)
        self.seen.append(name)

    def a_weight(self) -> torch.Tensor:
        return self.trainer.model.head.cls[0][2].weight

    def on_pretrain_routine_start(self, t):
        assert t.model is None and t.args.epochs == 2
        t.add_callback("on_train_start", lambda _: self.seen.append("added late, reached"))

    def on_pretrain_routine_end(self, t):
        assert all(p.device == t.device for p in t.model.parameters())
        assert (
            None not in (t.optimizer, t.scheduler, t.train_loader, t.validator, t.ema)
            and t.args.lr0 is not None
        )
        assert t.start_epoch == 0 and (t.save_dir / "args.yaml").is_file()

    def on_train_start(self, t):
        assert t.rows == [] and not t.last.exists()

    def on_train_epoch_start(self, t):
        assert t.epoch == self.seen.count("on_train_epoch_start") == len(t.rows)
        self.items = []

    def on_train_batch_start(self, t):
        assert t.batch_index == len(self.items) and len(t.batch["img"]) == 4

    def optimizer_step(self, t):
        gradients = [p.grad for p in t.model.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(
            torch.stack([torch.linalg.vector_norm(g) for g in gradients])
        )
        assert gradients and torch.isfinite(norm) and norm <= t.args.clip_norm * 1.001
        self.weight_before = self.a_weight().detach().clone()

    def on_before_zero_grad(self, t):
        assert (
            not torch.equal(self.a_weight(), self.weight_before)
            and self.a_weight().grad is not None
        )

    def on_train_batch_end(self, t):
        self.items.append(t.loss_items)
        assert (
            torch.isfinite(t.loss) and t.loss_items.shape == (3,) and self.a_weight().grad is None
        )
        assert torch.allclose(t.tloss, torch.stack(self.items).mean(0))

    def on_train_epoch_end(self, t):
        saved = load_checkpoint(t.last)
        assert saved.training["epoch"] == t.epoch and len(self.items) == len(t.train_loader)
        assert all(
            torch.equal(saved.model[name], tensor) for name, tensor in t.model.state_dict().items()
        )
        assert all(
            torch.equal(saved.ema[name], tensor)
            for name, tensor in t.ema.module.state_dict().items()
        )

    def on_val_start(self, v):
        assert v.loader is not None and v.images == 0 and not self.trainer.ema.module.training
        self.counted = 0

    def on_val_batch_start(self, v):
        assert len(v.batch["img"]) == 4 and v.images == self.counted

    def on_val_batch_end(self, v):
        self.counted += len(v.batch["img"])
        assert v.images == self.counted

    def on_val_end(self, v):
        assert set(v.metrics) >= {
            "metrics/precision",
            "metrics/recall",
            "metrics/mAP50",
            "metrics/mAP50-95",
        }

    def on_model_save(self, t):
        assert load_checkpoint(t.last).training["epoch"] == t.epoch
        assert json.loads(t.best.with_suffix(".json").read_text())["epoch"] == t.best_epoch
        if t.best_epoch == t.epoch + 1:
            weights = load_checkpoint(t.best).weights
            assert all(
                torch.equal(weights[name], tensor)
                for name, tensor in t.ema.module.state_dict().items()
            )

    def on_fit_epoch_end(self, t):
        assert t.metrics["epoch"] == t.epoch + 1 and t.fitness == t.metrics["metrics/mAP50-95"]
        assert [row["epoch"] for row in read_results(t.paths.results_csv)] == list(
            range(1, t.epoch + 2)
        )

    def on_final_eval_end(self, t):
        assert len(t.rows) == 2 and "epoch" not in t.metrics and "metrics/mAP50-95" in t.metrics

    def on_train_end(self, t):
        written = {path.name for path in t.save_dir.iterdir()}
        assert written >= {
            "results.csv",
            "results.png",
            "labels.png",
            "confusion_matrix.png",
            "PR_curve.png",
            "per_class.csv",
        }

    def teardown(self, t):
        assert t.stop_reason == "done"


def test_each_event_keeps_its_promise(tiny):
    trainer = DetectionTrainer(overrides=tiny(epochs=2, plots=True))
    witness = Witness(trainer)
    trainer.train()
    assert (
        set(TRAIN_EVENTS) - set(witness.seen) == {"on_params_update"}
        and "added late, reached" in witness.seen
    )


def test_the_promises_of_predictor_and_exporter(trained, squares, tmp_path):
    predictor = DetectionPredictor(
        {"model": str(trained.best), "batch": 3, "save": False, "verbose": False}
    )
    seen = []
    predictor.add_callback("on_predict_start", lambda p: seen.append(p.model.names))
    predictor.add_callback("on_predict_batch_start", lambda p: seen.append(len(p.batch)))
    predictor.add_callback(
        "on_predict_batch_end", lambda p: seen.append([r.source for r in p.results])
    )
    predictor.add_callback("on_predict_end", lambda p: seen.append((p.seen, len(p.skipped))))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.png").write_bytes((squares / "images" / "val" / f"val{i}.png").read_bytes())
    (folder / "2.png").write_bytes(b"no picture")
    predictor(folder)
    names = [str(folder / f"{i}.png") for i in (0, 1, 3)]
    assert [seen[0], seen[1], len(seen[2]), *seen[3:]] == [("red", "blue"), 3, 3, (3, 1)] and seen[
        2
    ] == names

    exporter = Exporter()
    exporter.add_callback("on_export_start", lambda e: seen.append((e.job.size, e.report)))
    exporter.add_callback("on_export_end", lambda e: seen.append(e.report.path.is_file()))
    exporter(trained.best, "safetensors", tmp_path)
    assert seen[-2:] == [((64, 64), None), True]


def test_params_changed_during_a_run_hold_from_then_on_and_say_so(tiny):
    trainer = DetectionTrainer(
        overrides=tiny(epochs=3, lr0=1e-3, schedule="constant", warmup_epochs=0)
    )
    seen = []

    def change(t):
        if t.epoch == 1:
            t.update_params(lr0=5e-4, box=0.0)

    trainer.add_callback("on_train_epoch_start", change)
    trainer.add_callback(
        "on_params_update", lambda t: seen.append((t.epoch, t.args.lr0, t.args.box))
    )
    trainer.train()
    assert seen == [(1, 5e-4, 0.0)]
    assert [row["lr/weight"] for row in trainer.rows] == [1e-3, 5e-4, 5e-4]
    assert [row["train/box_loss"] > 0 for row in trainer.rows] == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 1e-3}, r"'lr' cannot change during a run. Did you mean 'lr0'"),
        ({"epochs": 5}, "'epochs' cannot change during a run"),
        ({"lr0": -1}, "update_params: lr0: Input should be greater than 0"),
    ],
)
def test_params_that_cannot_change_are_refused(tiny, changes, said):
    trainer = DetectionTrainer(overrides=tiny())
    trainer.add_callback("on_params_update", lambda t: pytest.fail("nothing was changed"))
    with pytest.raises(ConfigError, match=said):
        trainer.update_params(**changes)


# Belonging ----------------------------------------------------------------------------------------


def test_nothing_leaks_between_two_trainers(tiny):
    one, two = (
        DetectionTrainer(overrides=tiny(name="one")),
        DetectionTrainer(overrides=tiny(name="two")),
    )
    heard = {"one": [], "two": []}
    listen(one, TRAIN_EVENTS, heard["one"])
    was = torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()
    two.train()
    assert heard["one"] == [] and one.model is None and not one.save_dir.exists()
    listen(two, ["on_train_start"], heard["two"])
    one.train()
    assert heard["one"].count("teardown") == 1 and heard["two"] == []
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_default_dtype()) == was
    assert (
        one.best.read_bytes() == two.best.read_bytes()
    )  # the first run left nothing that moves the second


def test_callbacks_of_the_validator_itself_are_called_in_training_too(tiny):
    seen = []

    class Trainer(DetectionTrainer):
        def get_validator(self):
            validator = super().get_validator()
            validator.add_callback("on_val_end", lambda v: seen.append(v.metrics["metrics/mAP50"]))
            return validator

    trainer = Trainer(overrides=tiny())
    trainer.add_callback(
        "on_val_end", lambda v: seen.append("the trainer's, after the validator's own")
    )
    trainer.train()
    assert [type(one) for one in seen] == [float, str] * 2


def test_set_callback_replaces_and_add_callback_adds(tiny):
    trainer, seen = DetectionTrainer(overrides=tiny()), []
    for word in ("first", "second"):
        trainer.add_callback("on_train_start", lambda _, word=word: seen.append(word))
    trainer.set_callback("on_train_end", lambda _: seen.append("replaced"))
    trainer.set_callback("on_train_end", lambda _: seen.append("last"))
    trainer.train()
    assert seen == ["first", "second", "last"]


@pytest.mark.parametrize(
    ("make", "wrong", "right"),
    [
        (DetectionTrainer, "on_train_epoch_ends", "on_train_epoch_end"),
        (DetectionValidator, "on_val_stop", "on_val_start"),
        (DetectionPredictor, "on_prediction_end", "on_predict_end"),
        (Exporter, "on_export_ends", "on_export_end"),
    ],
)
def test_an_unknown_event_is_refused_with_the_nearest_name(make, wrong, right):
    executor = make()
    for put in (executor.add_callback, executor.set_callback):
        with pytest.raises(ConfigError, match=f"unknown event '{wrong}'. Did you mean '{right}'"):
            put(wrong, print)


# The end ------------------------------------------------------------------------------------------


def test_ctrl_c_reaches_teardown_and_the_last_checkpoint_is_safe(tiny):
    trainer, ends = DetectionTrainer(overrides=tiny(epochs=3)), []
    trainer.add_callback("teardown", lambda t: ends.append(t.stop_reason))
    trainer.add_callback(
        "on_train_batch_end", lambda t: signal.raise_signal(signal.SIGINT) if t.epoch == 1 else None
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert ends == ["interrupted"] and load_checkpoint(trainer.last).training["epoch"] == 0


@pytest.mark.parametrize(
    "event", [name for name in TRAIN_EVENTS if name not in {"on_params_update", "teardown"}]
)
def test_an_exception_in_a_callback_ends_the_run_with_its_own_traceback(tiny, event):
    trainer, ends = DetectionTrainer(overrides=tiny()), []

    def fail(_):
        raise ZeroDivisionError(f"a mistake at {event}")

    trainer.add_callback(event, fail)
    trainer.add_callback("teardown", lambda t: ends.append((t.stop_reason, t.last.exists())))
    with pytest.raises(ZeroDivisionError, match=f"a mistake at {event}") as caught:
        trainer.train()
    assert caught.traceback[-1].name == "fail"
    order = list(TRAIN_EVENTS)
    assert ends == [("exception", order.index(event) >= order.index("on_train_epoch_end"))]


def test_a_run_that_a_callback_stops_says_stopped(tiny):
    trainer, ends = DetectionTrainer(overrides=tiny(epochs=5)), []
    trainer.add_callback("on_fit_epoch_end", lambda t: setattr(t, "stop", t.epoch == 1))
    trainer.add_callback("teardown", lambda t: ends.append(t.stop_reason))
    result = trainer.train()
    assert ends == [result.stop_reason] == ["stopped"] and result.epochs == 2


def test_a_run_that_never_begins_is_torn_down_too(tiny, tmp_path):
    from engine.errors import EngineError

    trainer, ends = DetectionTrainer(overrides=tiny(data=str(tmp_path / "nowhere"))), []
    trainer.add_callback("teardown", lambda t: ends.append(t.stop_reason))
    with pytest.raises(EngineError, match="nowhere"):
        trainer.train()
    assert ends == ["exception"]
