"""Gate: production does not get slower."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from engine.gates.evidence import Evidence
from engine.gates.gate import Finding, Gate


class Latency(Gate):
    """The exported file takes at most `ratio` times as long for an image as the champion's, both
    measured in turns on this machine.
    """

    name: ClassVar[str] = "latency"
    passing: ClassVar[bool] = True  # a busy machine is no property of the model
    ratio: float = Field(1.2, gt=0, description="longest time, relative to the champion's")

    def ask(self, evidence: Evidence) -> Finding:
        measured = evidence.latency
        if evidence.is_first:
            return self.passes("there is no champion to be slower than")
        if measured is None or not measured.a or measured.b is None or measured.high is None:
            return self.holds("only model files can be timed, and one of the two is none", "")
        said = (
            f"{measured.b:.1f} ms an image, {measured.b / measured.a:.2f} times the champion's "
            f"{measured.a:.1f} ms on this machine"
        )
        allowed = (self.ratio - 1) * measured.a  # milliseconds more
        if measured.low is not None and measured.low > allowed:
            return self.rejects(f"{said}; at most {self.ratio:g} times is allowed")
        if measured.high > allowed:
            return self.holds(
                f"{said}, not surely within {self.ratio:g} times",
                "Run it again while nothing else runs on this machine.",
            )
        return self.passes(said)
