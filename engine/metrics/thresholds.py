"""Thresholds chosen on one split (validation) for a stated goal, on calibrated scores
(`calibration.py`). What they give on another is `threshold_report.py`. A detection is true as in
`curves.py`: COCO's matching at IoU .50.

Letters: N detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.config.goal import Goal
from engine.metrics.calibration import choose_calibration
from engine.metrics.curves import IGNORED, TRUE
from engine.metrics.match_table import MatchTable
from engine.metrics.operating_point import OperatingPoint

# Of a class with fewer boxes a threshold of its own would be chance: it takes the overall one.
FEWEST_BOXES = 10
SLACK = 1e-9  # of a bound that is met exactly


@dataclass(frozen=True)
class Choice:
    """A threshold, and what it gives on the images it was chosen on."""

    threshold: float  # reported: calibrated scores above it
    reached: bool  # the goal, there
    precision: float
    recall: float


def choose(
    table: MatchTable, goal: Goal, groups: Sequence[str] | None = None, split: str = "val"
) -> OperatingPoint | None:
    """Calibration and thresholds from what a model found. None: no true detection at all, so
    nothing can be chosen.

    groups: of each image of the table, for the calibration; None: each is its own.
    """
    counted = table.outcome[:, 0] != IGNORED
    true = table.outcome[counted, 0] == TRUE
    if not true.any():
        return None
    calibration = choose_calibration(table, groups)
    classes = table.classes[counted]
    scores = calibration(table.scores[counted], classes)
    boxes = table.truths.sum(0)
    overall = threshold_for(goal, scores, true, int(boxes.sum()))
    choices, own = [], []
    for c in range(len(table.names)):
        mine = classes == c
        own.append(bool(boxes[c] >= FEWEST_BOXES and true[mine].any()))
        choices.append(
            threshold_for(goal, scores[mine], true[mine], int(boxes[c])) if own[-1] else overall
        )
    return OperatingPoint(
        goal,
        split,
        overall.threshold,
        tuple(choice.threshold for choice in choices),
        tuple(own),
        tuple(choice.reached for choice in choices),
        calibration,
    )


def threshold_for(goal: Goal, scores: np.ndarray, true: np.ndarray, boxes: int) -> Choice:
    """The best threshold for a goal; of equally good ones the highest.

    It lies halfway between the lowest score that is reported and the next below, so that rounding
    (another format, another machine) reports the same. Above every score, at 1, nothing is
    reported. Where the goal cannot be reached it is the threshold that comes nearest.

    scores (N,), true (N,) bool; boxes: to find, at least 1.
    """
    order = np.argsort(-scores, kind="stable")
    scores, true = scores[order], true[order]
    # One row for each threshold: nothing, then down to each distinct score.
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True)) if len(scores) else []
    ends = np.concatenate([[-1], last]).astype(int)
    hits = np.concatenate([[0], np.cumsum(true)])[ends + 1]
    reported = ends + 1
    precision = hits / np.maximum(reported, 1)  # 0 where nothing is reported
    recall = hits / boxes
    best, reached = _best(goal, hits, reported, precision, recall, boxes)
    if best == 0:
        threshold = 1.0
    else:
        lowest = scores[ends[best]]
        below = scores[ends[best] + 1] if ends[best] + 1 < len(scores) else 0.0
        threshold = (lowest + below) / 2
    return Choice(float(threshold), reached, float(precision[best]), float(recall[best]))


def _best(
    goal: Goal,
    hits: np.ndarray,
    reported: np.ndarray,
    precision: np.ndarray,
    recall: np.ndarray,
    boxes: int,
) -> tuple[int, bool]:
    """The row of the best threshold, rows from high to low, and whether the goal is reached."""
    if goal.kind == "cost":
        cost = goal.miss * (boxes - hits) + goal.false_alarm * (reported - hits)
        return _first_best(-cost), True
    if goal.kind == "max_f1":
        return _first_best(2 * hits / (reported + boxes)), True
    bound, other = (precision, recall) if goal.kind == "precision" else (recall, precision)
    enough = bound >= goal.least - SLACK
    if enough.any():
        return _first_best(np.where(enough, other, -1.0)), True
    nearest = bound >= bound.max() - SLACK
    return _first_best(np.where(nearest, other, -1.0)), False


def _first_best(values: np.ndarray) -> int:
    """The first of the largest ones, as far as rounding lets them be told apart."""
    return int((values >= values.max() - SLACK * max(1.0, abs(values.max()))).argmax())
