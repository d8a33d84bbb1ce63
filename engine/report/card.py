"""`model_card.md`: what the model is, how good, where not, made from what; recorded facts only.

After Mitchell et al., Model Cards for Model Reporting (2019), 1810.03993, without the parts that
nobody has recorded (intended use, ethical considerations): a card must not make them up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.markdown import plain
from engine.metrics.reported import GROUP
from engine.report import text as say
from engine.report.facts import UNEXPECTED, Facts, number
from engine.report.gained import data_text, summary_text
from engine.report.measured import AP, AP50, metric_order
from engine.report.operating import goal_text
from engine.report.provenance import (
    latency_text,
    leaks_text,
    origin_pairs,
    parity_text,
    settings_of,
)

ROWS = 100  # of a table


def card_of(facts: Facts) -> str:
    """The card as Markdown."""
    title = say.called(facts) or str(facts.dataset.get("name") or "Detector")
    parts, notes = [f"# Model card: {plain(title)}"], list(facts.notes)
    for name, section in SECTIONS:
        try:
            body = [each for each in section(facts) if each]
        except UNEXPECTED as error:
            notes.append(f"{name}: what is recorded has another form than expected ({error!r}).")
            continue
        if body:
            parts += [f"## {name}", *body]
    if notes:
        parts += ["## Not in this card", "\n".join(f"- {plain(note)}" for note in notes)]
    parts.append(
        "Made by DetectFlow from recorded facts; what nobody has recorded, such as the intended "
        "use, is not in it."
    )
    return "\n\n".join(parts) + "\n"


def _decision(facts: Facts) -> list[str]:
    verdict, reason = say.verdict_of(facts), str(facts.registration.get("reason") or "")
    first = f"**{verdict}**: {plain(reason)}" if verdict else plain(reason)
    rows = [(each["gate"], each["verdict"], each["reason"]) for each in say.reasons(facts)]
    return [
        plain(f"{say.outcome_text(facts)} {_since(facts)}"),
        first,
        _table(("gate", "says", "reason"), rows),
    ]


def _since(facts: Facts) -> str:
    """A card stays as it was made: where to find what came after."""
    if not facts.version:
        return ""
    return f"{say.as_of(facts)} What came after: detectflow history {facts.model}."


def _model(facts: Facts) -> list[str]:
    names = facts.dataset.get("names") or facts.data.get("names") or ()
    pairs = [
        *((name, value) for name, value in origin_pairs(facts)),
        ("Classes", ", ".join(map(str, names))),
    ]
    settings = ", ".join(f"{key}={value}" for key, value in settings_of(facts).items())
    return [_list([*pairs, ("Settings that are not the defaults", settings)])]


def _metrics(facts: Facts) -> list[str]:
    own = facts.own.get("mean") or {}
    spans = {"mAP50-95": own.get(AP) or {}, "mAP50": own.get(AP50) or {}}
    rows = []
    for each in metric_order():
        value = number(facts.validated.get(GROUP + each.name))
        if value is not None:
            span = spans.get(each.name, {})
            rows.append(
                (each.name, say.metric(value), say.interval(span.get("low"), span.get("high")))
            )
    if not rows:
        return []
    images = facts.own.get("images")
    counted = say.several(images, f"{facts.split} image")
    on = f"On {counted}." if images else f"On split {facts.split}."
    classes = [
        (
            row.get("name") or "",
            *(say.metric(row.get(key)) for key in ("ap", "ap50", "precision", "recall")),
            say.count(row.get("instances")),
        )
        for row in facts.per_class
    ]
    return [
        on,
        _table(("metric", "value", "95 % interval"), rows),
        _table(("class", AP, AP50, "precision", "recall", "boxes"), classes),
    ]


def _against(facts: Facts) -> list[str]:
    if not facts.decision.get("champion"):
        return []
    names = [
        str((facts.decision.get(each) or {}).get("name") or each)
        for each in ("champion", "candidate")
    ]
    rows = [_compared(f"mean {key}", each) for key, each in _items(facts.decision.get("mean"))]
    classes = (facts.decision.get("classes") or {}).get(AP)
    rows += [_compared(key, each) for key, each in _items(classes)]
    return [
        f"Measured on {say.compared_on(facts)}. Differences in points of AP.",
        _table(("", *names, "difference", "95 % interval"), rows),
    ]


def _gained(facts: Facts) -> list[str]:
    return [plain(summary_text(facts)), plain(data_text(facts))] if facts.pair else []


def _compared(name: str, each: Mapping[str, Any]) -> tuple[str, ...]:
    a, b = number(each.get("a")), number(each.get("b"))
    return (
        name,
        say.metric(a),
        say.metric(b),
        say.points(None if a is None or b is None else b - a),
        say.points_interval(each.get("low"), each.get("high")),
    )


def _limits(facts: Facts) -> list[str]:
    """Where it is known to fail."""
    found = facts.errors
    types = [
        (
            str(each.get("type", "")),
            say.points(each.get("cost"), 2).lstrip("+"),
            say.count(each.get("count")),
        )
        for each in found.get("error_types") or ()
    ]
    worse = [
        f"- {plain(each.get('column'))} {plain(each.get('slice'))}: AP50 "
        f"{say.metric(each.get('ap50'))} instead of {say.metric(each.get('rest'))} on the rest, "
        f"{say.several(each.get('images'), 'image')}"
        for each in found.get("slices") or ()
        if each.get("worse")
    ]
    said = "Significantly worse than on the other images:\n\n" + "\n".join(worse)
    return [
        _table(("error", "cost in points of AP50", "count"), types),
        said if worse else "",
        "No slice of the images is significantly worse than the rest."
        if found.get("slices") and not worse
        else "",
    ]


def _thresholds(facts: Facts) -> list[str]:
    found = facts.operating
    if not found:
        return []
    rows = [
        (
            str(each.get("name", "")),
            say.metric(each.get("threshold")),
            f"{say.metric(each.get('precision'))} "
            f"({say.interval(each.get('precision_low'), each.get('precision_high'))})",
            f"{say.metric(each.get('recall'))} "
            f"({say.interval(each.get('recall_low'), each.get('recall_high'))})",
        )
        for each in found.get("classes") or ()
    ]
    said = f"Goal: {goal_text(found.get('goal'))}, chosen on {found.get('chosen_on', 'val')}, "
    said += f"reported on {found.get('reported_on', facts.split)} with 95 % intervals."
    calibration = found.get("calibration") or {}
    if number(calibration.get("ece_before")) is not None:
        said += (
            f" Scores are calibrated ({calibration.get('method')}): expected calibration error "
            f"{say.metric(calibration.get('ece_before'))} before, "
            f"{say.metric(calibration.get('ece_after'))} after."
        )
    return [plain(said), _table(("class", "threshold", "precision", "recall"), rows)]


def _data(facts: Facts) -> list[str]:
    about = {**facts.data, **facts.dataset}
    if not about:
        return []
    counts = [
        (split, say.count(each.get("images")), say.count(each.get("boxes")))
        for split, each in _items(about.get("counts"))
    ]
    pairs = [
        ("Dataset", about.get("name")),
        ("Version", about.get("digest")),
        ("Licence", about.get("licence")),
    ]
    return [
        _list(pairs),
        _table(("split", "images", "boxes"), counts),
        plain(data_text(facts)),
        plain(leaks_text(facts)),
    ]


def _files(facts: Facts) -> list[str]:
    return [
        _list(
            [
                (name.upper(), each.get("file")),
                ("SHA-256", each.get("sha256")),
                ("Parity with PyTorch", parity_text(each)),
                ("Latency", latency_text(each, facts)),
            ]
        )
        for name, each in _items(facts.exported.get("files"))
    ]


def _items(values: Any) -> Iterable[tuple[str, Mapping[str, Any]]]:
    found = values if isinstance(values, Mapping) else {}
    return [(str(key), each) for key, each in found.items() if isinstance(each, Mapping)]


def _list(pairs: Iterable[tuple[str, Any]]) -> str:
    return "\n".join(
        f"- {name}: {plain(getattr(value, 'striptags', lambda v=value: v)())}"
        for name, value in pairs
        if value not in (None, "", say.NONE)
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    if not rows:
        return ""
    lines = [
        f"| {' | '.join(map(plain, head))} |",
        "|---" * len(head) + "|",
        *(f"| {' | '.join(map(plain, row))} |" for row in rows[:ROWS]),
    ]
    if len(rows) > ROWS:
        lines.append(f"| and {len(rows) - ROWS} more |" + " |" * (len(head) - 1))
    return "\n".join(lines)


SECTIONS = (
    ("Decision", _decision),
    ("Model", _model),
    ("Metrics", _metrics),
    ("Against the champion", _against),
    ("Gained and lost", _gained),
    ("Known weaknesses", _limits),
    ("Operating point", _thresholds),
    ("Data", _data),
    ("Exported file", _files),
)
