"""What gates compute of a difference: p values, corrected for their number, and how many more
images would do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from engine.difference import LEVEL, Difference


def p_worse_than(difference: Difference, margin: float) -> float:
    """One-sided p value of "not worse by `margin`": small where it is worse by more. By Student's
    t, whose tail does not end where the number of draws does.
    """
    from scipy.stats import t

    if difference.value is None or difference.error is None or difference.groups < 2:
        return 1.0
    distance = difference.value + margin
    if difference.error == 0:
        return 0.0 if distance < 0 else 1.0
    return float(t.cdf(distance / difference.error, difference.groups - 1))


def groups_to_settle(difference: Difference, threshold: float) -> int | None:
    """How many groups (images where none are grouped) a test split needs, in all, for the interval
    to leave `threshold`, if the difference stays what it is; None where no number would do.
    """
    from scipy.stats import norm

    value, error = difference.value, difference.error
    if value is None or not error or math.isclose(value, threshold):
        return None
    width = norm.ppf((1 + LEVEL) / 2) * error
    return math.ceil(difference.groups * (width / abs(value - threshold)) ** 2)


def holm(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Which of several hypotheses are rejected when all errors together stay below `alpha`.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure (1979).
    """
    rejected = [False] * len(p_values)
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[i] > alpha / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """The p values to compare with `alpha` itself: those that are not above it are the hypotheses
    that `holm` rejects.
    """
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = highest
    return adjusted
