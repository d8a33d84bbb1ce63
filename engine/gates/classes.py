"""Gate: a class that the champion knows does not go away unnoticed."""

from __future__ import annotations

from typing import ClassVar

from engine.gates.evidence import Evidence, counted
from engine.gates.gate import Finding, Gate


class Classes(Gate):
    """Both models know some class, and none that the champion knows is missing, unless a person
    says yes. Always asked first.
    """

    name: ClassVar[str] = "classes"

    def ask(self, evidence: Evidence) -> Finding:
        if evidence.is_first:
            return self.passes("there is no champion whose classes could be lost")
        new = f"; new: {', '.join(evidence.new_classes)}" if evidence.new_classes else ""
        if not evidence.classes:
            return self.holds(
                f"{evidence.champion.name} knows none of the candidate's classes, so nothing can "
                "be compared",
                "Give a dataset of other classes a registered name of its own: register.model.",
            )
        if evidence.lost_classes and not evidence.approved_by:
            return self.asks(
                f"{evidence.champion.name} also knows {', '.join(evidence.lost_classes)}; with the "
                f"candidate they are gone{new}",
                f"Say yes if that is meant: `detectflow approve {evidence.candidate.name}`.",
            )
        gone = (
            f"; gone, approved by {evidence.approved_by}: {', '.join(evidence.lost_classes)}"
            if evidence.lost_classes
            else ""
        )
        return self.passes(f"compared on {counted(len(evidence.classes), 'classes')}{new}{gone}")
