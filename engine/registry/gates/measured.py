"""Gate: a model with metric 0, or that could not be measured, is never promoted, even when there is
no champion.
"""

from __future__ import annotations

from engine.registry.gates.verdict import Measured, Verdict, is_known


def is_measured(candidate: Measured, champion: Measured | None) -> Verdict:
    """The candidate's metric is known and above 0."""
    if not is_known(candidate.value):
        return Verdict(
            False,
            f"{candidate.text}: a model that could not be measured is never promoted. Does the "
            f"{candidate.split} split hold objects to find? reports/data.json counts them",
        )
    if candidate.value <= 0:
        return Verdict(
            False,
            f"{candidate.text}: a model with metric 0 is never promoted. Train it longer, or "
            "check the curves in reports/train",
        )
    return Verdict(True)
