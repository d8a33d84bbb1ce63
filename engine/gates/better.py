"""Gate: superiority. The candidate is better than the champion beyond chance."""

from __future__ import annotations

from typing import ClassVar

from engine.gates.advice import further_images
from engine.gates.evidence import Evidence, interval_text
from engine.gates.gate import Finding, Gate


class Better(Gate):
    """The candidate is better than the champion: the whole 95 % interval of the difference lies
    above 0.
    """

    name: ClassVar[str] = "better"

    def ask(self, evidence: Evidence) -> Finding:
        if evidence.is_first:
            return self.passes("there is no champion to be better than")
        mean, text = evidence.mean, f"{evidence.mean.metric} {interval_text(evidence.mean)}"
        if mean.low is None or mean.high is None:
            return self.holds(text, further_images(evidence, 0.0))
        if mean.low > 0:
            return self.passes(f"better: {text}")
        if mean.high < 0:
            return self.rejects(f"worse: {text}")
        return self.holds(f"not proven better: {text}", further_images(evidence, 0.0))
