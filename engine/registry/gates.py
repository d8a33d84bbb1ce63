"""Who is champion: one pure function over the figures of two models. Knows no registry.

The champion is what production loads, so it changes only for a reason that can be stated. Figures
measured on different
images do not compare: with a test split that has grown, the champion stays, and the reason says
what to do (measure it on today's images, or move the alias by hand). A training split that has
grown does not matter. A model that finds nothing right is nobody's champion, also where the office
is empty.
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
    # of a champion: what it was promoted with; `value` may have been measured since
    promoted_value: float | None = None


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, and why, as a sentence for people."""

    promote: bool
    reason: str


def decide(candidate: Figures, champion: Figures | None) -> Decision:
    """Compare a candidate with the champion in office; without one, any candidate that finds
    something is promoted.

    A champion presented again stays, whatever it was measured to: it leaves for a better one, or by
    hand.
    """
    measured = f"{candidate.metric} {_number(candidate.value)} on {candidate.split}"
    if champion is not None and candidate.version and candidate.version == champion.version:
        return Decision(True, f"{measured}; it is champion already{_since(candidate, champion)}")
    if why := _worthless(candidate):
        return Decision(False, f"{measured}: {why}")
    if champion is None:
        return Decision(True, f"{measured}; there was no champion")
    against = f"champion version {champion.version}"
    if obstacle := _obstacle(candidate, champion, against):
        return Decision(False, f"held: {obstacle}. {_by_hand(candidate)}")
    if candidate.value > champion.value:
        return Decision(True, f"{measured}, better than {against} ({champion.value:.4f})")
    if candidate.weights_sha256 and candidate.weights_sha256 == champion.weights_sha256:
        return Decision(
            False, f"{measured}; the weights of {against}, exported anew. {_by_hand(candidate)}"
        )
    return Decision(False, f"{measured}, not better than {against} ({champion.value:.4f})")


def _worthless(candidate: Figures) -> str:
    """Why these figures make nobody champion, not even where there is none; empty where they
    may.
    """
    if not _is_known(candidate.value):
        return (
            f"a model whose worth is not known cannot be champion. Does the {candidate.split} "
            "split hold objects to find? reports/data.json counts them"
        )
    if candidate.value <= 0:
        return (
            "a model that finds nothing right cannot be champion. Train it longer, or look at the "
            "curves in reports/train"
        )
    return ""


def _since(candidate: Figures, champion: Figures) -> str:
    """That a champion is measured otherwise than when it was promoted; empty where it is not."""
    then, now = _number(champion.promoted_value), _number(candidate.value)
    return (
        f", but was promoted with {then}"
        if _is_known(champion.promoted_value) and then != now
        else ""
    )


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float | None) -> str:
    return f"{value:.4f}" if _is_known(value) else "not known"


def _obstacle(candidate: Figures, champion: Figures, against: str) -> str:
    """Why the two figures say nothing about each other; empty where they do."""
    if candidate.class_hash != champion.class_hash and candidate.class_hash and champion.class_hash:
        return f"{against} knows other classes"
    if candidate.metric != champion.metric:
        return (
            f"{against} was judged by {champion.metric or 'nothing'}, this one by "
            f"{candidate.metric}"
        )
    if not _is_known(champion.value):
        return f"{champion.metric} of {against} is not known"
    if candidate.split != champion.split:
        return f"{against} was measured on {champion.split}, this one on {candidate.split}"
    if not candidate.data_digest or candidate.data_digest != champion.data_digest:
        return (
            f"{against} was measured on other {champion.split} images, so its {champion.value:.4f} "
            f"and this one's {candidate.value:.4f} do not compare"
        )
    return ""


def _by_hand(candidate: Figures) -> str:
    name = f"version {candidate.version}" if candidate.version else "the new version"
    return f"To promote it all the same, give {name} the alias 'champion' in the MLflow UI."
