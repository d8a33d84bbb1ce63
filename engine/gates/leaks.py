"""Gate: test images that a model has seen in training prove nothing."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from engine.gates.evidence import Evidence, counted
from engine.gates.gate import VERSION, Finding, Gate


class Leaks(Gate):
    """Test images of which a copy was trained on are left out; enough must remain."""

    name: ClassVar[str] = "leaks"
    images: int = Field(20, ge=1, description="test images, or groups of them, that must remain")

    def ask(self, evidence: Evidence) -> Finding:
        left_out = {reason: count for reason, count in evidence.left_out.items() if count}
        rows = [{"reason": reason, "images": count} for reason, count in left_out.items()]
        if not evidence.searched:
            return self.holds(
                f"copies of {evidence.split} images in train have not been looked for",
                "Prepare the dataset again: `dvc repro --force prepare`.",
            )
        unknown = " and ".join(evidence.unrecorded)
        not_known = f"; the training images of {unknown} are not recorded" if unknown else ""
        own = evidence.candidate.name
        if own in evidence.unrecorded and VERSION.search(own):
            return self.holds(
                f"{own} may have been trained on {evidence.split} images: its training images are "
                "not recorded",
                "Train it again, which records them: `detectflow run`.",
            )
        if not left_out:
            return self.passes(
                f"no {evidence.split} image has a copy among the training images{not_known}"
            )
        text = ", ".join(f"{count} ({reason})" for reason, count in left_out.items())
        remain = "remains" if evidence.groups == 1 else "remain"
        said = f"{evidence.split} images left out: {text}; "
        said += f"{counted(evidence.groups, evidence.unit)} {remain}{not_known}"
        if evidence.groups < self.images:
            return self.holds(
                f"{said}, {self.images} {'is' if self.images == 1 else 'are'} needed",
                f"Remove the copies from train, or add new images to the {evidence.split} split. "
                "`detectflow check` lists the pairs.",
                rows,
            )
        return self.passes(said, rows)
