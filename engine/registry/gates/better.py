"""Gate: the champion leaves for a better model only; an equal one does not replace it."""

from __future__ import annotations

from engine.registry.gates.verdict import Measured, Verdict, by_hand


def is_better(candidate: Measured, champion: Measured | None) -> Verdict:
    """The candidate's metric is above the champion's, or there is no champion."""
    if champion is None:
        return Verdict(True, f"{candidate.text}; there was no champion")
    against = f"champion {champion.name}"
    if candidate.value > champion.value:
        return Verdict(True, f"{candidate.text}, better than {against} ({champion.value:.4f})")
    if candidate.weights_sha256 and candidate.weights_sha256 == champion.weights_sha256:
        return Verdict(
            False,
            f"{candidate.text}; the weights of {against}, exported anew. {by_hand(candidate)}",
        )
    return Verdict(False, f"{candidate.text}, not better than {against} ({champion.value:.4f})")
