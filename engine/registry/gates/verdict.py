"""What gates compare and answer: values, and the text they have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """What was measured of one model. Larger values are better."""

    metric: str  # for example metrics/mAP50-95
    value: float | None
    split: str  # images it was measured on: train, val or test
    data_digest: str  # of that split's images and boxes
    class_hash: str = ""  # of the class names, in order
    weights_sha256: str = ""
    version: str = ""  # in the registry, for the reason; empty: not registered yet
    # of a champion: what it was promoted with; `value` may have been measured since
    promoted_value: float | None = None

    @property
    def text(self) -> str:
        """`metrics/mAP50-95 0.5100 on test`."""
        return f"{self.metric} {number_text(self.value)} on {self.split}"

    @property
    def name(self) -> str:
        return f"version {self.version}" if self.version else "the new version"


@dataclass(frozen=True)
class Verdict:
    """What one gate says. The reason of a gate that passes may be empty; of those that are not, the
    last one is reported.
    """

    passed: bool
    reason: str = ""


def is_known(value: float | None) -> bool:
    """Whether something was measured: a finite number."""
    return value is not None and math.isfinite(value)


def number_text(value: float | None) -> str:
    """`0.5100`, or that it is not known."""
    return f"{value:.4f}" if is_known(value) else "not known"


def by_hand(candidate: Measured) -> str:
    """How people promote a candidate that a gate holds."""
    return (
        f"To promote it all the same, give {candidate.name} the alias 'champion' in the MLflow UI."
    )
