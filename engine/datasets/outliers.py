"""Boxes and classes that stand out among all others: worth checking, seldom wrong, never removed by
themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.datasets.findings import Findings
from engine.types import ImageRecord

IMBALANCE = 10  # times as many boxes in the most frequent class
FEWEST_BOXES = 30  # of a class, before one of them can be called unusual
OUTLIER_SPREADS = 6.0  # robust standard deviations from the median of the class
LEAST_SPREAD = 0.1  # of a logarithm: where all boxes are alike, ten per cent more are no outlier
TO_STANDARD = 1.4826  # median absolute deviation -> standard deviation of a normal distribution


def report_imbalance(
    names: Sequence[str], records: Sequence[ImageRecord], findings: Findings
) -> None:
    """A finding for each class with less than a tenth of the boxes of the most frequent one; none
    for an unused class.
    """
    counts = sum(
        (np.bincount(record.classes, minlength=len(names)) for record in records),
        np.zeros(len(names), np.int64),
    )
    if not counts.any():
        return
    most = int(counts.argmax())
    for index in np.argsort(counts, kind="stable").tolist():
        if 0 < counts[index] * IMBALANCE < counts[most]:
            detail = (
                f"class '{names[index]}' has {counts[index]} boxes, '{names[most]}' has "
                f"{counts[most]}"
            )
            findings.add("class_imbalance", "", detail)


def report_outliers(
    names: Sequence[str], records: Sequence[ImageRecord], findings: Findings
) -> None:
    """Findings for boxes whose size (beside the image's) or aspect is far from the median of their
    class, farthest first.

    Both are compared as logarithms, with the median absolute deviation as the measure: a few wrong
    boxes do not hide themselves.
    """
    if not records:
        return
    boxes = np.concatenate([record.boxes for record in records]).reshape(-1, 4)
    classes = np.concatenate([record.classes for record in records])
    owner = np.repeat(np.arange(len(records)), [len(record.classes) for record in records])
    sides = np.array([record.size for record in records], np.float64)[owner]  # (n, 2) h, w
    w, h = (boxes[:, 2:] - boxes[:, :2]).T
    measures = {
        "size_outlier": (np.log(np.sqrt(w * h / sides.prod(1))), _size_in_words),
        "aspect_outlier": (np.log(w / h), _aspect_in_words),
    }
    for kind, (values, describe) in measures.items():
        middle, away = np.zeros(len(values)), np.zeros(len(values))
        for index in np.unique(classes):
            mine = classes == index
            middle[mine], away[mine] = _spreads_away(values[mine])
        far = np.nonzero(away > OUTLIER_SPREADS)[0]
        for k in far[np.lexsort((far, -away[far]))].tolist():
            record = records[owner[k]]
            detail = f"'{names[classes[k]]}' {describe(np.exp(values[k]), np.exp(middle[k]))}"
            findings.add(
                kind, record.name, detail, image=record.name, boxes=(tuple(boxes[k].tolist()),)
            )


def _spreads_away(values: np.ndarray) -> tuple[float, np.ndarray]:
    """(median, distance of each value from it in robust standard deviations); distances 0 for too
    few values.
    """
    middle = float(np.median(values))
    off = np.abs(values - middle)
    if len(values) < FEWEST_BOXES:
        return middle, np.zeros(len(values))
    return middle, off / max(TO_STANDARD * float(np.median(off)), LEAST_SPREAD)


def _size_in_words(value: float, middle: float) -> str:
    return f"measures {value:.1%} of the image's side, its class {middle:.1%} (median)"


def _aspect_in_words(value: float, middle: float) -> str:
    return f"is {value:.2f} times as wide as high, its class {middle:.2f} (median)"
