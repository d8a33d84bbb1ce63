"""Section: the thresholds that the model is used with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.metrics.reported import GROUP
from engine.report import text as say
from engine.report.blocks import Block, Cell, amount, figure, figures, table, text
from engine.report.facts import Facts, number
from engine.report.pictures import PLOT_PX, Pictures


def thresholds(facts: Facts, pictures: Pictures) -> list[Block]:
    found = facts.operating
    if not found:
        best = number(facts.validated.get(f"{GROUP}confidence"))
        if best is None:
            return []
        return [
            text(
                f"No thresholds by class are recorded. The mean F1 on {facts.split} is best at "
                f"confidence {best:.3f}."
            )
        ]
    chosen, reported = found.get("chosen_on", "val"), found.get("reported_on", facts.split)
    blocks = [
        text(
            f"Goal: {goal_text(found.get('goal'))}. Chosen on {chosen}, reported on {reported}, "
            "where nothing was chosen."
        )
    ]
    rows = [("all classes", found.get("overall") or {})]
    rows += [(str(each.get("name", "")), each) for each in found.get("classes") or ()]
    blocks += table(
        (
            *("class", "threshold", "precision", "95 % interval"),
            *("recall", "95 % interval", "F1", "boxes"),
        ),
        [
            (
                Cell(name, "name"),
                amount(say.metric(each.get("threshold")), each.get("threshold")),
                amount(say.metric(each.get("precision")), each.get("precision")),
                Cell(say.interval(each.get("precision_low"), each.get("precision_high")), "n"),
                amount(say.metric(each.get("recall")), each.get("recall")),
                Cell(say.interval(each.get("recall_low"), each.get("recall_high")), "n"),
                amount(say.metric(each.get("f1")), each.get("f1")),
                amount(say.count(each.get("boxes")), each.get("boxes")),
            )
            for name, each in rows
            if each
        ],
    )
    missed = [name for name, each in rows[1:] if each.get("reached") is False]
    if missed:
        words = f"The goal is not reached for {', '.join(missed)}: their thresholds are the best "
        blocks.append(text(f"{words}there are.", "warning"))
    calibration = found.get("calibration") or {}
    before, after = calibration.get("ece_before"), calibration.get("ece_after")
    if number(before) is not None:
        blocks.append(
            text(
                f"Scores are calibrated ({calibration.get('method', 'method not recorded')}): the "
                f"expected calibration error goes from {say.metric(before)} to "
                f"{say.metric(after)} on {reported}."
            )
        )
    url = pictures.url("reliability.png", PLOT_PX)
    if url:
        alt = f"Reliability diagram: error {say.metric(before)} before, {say.metric(after)} after"
        blocks += figures([figure(url, alt, "Reliability", style="plot")], wide=True)
    return blocks


def goal_text(goal: Any) -> str:
    if isinstance(goal, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')} {value}" for key, value in goal.items())
    return str(goal or "not recorded").replace("_", " ")
