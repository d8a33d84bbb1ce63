"""Sections: why it was decided so, the metrics, model against champion, by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup, escape

from engine.metrics.reported import GROUP, METRICS, PRIMARY, Metric
from engine.report import text as say
from engine.report.blocks import Block, Cell, amount, table, text
from engine.report.charts import interval_mark, scale_of
from engine.report.facts import Facts, number
from engine.report.pictures import Pictures

AP, AP50 = "AP50-95", "AP50"
ENDS = ("low", "high")
SIZES = {"mAP-small", "mAP-medium", "mAP-large", "AR-small", "AR-medium", "AR-large"}


def why(facts: Facts, pictures: Pictures) -> list[Block]:
    found = say.reasons(facts)
    rows = [
        (
            Cell(each["gate"], "name"),
            Cell(each["verdict"], f"mark {say.STYLES.get(each['verdict'], '')}"),
            Cell(_with_advice(each["reason"], each["advice"]), "words"),
        )
        for each in found
    ]
    blocks = table(("gate", "says", "reason"), rows, style="stack")
    known = facts.decision
    lines = []
    if known.get("new_classes"):
        lines.append(f"New classes, not compared: {', '.join(known['new_classes'])}.")
    if known.get("lost_classes"):
        lines.append(f"Classes that go away: {', '.join(known['lost_classes'])}.")
    before = number(known.get("decided_before")) or 0
    if before:
        times = "once" if before == 1 else say.several(before, "time")
        lines.append(f"These {facts.split} images have decided {times} before.")
    if known.get("approved_by"):
        lines.append(f"Approved by {known['approved_by']}.")
    return [*blocks, *([{"kind": "list", "texts": lines}] if lines else [])]


def _with_advice(reason: str, advice: str) -> Markup:
    more = f'<br><span class="soft">{escape(advice)}</span>' if advice else ""
    return Markup(f"{escape(reason)}{more}")


def metrics(facts: Facts, pictures: Pictures) -> list[Block]:
    measured, own = facts.validated, facts.own.get("mean") or {}
    spans = {"mAP50-95": own.get(AP) or {}, "mAP50": own.get(AP50) or {}}
    rows = []
    for each in metric_order():
        value = number(measured.get(each.key))
        if value is None:
            continue
        span = spans.get(each.name, {})
        interval = say.interval(span.get("low"), span.get("high")) if span else ""
        cells = (Cell(each.name, "name"), amount(say.metric(value), value), Cell(interval, "n"))
        rows.append(cells)
    if not rows:
        return []
    images, groups = facts.own.get("images"), facts.own.get("groups")
    said = f"Measured on {say.several(images, f'{facts.split} image')}" if images else ""
    if said and groups and groups != images:
        said += f" in {say.several(groups, 'group')}"
    blocks = [text(f"{said}." if said else f"Measured on split {facts.split}.")]
    best = number(measured.get(f"{GROUP}confidence"))
    if best is not None:
        blocks.append(
            text(
                f"Precision, recall and F1 are means over classes at confidence {best:.3f}, where "
                "the mean F1 is best.",
                "soft",
            )
        )
    return [*blocks, *table(("metric", "value", "95 % interval"), rows, style="narrow")]


def metric_order() -> list[Metric]:
    """The metrics as a reader wants them; the confidence is none."""
    return sorted((each for each in METRICS if each.name != "confidence"), key=_rank)


def _rank(each: Metric) -> int:
    """The primary metric first, then those with intervals and the other headlines, sizes last."""
    if each.key == PRIMARY:
        return 0
    return 1 if each.name == "mAP50" else 2 if each.headline else 4 if each.name in SIZES else 3


def comparison(facts: Facts, pictures: Pictures) -> list[Block]:
    """Model against champion, by class; without a champion nothing."""
    known = facts.decision
    if not known.get("champion"):
        return []
    champion, candidate = (
        str((known.get(each) or {}).get("name") or each) for each in ("champion", "candidate")
    )
    mean = [each for each in (known.get("mean") or {}).values() if isinstance(each, Mapping)]
    by_class = (known.get("classes") or {}).get(AP) or {}
    classes = sorted(
        (each for each in by_class.values() if isinstance(each, Mapping)),
        key=lambda each: number(_difference(each)) if _difference(each) is not None else 9.0,
    )
    scale = scale_of(
        [(_difference(e), number(e.get("low")), number(e.get("high"))) for e in [*mean, *classes]],
        0.0,
    )
    head = (
        "class",
        "difference",
        "95 % interval",
        "worse | better",
        "better in",
        champion,
        candidate,
        "boxes",
    )
    blocks = [
        text(
            f"{candidate} and {champion}, both measured on {say.compared_on(facts)}: the same "
            "images, the same settings, each through the file that production loads. Differences "
            "are in points of AP (100 points = 1), the largest loss first."
        ),
        *table(
            head,
            [_compared(each, scale, "total") for each in mean]
            + [_compared(each, scale) for each in classes],
            f"Mean over classes, then {AP} of each class",
        ),
        text(
            "Filled marks: the whole interval lies on one side of 0. "
            "\u201cBetter in\u201d: the share of redrawn test sets in which the new one is better.",
            "soft",
        ),
    ]
    return blocks


def _difference(each: Mapping[str, Any]) -> float | None:
    a, b = number(each.get("a")), number(each.get("b"))
    return None if a is None or b is None else b - a


def _compared(each: Mapping[str, Any], scale: tuple[float, float], style: str = "") -> tuple:
    value, low, high = _difference(each), number(each.get("low")), number(each.get("high"))
    sure = low is not None and high is not None and not low <= 0 <= high
    return (
        Cell(each.get("of") or f"mean {each.get('metric', '')}", f"name {style}"),
        Cell(say.points(value), f"n strong {_sign(value) if sure else ''}", value),
        Cell(say.points_interval(low, high), "n"),
        Cell(interval_mark(value, low, high, scale, zero=0.0), "markcell"),
        amount(say.percent(each.get("better")), each.get("better")),
        amount(say.metric(each.get("a")), each.get("a")),
        amount(say.metric(each.get("b")), each.get("b")),
        amount(say.count(each.get("boxes")), each.get("boxes")),
    )


def _sign(value: float | None) -> str:
    return "" if not value else "good" if value > 0 else "error"


def by_class(facts: Facts, pictures: Pictures) -> list[Block]:
    own = (facts.own.get("classes") or {}).get(AP) or {}
    spans = [
        (number(each.get("ap")), *(number((own.get(each.get("name")) or {}).get(k)) for k in ENDS))
        for each in facts.per_class
    ]
    low, high = scale_of(spans)
    scale = max(low, 0.0), min(high, 1.0)
    rows = []
    for each in facts.per_class:
        name = each.get("name") or ""
        span = own.get(name) or {}
        ap, low, high = number(each.get("ap")), number(span.get("low")), number(span.get("high"))
        rows.append(
            (
                Cell(name, "name"),
                amount(say.metric(ap), ap),
                Cell(say.interval(low, high), "n"),
                Cell(interval_mark(ap, low, high, scale), "markcell"),
                amount(say.metric(each.get("ap50")), each.get("ap50")),
                amount(say.metric(each.get("precision")), each.get("precision")),
                amount(say.metric(each.get("recall")), each.get("recall")),
                amount(say.count(each.get("instances")), each.get("instances")),
                amount(say.count(each.get("images")), each.get("images")),
            )
        )
    rows.sort(key=lambda row: row[1].sort if row[1].sort is not None else 9.0)
    shown = f"{scale[0]:.2f} to {scale[1]:.2f}"
    head = ("class", AP, "95 % interval", shown, AP50, "precision", "recall", "boxes", "images")
    return table(head, rows)
