"""Gate: enough test images, and enough boxes of each class, to say anything; and a floor that the
first champion has to reach.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from engine.gates.evidence import Evidence, counted
from engine.gates.gate import Finding, Gate


class MinTest(Gate):
    """Enough test images and boxes of each class; a first champion also needs a metric above a
    floor.
    """

    name: ClassVar[str] = "min_test"
    images: int = Field(20, ge=1, description="test images, or groups of them, that are needed")
    boxes: int = Field(10, ge=0, description="boxes of each class that are needed")
    floor: float = Field(
        0.1, ge=0, lt=1, description="the metric that a first champion has to reach"
    )

    def ask(self, evidence: Evidence) -> Finding:
        mean = evidence.mean
        rows = [
            {"class": each.of, "boxes": each.boxes, "images": each.images}
            for each in sorted(evidence.classes, key=lambda each: each.boxes)
            if each.boxes < self.boxes
        ]
        lacks = []
        if evidence.groups < self.images:
            lacks.append(f"{counted(evidence.groups, evidence.unit)} of {self.images}")
        if rows:
            lacks.append(
                f"fewer than {counted(self.boxes, 'boxes')} of "
                + ", ".join(f"{row['class']} ({row['boxes']})" for row in rows[:5])
                + (f" and {counted(len(rows) - 5, 'classes')} more" if len(rows) > 5 else "")
            )
        if lacks:
            return self.holds(
                f"too few {evidence.split} images to judge by: {'; '.join(lacks)}",
                _advice(self, evidence, rows),
                rows,
            )
        if evidence.is_first and mean.b is not None and mean.b < self.floor:
            return self.rejects(
                f"{mean.metric} {mean.b:.3f} is below the floor of {self.floor:g} for a first "
                "champion",
                "Train longer, or see the curves in reports/train and the labels by "
                "`detectflow check`.",
            )
        enough = (
            f"{counted(evidence.images, f'{evidence.split} images')}, at least "
            f"{counted(self.boxes, 'boxes')} of each class"
        )
        if evidence.is_first and mean.b is not None:
            enough += f"; {mean.metric} {mean.b:.3f} reaches the floor of {self.floor:g}"
        return self.passes(enough)


def _advice(gate: MinTest, evidence: Evidence, rows: list[dict]) -> str:
    wanted = []
    if evidence.groups < gate.images:
        wanted.append(counted(gate.images - evidence.groups, f"further {evidence.unit}"))
    if rows:
        wanted.append(
            "images with "
            + ", ".join(f"{gate.boxes - row['boxes']} {row['class']}" for row in rows[:5])
        )
    return f"Add to the {evidence.split} split: {'; '.join(wanted)}."
