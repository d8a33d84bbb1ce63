"""Gate: no class pays for the mean."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from engine.difference import LEVEL
from engine.gates.evidence import Evidence, interval_text
from engine.gates.gate import Finding, Gate
from engine.gates.statistics import holm, p_worse_than


class PerClass(Gate):
    """No class is significantly worse than the champion's by more than `margin` (Holm-corrected for
    the number of classes).
    """

    name: ClassVar[str] = "per_class"
    margin: float = Field(
        0.05, ge=0, lt=1, description="loss of a class that is allowed; 0.05: 5 points of AP"
    )

    def ask(self, evidence: Evidence) -> Finding:
        if evidence.is_first:
            return self.passes("there is no champion to compare classes with")
        compared = [each for each in evidence.classes if each.value is not None]
        values = [p_worse_than(each, self.margin) for each in compared]
        worse = [
            (each, p)
            for each, p, is_worse in zip(compared, values, holm(values, (1 - LEVEL) / 2))
            if is_worse
        ]
        if not worse:
            lowest = min(compared, key=lambda each: each.value or 0.0, default=None)
            seen = f"; the lowest is {lowest.of}: {interval_text(lowest)}" if lowest else ""
            return self.passes(
                f"no class is significantly worse by more than {100 * self.margin:g} points{seen}"
            )
        worse.sort(key=lambda pair: pair[0].value or 0.0)
        return self.rejects(
            f"worse by more than {100 * self.margin:g} points: "
            + "; ".join(f"{each.of} {interval_text(each)}" for each, _ in worse),
            "See the images that were lost: `detectflow compare`. Add training images of "
            + ", ".join(each.of for each, _ in worse)
            + ".",
            [{"class": each.of, "difference": each.value, "p": p} for each, p in worse],
        )
