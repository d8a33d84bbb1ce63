"""A user's script: several trainings one after another, started by `torchrun together.py OUT` or by
`python` alone.

Each process writes what it saw to OUT/rank<N>.pt. Under `python` OUT is another folder; the test
compares them.
"""

import contextlib
import os
import sys
from pathlib import Path

import torch
from ddp_toys import Classifier, settings

from engine.core.distributed import world_from_environment
from engine.core.events import TRAIN_EVENTS
from engine.detect import DetectionTrainer, DetectionValidator
from engine.errors import EngineError

OUT = Path(sys.argv[1])
written: list[str] = []


def note_writes(event, args):
    if (
        event == "open"
        and isinstance(args[0], (str, os.PathLike))
        and args[2] & (os.O_WRONLY | os.O_RDWR)
    ):
        written.append(os.fspath(args[0]))
    elif event in {"os.mkdir", "os.rename", "os.link"}:
        written.append(os.fspath(args[0]))


@contextlib.contextmanager
def double_precision():
    """float32 rounding is amplified by training a hundred thousand times within an epoch; what is
    left in float64 is a fault.
    """
    narrow, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = narrow


class PreciseTrainer(DetectionTrainer):
    def get_model(self, cfg, weights):
        return super().get_model(cfg, weights).double()

    def forward(self, model, batch):
        return model(batch["img"].double())


def detector(data, **changes):
    """Losses of each step, images of each step on this rank, rows of results.csv, final weights and
    metrics.
    """
    trainer = PreciseTrainer(
        overrides={
            "data": str(data),
            "imgsz": 64,
            "batch": 4,
            "epochs": 2,
            "optimizer": "SGD",
            "lr0": 0.01,
            "device": "cpu",
            "plots": False,
            "project": str(OUT / "runs"),
            "name": "detector",
            "verbose": False,
            "multi_scale": 0.3,
            **changes,
        }
    )
    steps, names = [], []
    trainer.add_callback(
        "on_train_batch_end",
        lambda t: steps.append(t.world.sum(t.loss_items).div(t.world.size).tolist()),
    )
    trainer.add_callback(
        "on_train_batch_start", lambda t: names.append(sorted(t.batch_names(t.batch)))
    )
    with double_precision():
        result = trainer.train()
    return {
        "steps": steps,
        "names": names,
        "rows": trainer.rows,
        "metrics": result.metrics,
        "weights": trainer.model.state_dict(),
        "ema": trainer.ema.module.state_dict(),
    }


def validated(weights, data, split):
    """All metrics and the table of images of a detector on a split."""
    validator = DetectionValidator(
        overrides={"split": split, "batch": 3, "device": "cpu", "plots": False}
    )
    metrics = validator(model=weights, data=data)
    table = [
        {key: value for key, value in row.items() if key != "file"}
        for row in validator.scores.per_image
    ]
    return {"metrics": metrics, "images": validator.images, "per_image": table}


class Spare(torch.nn.Module):
    """A network with a layer that takes part in nothing."""

    def __init__(self, used):
        super().__init__()
        self.used, self.spare = used, torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


class PartlyUsed(Classifier):
    find_unused_parameters = True

    def get_model(self, cfg, weights):
        return Spare(super().get_model(cfg, weights))


def classifier(name, callbacks=(), trainer_class=Classifier, **changes):
    trainer = trainer_class(overrides=settings(OUT / "runs", name=name, **changes))
    for event, callback in callbacks:
        trainer.add_callback(event, callback)
    trainer.train()
    return trainer


def interrupted(name, **changes):
    """Cut in the middle of the third epoch, on every rank, then resumed in the same processes."""

    def cut(trainer):
        if trainer.epoch == 2 and trainer.batch_index == 1:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        classifier(name, [("on_train_batch_end", cut)], **changes)
    return classifier(name, resume=True, **changes)


def one_fails(name):
    """An error on rank 1 alone; what the other processes raise."""

    def fail(trainer):
        if trainer.world.rank == trainer.world.size - 1:
            raise EngineError("only here")

    try:
        classifier(name, [("on_train_epoch_end", fail)])
    except EngineError as error:
        return type(error).__name__, str(error), error.exit_code
    return None


def stop(trainer):
    trainer.stop = trainer.stop or (
        trainer.epoch == 1 and trainer.world.rank == trainer.world.size - 1
    )


def main():
    world = world_from_environment()
    sys.addaudithook(note_writes)
    seen = []
    all_events = [(name, lambda _, name=name: seen.append(name)) for name in TRAIN_EVENTS]
    found = {"events": (classifier("events", all_events, epochs=2).epoch, seen)}
    found["linear"] = [classifier("linear").model.state_dict(), classifier("half", epochs=4).rows]
    classifier("dropout", model="dropout")
    found["resumed"] = interrupted("resumed", model="dropout").rows
    found["left_out"] = classifier(
        "left_out", trainer_class=PartlyUsed, epochs=2
    ).model.state_dict()
    found["one_fails"] = one_fails("one_fails")
    stopped = classifier("stopped", [("on_fit_epoch_end", stop)])
    found["stopped"] = (stopped.epoch, stopped.stop_reason)
    found["seen"] = sorted(stopped.validator.seen)
    found["written"] = [path for path in written if path.startswith(str(OUT))]
    found["detector"] = detector(OUT.parent / "digits.yaml")
    found["ap"] = {
        split: validated(OUT.parent / "random.pt", OUT.parent / "digits.yaml", split)
        for split in ("val", "test")
    }
    torch.save(found, OUT / f"rank{world.rank}.pt")


if __name__ == "__main__":
    main()
