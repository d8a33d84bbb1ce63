"""Gate: only metrics of the same classes, measured on the same images, compare.

With a test split that has grown, the champion stays, and the reason says what to do: measure it on
today's images, or move the alias by hand. A training split that has grown does not matter.
"""

from __future__ import annotations

from engine.registry.gates.verdict import Measured, Verdict, by_hand, is_known


def is_comparable(candidate: Measured, champion: Measured | None) -> Verdict:
    """Candidate and champion were measured by the same metric, on the same images, for the same
    classes.
    """
    obstacle = "" if champion is None else _obstacle(candidate, champion)
    if obstacle:
        return Verdict(False, f"held: champion {champion.name} {obstacle}. {by_hand(candidate)}")
    return Verdict(True)


def _obstacle(candidate: Measured, champion: Measured) -> str:
    """Why the two values say nothing about each other; empty where they do."""
    if candidate.class_hash != champion.class_hash and candidate.class_hash and champion.class_hash:
        return "knows other classes"
    if candidate.metric != champion.metric:
        return f"was measured by {champion.metric or 'nothing'}, this one by {candidate.metric}"
    if not is_known(champion.value):
        return f"has no known {champion.metric}"
    if candidate.split != champion.split:
        return f"was measured on {champion.split}, this one on {candidate.split}"
    if not candidate.data_digest or candidate.data_digest != champion.data_digest:
        return (
            f"was measured on other {champion.split} images, so its {champion.value:.4f} and this "
            f"one's {candidate.value:.4f} do not compare"
        )
    return ""
