"""Exponential moving average of a model's weights; what is validated and saved as best.

d(k) = decay * (1 - exp(-k / tau)), k the optimizer step. With the usual tau of 2000 a run of a few
hundred steps would be measured on weights that hardly left their start, so tau scales with the
planned steps unless it is given.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

LONGEST_TAU = 2000.0


def planned_tau(steps: int) -> float:
    """A quarter of the planned optimizer steps, at most 2000: at the end the average spans about
    the last fiftieth.
    """
    return min(LONGEST_TAU, max(1.0, steps / 4))


class ModelEMA:
    """Float32 average over parameters and float buffers; integer buffers are copied."""

    def __init__(self, model: nn.Module, decay: float, tau: float, updates: int = 0):
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.tau, self.updates = decay, tau, updates

    def factor(self, k: int) -> float:
        """Weight of the past at update k."""
        return self.decay * (1 - math.exp(-k / self.tau))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Count one optimizer step in."""
        self.updates += 1
        weight = 1 - self.factor(self.updates)
        averaged, current = [], []
        for mine, theirs in zip(
            self.module.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if mine.dtype.is_floating_point:
                averaged.append(mine)
                current.append(theirs.detach().to(mine.dtype))
            else:
                mine.copy_(theirs)
        torch._foreach_lerp_(averaged, current, weight)
