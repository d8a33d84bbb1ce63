"""What an operating point gives on images that it was not chosen on: precision, recall and F1 of
each class with bootstrap intervals, and the calibration error before and after.

Letters: S images, G groups, C classes, N detections, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.difference import LEVEL
from engine.errors import DataError
from engine.metrics.bootstrap import RESAMPLES, draw, expanded_levels
from engine.metrics.calibration import calibration_error, detected, reliability
from engine.metrics.curves import FALSE, TRUE
from engine.metrics.match_table import MatchTable
from engine.metrics.operating_point import OperatingPoint
from engine.metrics.thresholds import FEWEST_BOXES

MOST_NAMED = 10  # classes in a sentence
DRAWS_AT_ONCE = 500  # an array of them and all images in float64


def report(
    point: OperatingPoint,
    table: MatchTable,
    split: str,
    groups: Sequence[str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What an operating point gives on the images of a table, fit for JSON: precision, recall and
    F1 of each class and of all together with 95 % intervals, and the calibration error before and
    after.

    groups: of each image of the table, drawn as wholes; None: each is its own.

    Raises:
        DataError: the table is of other classes.
    """
    if len(table.names) != len(point.thresholds):
        raise DataError(
            f"an operating point of {len(point.thresholds)} classes for a table of "
            f"{len(table.names)}."
        )
    scores = point.calibration(table.scores, table.classes)
    above = scores > np.asarray(point.thresholds)[table.classes]
    right, wrong = (
        _by_image(table, above & (table.outcome[:, 0] == kind)) for kind in (TRUE, FALSE)
    )
    names = table.images if groups is None else groups
    draws = draw(names, resamples, seed)
    counted = np.stack([right, right + wrong, table.truths])  # (3, S, C)
    in_groups = np.zeros((3, len(draws.counts), len(table.names)))
    for kind, values in zip(in_groups, counted, strict=True):
        np.add.at(kind, draws.group, values)
    drawn = _of_draws(in_groups, draws.counts)
    classes = [
        {
            "name": name,
            "threshold": point.thresholds[c],
            "own_threshold": point.own[c],
            "reached": point.reached[c],
            **_rates(in_groups[:, :, c], drawn[:, c]),
        }
        for c, name in enumerate(table.names)
    ]
    return {
        "goal": point.goal.setting,
        "chosen_on": point.chosen_on,
        "reported_on": split,
        "images": len(table.images),
        "groups": len(draws.counts),
        "calibration": _calibration_report(point, table),
        "classes": classes,
        "overall": {
            "threshold": point.overall,
            "reached": all(point.reached),
            **_rates(in_groups.sum(2), drawn.sum(1)),
        },
    }


def _by_image(table: MatchTable, which: np.ndarray) -> np.ndarray:
    """(S, C) how many of the detections `which` (N,) bool each image has of each class."""
    counts = np.zeros((len(table.images), len(table.names)))
    np.add.at(counts, (table.image[which], table.classes[which]), 1)
    return counts


def _of_draws(counts: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """(3, C, B) sums over drawn groups of counts (3, G, C); draws (G, B)."""
    by_class = counts.transpose(0, 2, 1)  # (3, C, G)
    starts = range(0, draws.shape[1], DRAWS_AT_ONCE)
    parts = [by_class @ draws[:, i : i + DRAWS_AT_ONCE].astype(np.float64) for i in starts]
    return np.concatenate(parts, 2)


def _rates(counts: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """counts (3, G): right ones, reported ones, boxes to find of each group; drawn (3, B): their
    sums in each draw.
    """
    right, reported, boxes = (float(each) for each in counts.sum(1))
    precision = _rate("precision", right, reported, drawn[0], drawn[1], counts[1])
    recall = _rate("recall", right, boxes, drawn[0], drawn[2], counts[2])
    f1 = 2 * right / (reported + boxes) if boxes else None
    return {"boxes": int(boxes), "detections": int(reported), **precision, **recall, "f1": f1}


def _rate(
    name: str,
    right: float,
    of: float,
    drawn_right: np.ndarray,
    drawn_of: np.ndarray,
    of_group: np.ndarray,
) -> dict[str, float | None]:
    """A rate with its interval. Where all are right, or none, every draw says the same and the
    bootstrap nothing: then the interval of Clopper and Pearson (1934), each group that has any
    counting as one observation.
    """
    if not of:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, high = None, None
    if right in (0, of):
        alpha, observed = (1 - LEVEL) / 2, int((of_group > 0).sum())
        edge = alpha ** (1 / observed)
        low, high = (edge, 1.0) if right else (0.0, 1 - edge)
    elif len(of_group) > 1:
        rates = drawn_right[drawn_of > 0] / drawn_of[drawn_of > 0]
        low, high = map(float, np.quantile(rates, expanded_levels(len(of_group))))
    return {name: right / of, f"{name}_low": low, f"{name}_high": high}


def _calibration_report(point: OperatingPoint, table: MatchTable) -> dict[str, Any]:
    found = detected(table)
    after = point.calibration(found.scores, found.classes)
    rows = {
        "before": reliability(found.scores, found.true),
        "after": reliability(after, found.true),
    }
    classes = []
    for c, name in enumerate(table.names):
        mine, score_map = found.classes == c, point.calibration.maps[c]
        errors = (
            calibration_error(reliability(scores[mine], found.true[mine]))
            for scores in (found.scores, after)
        )
        row = {"name": name, "own": point.calibration.own[c], "slope": score_map.slope}
        if point.calibration.method == "temperature":
            row["temperature"] = 1 / score_map.slope
        row |= {"x": list(score_map.x), "y": list(score_map.y)}
        classes.append(row | dict(zip(("ece_before", "ece_after"), errors, strict=True)))
    return {
        "method": point.calibration.method,
        "detections": len(found.scores),
        "ece_before": calibration_error(rows["before"]),
        "ece_after": calibration_error(rows["after"]),
        "classes": classes,
        "reliability": rows,
    }


def warnings_of(point: OperatingPoint, names: Sequence[str]) -> list[str]:
    """What has to be said of a choice: classes for which the goal was not reached, and those that
    take the overall threshold.
    """
    said = []
    missed = [name for name, ok, own in zip(names, point.reached, point.own) if own and not ok]
    if missed:
        said.append(
            f"{point.goal} is not reached on {point.chosen_on} by {_listed(missed)}: the "
            "threshold is the one that comes nearest"
        )
    without = [name for name, own in zip(names, point.own) if not own]
    if without:
        said.append(
            f"{_listed(without)}: fewer than {FEWEST_BOXES} boxes in {point.chosen_on}, or none "
            f"of them found, so the threshold of all classes together is taken ({point.overall:.3f}"
            ")"
        )
        if not all(ok for ok, own in zip(point.reached, point.own) if not own):
            said.append(f"{point.goal} is not reached on {point.chosen_on} by all classes together")
    return said


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
