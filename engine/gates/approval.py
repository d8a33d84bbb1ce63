"""Gate: a person says yes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from engine.gates.evidence import Evidence
from engine.gates.gate import Finding, Gate


class Approval(Gate):
    """A person has said yes to this version: `detectflow approve`, or in Prefect where the run of a
    deployment waits for it.
    """

    name: ClassVar[str] = "approval"
    suspend: bool = Field(
        True,
        description="where a run of a Prefect deployment lacks only the yes: suspend it until "
        "somebody answers there; off: it ends, and the version waits for `detectflow approve`",
    )

    def ask(self, evidence: Evidence) -> Finding:
        if evidence.approved_by:
            return self.passes(f"approved by {evidence.approved_by}")
        return self.asks(
            "nobody has approved it yet",
            f"A person decides: `detectflow approve {evidence.candidate.name}`.",
        )
