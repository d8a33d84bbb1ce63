"""Learning rate, momentum and accumulation as plain functions of the iteration. Nothing here has
state.

An iteration is one batch; warm-up per 4. of the detector notes, cosine per 1608.03983.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


def lerp(start: float, end: float, fraction: float) -> float:
    """Linear from `start` at 0 to `end` at 1, held outside."""
    return start + (end - start) * min(max(fraction, 0.0), 1.0)


def decay_factor(shape: str, progress: float, final: float) -> float:
    """Factor on the peak rate after a fraction `progress` of the run, from 1 to `final`. Shapes:
    cosine, linear, constant.
    """
    fraction = min(max(progress, 0.0), 1.0)
    if shape == "cosine":
        return final + (1 - final) * (1 + math.cos(math.pi * fraction)) / 2
    if shape == "linear":
        return final + (1 - final) * (1 - fraction)
    return 1.0


def planned_warmup(asked_epochs: float | None, epochs: int, iterations_per_epoch: int) -> int:
    """Iterations of warm-up: as asked, else max(3 epochs, 100) but at most a tenth of the run.

    The cap is what lets a run of a few hundred iterations learn: a fixed 100 would be a third of
    it.
    """
    total = epochs * iterations_per_epoch
    if asked_epochs is not None:
        return min(round(asked_epochs * iterations_per_epoch), total)
    return min(max(3 * iterations_per_epoch, 100), max(1, total // 10))


@dataclass(frozen=True)
class Schedule:
    """Learning rate, momentum and accumulation: all that depends on the iteration alone."""

    total: int  # iterations of the run
    warmup: int  # iterations
    shape: str
    final: float
    accumulate: int  # batches per optimizer step after warm-up
    warmup_bias_lr: float  # absolute
    warmup_momentum: float
    momentum: float

    def lr(self, iteration: int, peak: float, is_bias: bool = False) -> float:
        """Rate of one parameter group with peak rate `peak`."""
        target = peak * decay_factor(self.shape, iteration / max(self.total, 1), self.final)
        if iteration >= self.warmup:
            return target
        return lerp(
            self.warmup_bias_lr if is_bias else 0.0, target, (iteration + 1) / (self.warmup + 1)
        )

    def momentum_at(self, iteration: int) -> float:
        """Momentum: linear through warm-up, then constant."""
        if iteration >= self.warmup:
            return self.momentum
        return lerp(self.warmup_momentum, self.momentum, iteration / self.warmup)

    def accumulate_at(self, iteration: int) -> int:
        """Batches per optimizer step: 1 growing to `accumulate` through warm-up."""
        if iteration >= self.warmup:
            return self.accumulate
        return max(1, round(lerp(1, self.accumulate, iteration / self.warmup)))

    def optimizer_steps(self, per_epoch: int) -> int:
        """How many optimizer steps the run will make: what EMA scales to."""
        steps = since = 0
        for iteration in range(self.total):
            since += 1
            if since >= self.accumulate_at(iteration) or (iteration + 1) % per_epoch == 0:
                steps, since = steps + 1, 0
        return steps
