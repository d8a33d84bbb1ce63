"""Who is champion: one pure function over the figures of two models. Knows no registry.

The champion is what production loads, so it changes only for a reason that can be stated. Figures measured on different
images do not compare: with a test split that has grown, the champion stays, and the reason says what to do (measure it
on today's images, or move the alias by hand). A training split that has grown does not matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """What is known of one model's worth. Larger values are better."""

    metric: str  # for example metrics/mAP50-95
    value: float | None
    split: str  # images it was measured on: train, val or test
    data_digest: str  # of that split's images and boxes
    class_hash: str = ""  # of the class names, in order
    weights_sha256: str = ""
    version: str = ""  # in the registry, for the reason; empty: not registered yet


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, and why, as a sentence for people."""

    promote: bool
    reason: str


def decide(candidate: Figures, champion: Figures | None) -> Decision:
    """Compare a candidate with the champion in office; without one, any candidate that was measured is promoted."""
    if candidate.value is None or math.isnan(candidate.value):
        return Decision(False, f"the candidate's {candidate.metric} is not known")
    measured = f"{candidate.metric} {candidate.value:.4f} on {candidate.split}"
    if champion is None:
        return Decision(True, f"{measured}; there was no champion")
    if candidate.version and candidate.version == champion.version:
        return Decision(True, f"{measured}; it is champion already")
    against = f"champion version {champion.version}"
    if obstacle := _obstacle(candidate, champion, against):
        return Decision(False, f"held: {obstacle}. {_by_hand(candidate)}")
    if candidate.value > champion.value:
        return Decision(True, f"{measured}, better than {against} ({champion.value:.4f})")
    if candidate.weights_sha256 and candidate.weights_sha256 == champion.weights_sha256:
        return Decision(False, f"{measured}; the weights of {against}, exported anew. {_by_hand(candidate)}")
    return Decision(False, f"{measured}, not better than {against} ({champion.value:.4f})")


def _obstacle(candidate: Figures, champion: Figures, against: str) -> str:
    """Why the two figures say nothing about each other; empty where they do."""
    if candidate.class_hash != champion.class_hash and candidate.class_hash and champion.class_hash:
        return f"{against} knows other classes"
    if candidate.metric != champion.metric:
        return f"{against} was judged by {champion.metric or 'nothing'}, this one by {candidate.metric}"
    if champion.value is None or math.isnan(champion.value):
        return f"{champion.metric} of {against} is not known"
    if candidate.split != champion.split:
        return f"{against} was measured on {champion.split}, this one on {candidate.split}"
    if not candidate.data_digest or candidate.data_digest != champion.data_digest:
        return (
            f"{against} was measured on other {champion.split} images, so its {champion.value:.4f} and this one's "
            f"{candidate.value:.4f} do not compare"
        )
    return ""


def _by_hand(candidate: Figures) -> str:
    name = f"version {candidate.version}" if candidate.version else "the new version"
    return f"To promote it all the same, give {name} the alias 'champion' in the MLflow UI."
