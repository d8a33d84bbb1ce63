"""Which model becomes champion: gates over the metrics of two models, one file each. They know no
registry.

The champion is what production loads, so it changes only for a reason that can be stated. `GATES`
is the table: a gate is a function `(candidate, champion) -> Verdict`, asked in this order; the
first that refuses decides. A new gate is one file and its line there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.registry.gates.better import is_better
from engine.registry.gates.comparable import is_comparable
from engine.registry.gates.measured import is_measured
from engine.registry.gates.verdict import Measured, Verdict, is_known, number_text

__all__ = ["GATES", "Decision", "Measured", "Gate", "Verdict", "decide"]

# champion: None where there is none
Gate = Callable[[Measured, Measured | None], Verdict]

GATES: list[Gate] = [
    is_measured,
    # before the comparison: its gate may take both values as numbers of the same kind
    is_comparable,
    is_better,
]


@dataclass(frozen=True)
class Decision:
    """Whether the candidate becomes champion, and why, as a sentence for people."""

    promote: bool
    reason: str


def decide(candidate: Measured, champion: Measured | None) -> Decision:
    """Ask the gates about a candidate. champion: None where there is none.

    A champion presented again stays, whatever was measured since: it leaves for a better one, or by
    hand.
    """
    if champion is not None and candidate.version and candidate.version == champion.version:
        since = _since(candidate, champion)
        return Decision(True, f"{candidate.text}; it is champion already{since}")
    reason = candidate.text
    for gate in GATES:
        verdict = gate(candidate, champion)
        if not verdict.passed:
            return Decision(False, verdict.reason)
        reason = verdict.reason or reason
    return Decision(True, reason)


def _since(candidate: Measured, champion: Measured) -> str:
    """That a champion is measured otherwise than when it was promoted; empty where it is not."""
    then, now = number_text(champion.promoted_value), number_text(candidate.value)
    return (
        f", but was promoted with {then}"
        if is_known(champion.promoted_value) and then != now
        else ""
    )
