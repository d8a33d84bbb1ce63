"""Gate: there is something to decide on."""

from __future__ import annotations

from typing import ClassVar

from engine.gates.evidence import Evidence, counted
from engine.gates.gate import Finding, Gate


class Measured(Gate):
    """The test images have boxes to find, and a champion that somebody took away in MLflow is
    replaced by a person. Always asked first.
    """

    name: ClassVar[str] = "measured"

    def ask(self, evidence: Evidence) -> Finding:
        name = evidence.candidate.name
        if evidence.mean.b is None:
            return self.holds(
                f"the {evidence.split} images that count have no box to find: nothing was measured",
                f"Add labelled images to the {evidence.split} split.",
            )
        if not evidence.vacant:
            images = counted(evidence.images, f"{evidence.split} images")
            return self.passes(f"{images} with boxes to find")
        by = evidence.champion
        instead = (
            f"it was compared with {by.name}, the one before"
            if by is not None
            else "there is none before to be compared with"
        )
        if evidence.approved_by:
            return self.passes(f"{evidence.vacant}; {instead}; approved by {evidence.approved_by}")
        return self.asks(
            f"{evidence.vacant}, so that nobody is champion; {instead}",
            f"A person decides who is next: `detectflow approve {name}`, or the champion before by "
            "`detectflow rollback`.",
        )
