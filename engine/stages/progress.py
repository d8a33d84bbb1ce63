"""How far a stage is, in plain values for whoever shows it. Nothing here alters a result."""

from __future__ import annotations

from typing import Any


def epoch_progress(trainer: Any) -> dict[str, Any]:
    """One epoch of a training."""
    done = trainer.epoch + 1
    # both count the epochs before a resume too
    left = trainer.elapsed_s() / done * (trainer.args.epochs - done)
    metrics = {
        key: float(value)
        for key, value in trainer.metrics.items()
        if isinstance(value, (int, float))
    }
    shown = {"left_s": round(left, 1), "metrics": metrics}
    return step_progress("train", done, trainer.args.epochs) | shown


def step_progress(stage: str, done: int, total: int) -> dict[str, Any]:
    """So many of the parts of a stage."""
    return {"stage": stage, "done": done, "total": total, "metrics": {}}
