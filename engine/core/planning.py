"""What a run decides itself, from its length: optimizer, accumulation, learning rate. A given value
is never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.config.train import TrainConfig
from engine.core.optim import choose_optimizer

NOMINAL_BATCH = 64  # images
# below so many iterations accumulating to the nominal batch starves the optimizer
STEPS_TO_SPARE = 4000


@dataclass(frozen=True)
class Plan:
    """The automatic settings, decided, and what follows from them."""

    optimizer: str
    nbs: int  # nominal batch, images
    lr0: float
    accumulate: int  # batches per optimizer step, after warm-up
    weight_decay: float  # scaled to the images of an optimizer step


def make_plan(
    config: TrainConfig, batch: int, per_epoch: int, default_lr: Callable[[str], float]
) -> Plan:
    """batch: images per iteration; per_epoch: iterations; default_lr: peak rate by optimizer."""
    iterations = config.epochs * per_epoch
    optimizer = choose_optimizer(config.optimizer, iterations)
    nbs = (
        config.nbs
        if config.nbs is not None
        else (NOMINAL_BATCH if iterations >= STEPS_TO_SPARE else batch)
    )
    accumulate = max(round(nbs / batch), 1)
    lr0 = config.lr0 if config.lr0 is not None else default_lr(optimizer)
    return Plan(optimizer, nbs, lr0, accumulate, config.weight_decay * batch * accumulate / nbs)
