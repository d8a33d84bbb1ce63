"""Precision, recall and F1 as functions of the confidence, at IoU .50, and the confidence where the
mean F1 is best.

The matching follows COCO (best score first, each to the free box of its class it overlaps most;
detections on a crowd do not count), so the 101-point AP of these very matches is COCO's AP50.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.metrics.image_matches import Sample, overlaps

MATCH_IOU = 0.5
GRID = np.linspace(0, 1, 1001)

FALSE, TRUE, IGNORED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Matches:
    """All detections of all images and what became of them. D detections, S samples, C classes."""

    sample: np.ndarray  # (D,) int index of the sample
    classes: np.ndarray  # (D,) int
    scores: np.ndarray  # (D,)
    outcome: np.ndarray  # (D,) FALSE, TRUE or IGNORED
    truths: np.ndarray  # (S, C) int boxes to find, crowds left out


@dataclass(frozen=True, eq=False)
class Curves:
    """Per class over the confidence grid; rows of classes without ground truth are NaN.

    At a confidence above a class's best detection its precision is 0, so that a silent class lowers
    the means.
    """

    confidence: np.ndarray  # (1001,) 0 to 1
    precision: np.ndarray  # (C, 1001) of the detections with score >= confidence
    recall: np.ndarray  # (C, 1001)
    f1: np.ndarray  # (C, 1001)
    recall_points: np.ndarray  # (101,)
    pr: np.ndarray  # (C, 101) COCO's precision envelope at IoU .50
    best: int  # index into `confidence` of the best mean F1


def match(samples: Sequence[Sample], num_classes: int) -> Matches:
    """Decide about every detection of every sample."""
    truths = np.zeros((len(samples), num_classes), np.int64)
    for row, s in zip(truths, samples, strict=True):
        np.add.at(row, s.gt_classes[~s.gt_crowd], 1)
    return Matches(
        sample=np.repeat(np.arange(len(samples)), [len(s.scores) for s in samples]),
        classes=_joined([s.classes for s in samples], np.int64),
        scores=_joined([s.scores for s in samples], np.float64),
        outcome=_joined([match_one(s)[:, 0] for s in samples], np.int8),
        truths=truths,
    )


def match_one(sample: Sample, thresholds: Sequence[float] = (MATCH_IOU,)) -> np.ndarray:
    """The outcome (K, T) of each detection of one image at each of T thresholds of the IoU."""
    outcome = np.zeros((len(sample.scores), len(thresholds)), np.int8)
    if not len(sample.scores) or not len(sample.gt_classes):
        return outcome
    iou, covered = overlaps(sample.boxes, sample.gt_boxes)
    same = sample.classes[:, None] == sample.gt_classes[None]
    on_crowd = np.where(same & sample.gt_crowd, covered, 0).max(1)  # (K,)
    iou = np.where(same & ~sample.gt_crowd, iou, 0)
    for t, threshold in enumerate(thresholds):
        outcome[assign(iou, threshold) >= 0, t] = TRUE
        outcome[(outcome[:, t] == FALSE) & (on_crowd >= threshold), t] = IGNORED
    return outcome


def assign(iou: np.ndarray, threshold: float) -> np.ndarray:
    """(K,) the box (a column of `iou`) that each detection (a row, best first) takes, -1 for none:
    of the free ones from `threshold` up that it overlaps most.
    """
    taken = np.full(len(iou), -1)
    free = iou.copy()  # (K, n), columns go to 0 once taken
    for k in np.flatnonzero((free >= threshold).any(1)):
        row = free[k]
        best = len(row) - 1 - int(row[::-1].argmax())  # of equal overlaps the last, as in COCO
        if row[best] >= threshold:
            taken[k] = best
            free[:, best] = 0
    return taken


def make_curves(matches: Matches, precision50: np.ndarray) -> Curves:
    """Curves of all classes; precision50 (C, 101) is COCO's envelope, passed through for
    drawing.
    """
    totals = matches.truths.sum(0)  # (C,)
    tp, fp = (np.zeros((len(totals), len(GRID))) for _ in range(2))
    for c in range(len(totals)):
        for counts, wanted in ((tp, TRUE), (fp, FALSE)):
            scores = np.sort(matches.scores[(matches.classes == c) & (matches.outcome == wanted)])
            counts[c] = len(scores) - np.searchsorted(scores, GRID, side="left")
    present = (totals > 0)[:, None]
    truths = np.where(present, totals[:, None], np.nan)
    recall = tp / truths
    precision = np.where(present, tp / np.maximum(tp + fp, 1), np.nan)
    f1 = 2 * tp / (tp + fp + truths)  # the harmonic mean, without its 0/0
    return Curves(GRID, precision, recall, f1, np.linspace(0, 1, 101), precision50, best=_best(f1))


def _best(f1: np.ndarray) -> int:
    """The middle of the first stretch of confidences with the best mean F1: on a plateau the ends
    are the riskiest thresholds to deploy. 0 if nothing can be said.
    """
    present = ~np.isnan(f1[:, 0])
    if not present.any():
        return 0
    mean = f1[present].mean(0)
    top = mean >= mean.max() - 1e-12
    first = int(top.argmax())
    length = int((~top[first:]).argmax()) or len(top) - first
    return first + (length - 1) // 2


def image_counts(matches: Matches, confidence: float) -> np.ndarray:
    """(S, 5) of each sample: boxes to find, detections, true positives, false positives, missed, at
    one confidence. Detections on a crowd are counted as detections and are neither true nor false.
    """
    kept = matches.scores >= confidence
    size = len(matches.truths)
    n = matches.truths.sum(1)
    found = np.bincount(matches.sample[kept], minlength=size)
    tp, fp = (
        np.bincount(matches.sample[kept & (matches.outcome == o)], minlength=size)
        for o in (TRUE, FALSE)
    )
    return np.stack((n, found, tp, fp, n - tp), 1)


def _joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays])
