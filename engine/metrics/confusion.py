"""The confusion matrix of a detector: which class is taken for which, what is missed, what is
invented.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.metrics.image_matches import Sample, overlaps

CONFIDENCE = 0.25
IOU = 0.45


def confusion_matrix(
    samples: Sequence[Sample], num_classes: int, confidence: float = CONFIDENCE, iou: float = IOU
) -> np.ndarray:
    """(C + 1, C + 1) int64: row the true class, column the predicted one, the last of both the
    background.

    Boxes pair one to one whatever their classes, the largest overlap first (equal overlaps: the
    higher score), from `iou` up. Unpaired truth counts in the last column, unpaired detections in
    the last row; detections that lie on a crowd count nowhere.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for sample in samples:
        _add(matrix, sample, confidence, iou)
    return matrix


def confusion_rows(matrix: np.ndarray, names: Sequence[str]) -> list[list[str]]:
    """Head and body of a table: the predicted classes across, the true ones down."""
    labels = [*names, "background"]
    body = [[label, *map(str, row)] for label, row in zip(labels, matrix.tolist(), strict=True)]
    return [["true", *labels], *body]


def _add(matrix: np.ndarray, sample: Sample, confidence: float, threshold: float) -> None:
    kept = sample.scores >= confidence
    boxes, classes = sample.boxes[kept], sample.classes[kept]
    real = ~sample.gt_crowd
    truth = sample.gt_classes[real]
    iou, covered = overlaps(boxes, sample.gt_boxes)
    on_crowd = (covered[:, ~real] >= threshold).any(1)
    iou = iou[:, real]
    rows, columns = np.nonzero(iou >= threshold)
    free_rows, free_columns = np.ones(len(classes), bool), np.ones(len(truth), bool)
    for i in np.argsort(
        -iou[rows, columns], kind="stable"
    ):  # nonzero lists better scores first: they win ties
        row, column = rows[i], columns[i]
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            matrix[truth[column], classes[row]] += 1
    np.add.at(matrix[:, -1], truth[free_columns], 1)
    np.add.at(matrix[-1], classes[free_rows & ~on_crowd], 1)
