"""How much better one model is than another by one metric, and how sure that is: what a comparison
finds and gates ask. Values only; `engine.metrics.paired` computes them.
"""

from __future__ import annotations

from dataclasses import dataclass

LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Difference:
    """Of one metric, model `b` minus model `a`. None: nothing to find, so nothing to say."""

    metric: str  # AP50-95 or AP50
    of: str  # a class, or "" for the mean over classes
    boxes: int  # to find
    images: int  # that hold any of them
    a: float | None
    b: float | None
    low: float | None = None  # of the 95 % interval of the difference
    high: float | None = None
    plain_low: float | None = None  # the same by plain percentiles
    plain_high: float | None = None
    better: float | None = None  # share of draws in which b is better; equal ones count half
    error: float | None = None  # standard error
    groups: int = 0  # that were drawn

    @property
    def value(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a
