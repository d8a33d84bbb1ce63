"""A comparison as people read it: the console's table, Markdown for MLflow and Prefect, values for
JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from engine.comparison.evidence import Comparison
from engine.difference import Difference
from engine.gates import Decision
from engine.gates.evidence import counted
from engine.markdown import plain, sentence, table
from engine.metrics.paired import AP, AP50


def values_of(comparison: Comparison, decision: Decision | None = None) -> dict[str, Any]:
    """Everything of a comparison, fit for JSON."""
    evidence = comparison.evidence
    values = {
        "candidate": asdict(evidence.candidate),
        "champion": asdict(evidence.champion) if evidence.champion else None,
        "split": evidence.split,
        "images": evidence.images,
        "groups": evidence.groups,
        "left_out": {reason: list(images) for reason, images in comparison.left_out.items()},
        "new_classes": list(evidence.new_classes),
        "lost_classes": list(evidence.lost_classes),
        "data_changed": evidence.data_changed,
        "approved_by": evidence.approved_by,
        "decided_before": evidence.decided_before,
        "latency_ms": asdict(evidence.latency) if evidence.latency else None,
        **{key: value for key, value in comparison.paired.to_dict().items() if key != "images"},
        "verdict": decision.verdict.value if decision else None,
        "findings": [asdict(finding) for finding in decision.findings] if decision else [],
    }
    return json.loads(json.dumps(values))


def comparison_rows(comparison: Comparison) -> list[list[str]]:
    """Head and body of the table: both means, then each class, the largest loss first."""
    paired = comparison.paired
    names = [each.model.name for each in (comparison.champion, comparison.candidate) if each]
    head = ["", "boxes", *names]
    if comparison.champion:
        head += ["difference", "95 % interval", f"{names[-1]} is better in"]
    else:
        head += ["95 % interval"]
    classes = sorted(
        paired.classes[AP].values(),
        key=lambda each: each.value if each.value is not None else each.b or 0.0,
    )
    rows = [paired.mean[AP], paired.mean[AP50], *classes]
    return [head, *(_row(each, comparison.champion is not None) for each in rows)]


def _row(difference: Difference, is_pair: bool) -> list[str]:
    cells = [difference.of or difference.metric, str(difference.boxes)]
    if not is_pair:
        return [*cells, _number(difference.b), _interval(difference, 1.0, "{:.3f}")]
    return [
        *cells,
        _number(difference.a),
        _number(difference.b),
        "" if difference.value is None else f"{100 * difference.value:+.1f}",
        _interval(difference, 100.0, "{:+.1f}"),
        "" if difference.better is None else f"{100 * difference.better:.0f} %",
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(difference: Difference, scale: float, form: str) -> str:
    if difference.low is None or difference.high is None:
        return "-"
    return f"{form.format(scale * difference.low)} to {form.format(scale * difference.high)}"


def decision_rows(decision: Decision) -> list[list[str]]:
    return [
        ["gate", "verdict", "reason"],
        *([each.gate, each.verdict.value, each.reason] for each in decision.findings),
    ]


def introduction(comparison: Comparison) -> str:
    """One sentence: what was compared on what."""
    evidence = comparison.evidence
    against = f" against {evidence.champion.name}" if evidence.champion else ""
    groups = counted(evidence.groups, "groups")
    grouped = "" if evidence.groups == evidence.images else f" in {groups}"
    left_out = sum(evidence.left_out.values())
    without = f", {left_out} left out ({_reasons(evidence.left_out.items())})" if left_out else ""
    classes = counted(len(evidence.classes), "classes")
    if evidence.champion:
        classes += " that both know"
    return (
        f"{evidence.candidate.name}{against} on {counted(evidence.images, 'images')} of "
        f"{evidence.split}{grouped}{without}, {classes}"
    )


def _reasons(left_out: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out if count)


def as_text(comparison: Comparison, decision: Decision | None = None) -> str:
    """For the console. Differences are in points of AP."""
    parts = [introduction(comparison), _columns(comparison_rows(comparison))]
    parts += [note for note in notes(comparison) if note]
    if decision is not None:
        parts.append(f"{decision.verdict.value}: {decision.reason}")
        parts.append(_columns(decision_rows(decision), right=0))
        parts += decision.advice
    return "\n\n".join(parts)


def notes(comparison: Comparison) -> list[str]:
    """What a reader should know beside the numbers."""
    evidence = comparison.evidence
    many = (
        f"These {evidence.split} images have decided {evidence.decided_before} times before: a "
        "model may have been chosen for them. Add new ones, or draw a new split."
        if evidence.decided_before >= MANY_DECISIONS
        else ""
    )
    unknown = [
        each.model.name
        for each in (comparison.candidate, comparison.champion)
        if each and each.model.trained_on is None
    ]
    training = (
        f"Not recorded, so not checked: the training images of {', '.join(unknown)}."
        if unknown
        else ""
    )
    return [many, training]


MANY_DECISIONS = 20


def as_markdown(comparison: Comparison, decision: Decision) -> str:
    """For MLflow and Prefect: the verdict first."""
    return "\n\n".join(
        [
            f"**{decision.verdict.value}**: {sentence(decision.reason)}",
            table(*_head_and_rows(decision_rows(decision))),
            *map(sentence, decision.advice),
            plain(introduction(comparison)) + ". Differences in points of AP.",
            table(*_head_and_rows(comparison_rows(comparison))),
            *(sentence(note) for note in notes(comparison) if note),
        ]
    )


def _columns(rows: Sequence[Sequence[str]], right: int = 1) -> str:
    """Aligned columns; from `right` on numbers, aligned at their right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if right and i >= right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
    return "\n".join(f"  {line}" for line in lines)


def _head_and_rows(rows: Sequence[Sequence[str]]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    return rows[0], rows[1:]
