"""Single images: how much a detector gets wrong in each, and labels that it contradicts.

The loss of an image is the number of boxes it misses plus the scores of its false alarms, both at
one confidence: a confident false alarm weighs as much as a missed box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.datasets.label_errors import LEAST_SCORE, LabelError, LabelErrors
from engine.error_analysis.error_types import NO_ERROR, ErrorTable
from engine.metrics.image_matches import Sample
from engine.types import Detections, ImageRecord


@dataclass(frozen=True, eq=False)
class ImageLosses:
    """What is wrong in each of S images at one confidence."""

    missed: np.ndarray  # (S,) int boxes that no detection of their class found
    false_alarms: np.ndarray  # (S,) int detections of any type of error
    loss: np.ndarray  # (S,)

    def hardest(self, most: int) -> list[int]:
        """Indices of images with a loss, the greatest first; of equal ones the earlier."""
        order = np.argsort(-self.loss, kind="stable")[:most]
        return [int(i) for i in order if self.loss[i] > 0]


def image_losses(table: ErrorTable, confidence: float) -> ImageLosses:
    """Of every image of the table."""
    size = len(table.images)
    counted = table.scores >= confidence
    found = table.found_by >= 0
    found[found] = counted[table.found_by[found]]
    missed = np.bincount(table.truth_image[~found], minlength=size)
    wrong = counted & (table.error != NO_ERROR)
    false_alarms = np.bincount(table.image[wrong], minlength=size)
    scores = np.bincount(table.image[wrong], table.scores[wrong], minlength=size)
    return ImageLosses(missed, false_alarms, missed + scores)


def label_errors(samples: Sequence[Sample], names: Sequence[str]) -> list[LabelError]:
    """Labels that the detections contradict, the most confident first. `LabelError.image` is the
    key of the sample.
    """
    classes = {c: c for c in range(len(names))}
    errors = LabelErrors(names)
    for sample in samples:
        errors.add(_record(sample), best_of_each_box(sample, LEAST_SCORE), classes)
    return errors.ranked()


def best_of_each_box(sample: Sample, least_score: float) -> Detections:
    """The detections of a sample from a score up. A validation counts a box once for each class
    that it may be; here its best class stands for it.
    """
    kept = np.flatnonzero(sample.scores >= least_score)
    _, first = np.unique(sample.boxes[kept], axis=0, return_index=True)
    kept = kept[np.sort(first)]
    return Detections(sample.boxes[kept], sample.scores[kept], sample.classes[kept])


def _record(sample: Sample) -> ImageRecord:
    return ImageRecord(
        Path(sample.file),
        sample.key[0],
        (0, 0),
        sample.gt_boxes,
        sample.gt_classes,
        crowd=sample.gt_crowd,
        name=" ".join(sample.key),
    )
