"""Gate: the file that production loads does not grow."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from engine.gates.evidence import Evidence
from engine.gates.gate import Finding, Gate


class Size(Gate):
    """The exported file is at most `ratio` times as large as the champion's."""

    name: ClassVar[str] = "size"
    ratio: float = Field(1.1, gt=0, description="largest file size, relative to the champion's")

    def ask(self, evidence: Evidence) -> Finding:
        old = evidence.champion.bytes if evidence.champion is not None else None
        new = evidence.candidate.bytes
        if not old or not new:
            return self.passes("there is no champion's file to compare with")
        said = f"{new / 1e6:.1f} MB, {new / old:.2f} times the champion's {old / 1e6:.1f} MB"
        if new > self.ratio * old:
            return self.rejects(f"{said}; at most {self.ratio:g} times is allowed")
        return self.passes(said)
