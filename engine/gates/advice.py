"""How a decision that is open could be settled."""

from __future__ import annotations

from engine.gates.evidence import Evidence, counted
from engine.gates.statistics import groups_to_settle

MOST = 100_000  # images; beyond, nobody will label them


def further_images(evidence: Evidence, threshold: float) -> str:
    """How many further test images would settle whether the difference lies above `threshold`, and
    which classes need them most: those whose own difference is least certain.
    """
    needed = groups_to_settle(evidence.mean, threshold)
    unsure = sorted(evidence.classes, key=lambda each: each.error or 0.0, reverse=True)
    most = ", ".join(f"{e.of} ({counted(e.boxes, 'boxes')})" for e in unsure[:3] if e.error)
    classes = f" Needed most: {most}." if most and len(evidence.classes) > 1 else ""
    if not evidence.mean.error:
        least = f"There are too few {evidence.unit} to say how many would settle it."
        return f"{least} Add some to the {evidence.split} split.{classes}"
    if needed is None or needed > MOST:
        return f"The two are too close for any reasonable number of test images.{classes}"
    if needed <= evidence.groups:  # at the edge of the interval
        needed = evidence.groups + 1
    return (
        f"If the difference stays what it is, {needed} {evidence.unit} in all would settle it: "
        f"{needed - evidence.groups} more in the {evidence.split} split.{classes}"
    )
