"""Sections: curves and confusion."""

from __future__ import annotations

from markupsafe import Markup

from engine.metrics.reported import GROUP
from engine.report import text as say
from engine.report.blocks import Block, figure, figures, text
from engine.report.charts import Line, line_chart
from engine.report.facts import Facts, number
from engine.report.measured import AP50
from engine.report.pictures import PLOT_PX, Pictures

CURVES_SHOWN = 8  # classes with a curve and a key of their own
CLASSES_IN_MATRIX = 30  # more are shown as an image


def curves(facts: Facts, pictures: Pictures) -> list[Block]:
    charts = [
        each
        for each in (_precision_recall(facts), _by_confidence(facts), *_epochs(facts))
        if each["svg"]
    ]
    return [{"kind": "charts", "charts": charts}] if charts else []


def _precision_recall(facts: Facts) -> Block:
    found = facts.curves
    classes = found.get("classes") or {}
    recall = found.get("recall") or []
    named = len(classes) <= CURVES_SHOWN
    lines = [Line("mean", recall, found.get("mean") or [], "strong")]
    lines += [
        Line(name if named else "", recall, curve, "thin" if named else "faint")
        for name, curve in classes.items()
    ]
    area = (facts.own.get("mean") or {}).get(AP50) or {}
    says = f"Precision by recall at IoU 0.50; mean AP50 {say.metric(area.get('b'))}."
    note = "" if named else f"Thin: each of {len(classes)} classes."
    svg = line_chart(lines, "recall", "precision", says, (0.0, 1.0)) if found else Markup("")
    return {"title": "Precision and recall", "svg": svg, "note": note}


def _by_confidence(facts: Facts) -> Block:
    found = facts.curves.get("by_confidence") or {}
    axis = found.get("confidence") or []
    lines = [
        Line(title, axis, found.get(name) or [])
        for name, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
    ]
    best = number(found.get("best"))
    note = f"Mean over classes; F1 is best at {best:.3f}." if best is not None else ""
    says = f"Precision, recall and F1 by confidence. {note}"
    svg = line_chart(lines, "confidence", "mean over classes", says, (0.0, 1.0)) if found else ""
    return {"title": "By confidence", "svg": svg, "note": note}


def _epochs(facts: Facts) -> list[Block]:
    """A chart of the metrics, and one for each term of the loss with train and val."""
    rows = facts.epochs
    if not rows:
        return []
    epochs = [number(row.get("epoch")) or 0.0 for row in rows]

    def column(name: str) -> list[float | None]:
        return [number(row.get(name)) for row in rows]

    keys = list(rows[0])
    shown = [key for key in keys if key.startswith(GROUP)]
    best = facts.trained.get("best_epoch")
    note = f"Best epoch: {best}." if best is not None else ""
    lines = [Line(key.removeprefix(GROUP), epochs, column(key)) for key in shown]
    charts = [
        {
            "title": "Metrics on val while training",
            "svg": line_chart(
                lines, "epoch", "value", f"Metrics on val by epoch. {note}", (0.0, 1.0)
            ),
            "note": note,
        }
    ]
    for term in (key.removeprefix("train/") for key in keys if key.startswith("train/")):
        lines = [
            Line(name, epochs, column(f"{name}/{term}"))
            for name in ("train", "val")
            if f"{name}/{term}" in keys
        ]
        title = term.replace("_", " ").capitalize()
        svg = line_chart(lines, "epoch", "loss", f"{title} on train and val by epoch.")
        charts.append({"title": title, "svg": svg, "note": ""})
    return charts


def confusion(facts: Facts, pictures: Pictures) -> list[Block]:
    labels, counts = facts.confusion.get("labels"), facts.confusion.get("counts")
    said = (
        "Rows: the true class. Columns: the predicted one. Colour: the share of the true class. "
        "The last column counts what was missed, the last row boxes where there is nothing to find."
    )
    if labels and len(labels) <= CLASSES_IN_MATRIX + 1:
        return [text(said, "soft"), {"kind": "matrix", "labels": labels, "counts": counts}]
    url = pictures.url("confusion_matrix.png", PLOT_PX)
    if not url:
        return []
    return figures([figure(url, "Confusion matrix", "", said, "plot")], wide=True)
