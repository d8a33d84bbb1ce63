"""Labels that a trained model contradicts with confidence: the wrong class, an object without a
box, a box without an object.

Predictions come in as data; which model made them is no concern of this file. The idea of asking a
model about its own labels: Northcutt, Jiang and Chuang, "Confident learning" (2021), here without
the cross validation: a model that has seen a wrong label in training contradicts it less, so one
trained on other images finds more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from engine.boxes import pairwise_iou
from engine.datasets.findings import Findings
from engine.types import Detections, ImageRecord

SURE = 0.8  # score from which a prediction counts against a label
# a label counts as unseen where not even this finds anything; the model must be asked down to it
LEAST_SCORE = 0.05
SAME_OBJECT = 0.5  # IoU of a prediction and a label that mean one object
ELSEWHERE = 0.3  # IoU below which they do not
UNSEEN = 0.5  # rank of a label without any prediction, beside the scores of the others


class LabelErrors:
    """Collects contradictions image by image; `report` lists them, the most confident first."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._found: list[
            tuple[float, str, dict[str, Any]]
        ] = []  # confidence, detail, what a page shows

    def add(self, record: ImageRecord, seen: Detections, classes: Mapping[int, int]) -> None:
        """Compare the labels of one image with what a model sees in it, down to a score of
        `LEAST_SCORE`.

        seen: boxes in pixels of the image. classes: number of a class in the model -> number in the
        dataset; what the dataset does not know is passed over.
        """
        known = np.array([int(index) in classes for index in seen.classes], bool)
        boxes, scores = seen.boxes[known].astype(np.float64), seen.scores[known]
        numbers = np.array([classes[int(index)] for index in seen.classes[known]], np.int64)
        crowd = np.zeros(len(record.classes), bool) if record.crowd is None else record.crowd
        overlap = pairwise_iou(
            torch.from_numpy(boxes), torch.from_numpy(record.boxes)
        ).numpy()  # (predictions, labels)
        sure = np.nonzero((scores >= SURE) & ~_within(boxes, record.boxes[crowd]))[0]
        for k in sure.tolist():
            self._contradiction(record, boxes[k], float(scores[k]), int(numbers[k]), overlap[k])
        unseen = ~crowd & (overlap.max(0, initial=0) < ELSEWHERE)
        for index in np.nonzero(unseen)[0].tolist():
            box = tuple(record.boxes[index].tolist())
            self._keep(
                UNSEEN,
                record,
                f"'{self._names[record.classes[index]]}': the model sees nothing there",
                (box,),
            )

    def _contradiction(
        self, record: ImageRecord, box: np.ndarray, score: float, number: int, overlap: np.ndarray
    ) -> None:
        """One confident prediction against the labels; overlap: IoU with each of them."""
        sees = f"the model sees '{self._names[number]}' ({score:.2f})"
        there = overlap >= SAME_OBJECT
        if there.any():
            best = int(overlap.argmax())
            if number not in record.classes[there]:
                label = tuple(record.boxes[best].tolist())
                self._keep(
                    score,
                    record,
                    f"labelled '{self._names[record.classes[best]]}', {sees}",
                    (label,),
                )
        elif overlap.max(initial=0) < ELSEWHERE:
            self._keep(score, record, f"no label where {sees}", (tuple(box.tolist()),))

    def _keep(
        self,
        confidence: float,
        record: ImageRecord,
        detail: str,
        boxes: tuple[tuple[float, ...], ...],
    ) -> None:
        self._found.append(
            (confidence, detail, {"file": record.name, "image": record.name, "boxes": boxes})
        )

    def report(self, findings: Findings) -> None:
        """One finding `label_error` for each contradiction."""
        for _, detail, where in sorted(
            self._found, key=lambda found: (-found[0], found[2]["image"], found[1])
        ):
            findings.add("label_error", detail=detail, **where)


def _within(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(n,) bool: at least half of the box lies in one of the areas. (n, 4), (m, 4) xyxy."""
    if not len(areas):
        return np.zeros(len(boxes), bool)
    left_top = np.maximum(boxes[:, None, :2], areas[None, :, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], areas[None, :, 2:])
    common = np.clip(right_bottom - left_top, 0, None).prod(-1)
    own = np.clip((boxes[:, 2:] - boxes[:, :2]).prod(-1), 1e-9, None)
    return (common / own[:, None] >= 0.5).any(1)
