"""Gate: non-inferiority. The candidate may be a little worse by chance, not by more than a
margin.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from engine.gates.advice import further_images
from engine.gates.evidence import Evidence, interval_text
from engine.gates.gate import Finding, Gate


class NotWorse(Gate):
    """The candidate is not worse than the champion by more than `margin`: the whole 95 % interval
    of the difference lies above -margin.
    """

    name: ClassVar[str] = "not_worse"
    margin: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="loss of the mean metric that is allowed; 0.02: 2 points of AP",
    )

    def ask(self, evidence: Evidence) -> Finding:
        if evidence.is_first:
            return self.passes("there is no champion to be worse than")
        mean, text = evidence.mean, f"{evidence.mean.metric} {interval_text(evidence.mean)}"
        allowed = f"the margin of {100 * self.margin:g} points"
        if mean.low is None or mean.high is None:
            return self.holds(text, further_images(evidence, -self.margin))
        if mean.low > -self.margin:
            return self.passes(f"not worse by more than {allowed}: {text}")
        if mean.high < -self.margin:
            return self.rejects(f"worse by more than {allowed}: {text}")
        return self.holds(
            f"may be worse by more than {allowed}: {text}", further_images(evidence, -self.margin)
        )
