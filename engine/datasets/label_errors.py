"""Labels that a trained model contradicts with confidence: the wrong class, an object without a
box, a box without an object.

Predictions come in as data; which model made them is no concern of this file. The idea of asking a
model about its own labels: Northcutt, Jiang and Chuang, "Confident learning" (2021), here without
the cross validation: a model that has seen a wrong label in training contradicts it less, so one
trained on other images finds more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class LabelError:
    """One contradiction. Of `labelled` and `seen`, the class that a label has and the one that the
    model sees, one is empty where there is no label, or the model sees nothing.
    """

    image: str  # the name of the image
    score: float  # of the prediction; UNSEEN where there is none
    labelled: str
    seen: str
    box: tuple[float, float, float, float]  # of the label, else of the prediction; xyxy px

    @property
    def kind(self) -> str:
        if not self.labelled:
            return "no label"
        return "wrong class" if self.seen else "no object"

    @property
    def detail(self) -> str:
        sees = f"the model sees '{self.seen}' ({self.score:.2f})"
        if not self.labelled:
            return f"no label where {sees}"
        if self.seen:
            return f"labelled '{self.labelled}', {sees}"
        return f"'{self.labelled}': the model sees nothing there"


class LabelErrors:
    """Collects contradictions image by image; `ranked` has them, the most confident first."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._found: list[LabelError] = []

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
            labelled = self._names[record.classes[index]]
            self._keep(record, UNSEEN, labelled, "", record.boxes[index])

    def _contradiction(
        self, record: ImageRecord, box: np.ndarray, score: float, number: int, overlap: np.ndarray
    ) -> None:
        """One confident prediction against the labels; overlap: IoU with each of them."""
        there = overlap >= SAME_OBJECT
        if there.any():
            best = int(overlap.argmax())
            if number not in record.classes[there]:
                labelled = self._names[record.classes[best]]
                self._keep(record, score, labelled, self._names[number], record.boxes[best])
        elif overlap.max(initial=0) < ELSEWHERE:
            self._keep(record, score, "", self._names[number], box)

    def _keep(
        self, record: ImageRecord, score: float, labelled: str, seen: str, box: np.ndarray
    ) -> None:
        self._found.append(LabelError(record.name, score, labelled, seen, tuple(box.tolist())))

    def ranked(self) -> list[LabelError]:
        """The most confident first."""
        return sorted(self._found, key=lambda found: (-found.score, found.image, found.detail))

    def report(self, findings: Findings) -> None:
        """One finding `label_error` for each contradiction."""
        for found in self.ranked():
            findings.add(
                "label_error",
                detail=found.detail,
                file=found.image,
                image=found.image,
                boxes=(found.box,),
            )


def _within(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(n,) bool: at least half of the box lies in one of the areas. (n, 4), (m, 4) xyxy."""
    if not len(areas):
        return np.zeros(len(boxes), bool)
    left_top = np.maximum(boxes[:, None, :2], areas[None, :, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], areas[None, :, 2:])
    common = np.clip(right_bottom - left_top, 0, None).prod(-1)
    own = np.clip((boxes[:, 2:] - boxes[:, :2]).prod(-1), 1e-9, None)
    return (common / own[:, None] >= 0.5).any(1)
