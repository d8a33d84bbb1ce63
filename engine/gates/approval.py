"""Gate: a person says yes."""

from __future__ import annotations

from typing import ClassVar

from engine.gates.evidence import Evidence
from engine.gates.gate import Finding, Gate


class Approval(Gate):
    """A person has said yes to this version: `detectflow approve`."""

    name: ClassVar[str] = "approval"

    def ask(self, evidence: Evidence) -> Finding:
        if evidence.approved_by:
            return self.passes(f"approved by {evidence.approved_by}")
        return self.holds(
            "nobody has approved it yet",
            f"A person decides: `detectflow approve {evidence.candidate.name}`.",
        )
