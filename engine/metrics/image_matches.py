"""One evaluated image as plain float64 arrays, and the IoU that COCO defines; what all the metrics
here start from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.errors import DataError
from engine.types import Detections, ImageRecord


@dataclass(frozen=True, eq=False)
class Sample:
    """Ground truth and detections of one image. Letters: n boxes of the truth, K detections (best
    first).
    """

    key: tuple[str, str]  # (sha256, name): who it is, on any machine
    file: str
    name: str
    gt_boxes: np.ndarray  # (n, 4) float64 xyxy pixels
    gt_classes: np.ndarray  # (n,) int64
    gt_crowd: np.ndarray  # (n,) bool
    boxes: np.ndarray  # (K, 4) float64
    scores: np.ndarray  # (K,) float64
    classes: np.ndarray  # (K,) int64


def make_sample(detections: Detections, record: ImageRecord, num_classes: int) -> Sample:
    """Copy both sides to float64, detections ordered by score (equal scores keep their order).

    Raises DataError for a class index outside `names` and for boxes or scores that are not finite.
    """
    name = record.name or record.file.name
    n = len(record.classes)
    crowd = np.zeros(n, bool) if record.crowd is None else np.asarray(record.crowd, bool)
    scores = _array(detections.scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    sample = Sample(
        key=(record.sha256 or str(record.file), name),
        file=str(record.file),
        name=name,
        gt_boxes=_array(record.boxes, np.float64).reshape(n, 4),
        gt_classes=_array(record.classes, np.int64),
        gt_crowd=crowd,
        boxes=_array(detections.boxes, np.float64).reshape(len(scores), 4)[order],
        scores=scores[order],
        classes=_array(detections.classes, np.int64)[order],
    )
    for classes, whose in ((sample.gt_classes, "annotation"), (sample.classes, "detection")):
        if len(classes) and not (0 <= classes.min() and classes.max() < num_classes):
            wrong = classes[(classes < 0) | (classes >= num_classes)][0]
            raise DataError(
                f"{record.file}: {whose} of class {wrong}, but there are {num_classes} class names "
                f"(0 to {num_classes - 1}). Evaluate with the names the model was trained on."
            )
    if not (
        np.isfinite(sample.boxes).all()
        and np.isfinite(sample.scores).all()
        and np.isfinite(sample.gt_boxes).all()
    ):
        raise DataError(
            f"{record.file}: a box or score is not finite. Check the annotation, then the model's "
            "weights."
        )
    return sample


def _array(values: object, dtype: type) -> np.ndarray:
    """A copy, so that a caller who reuses its buffers cannot change results already taken."""
    return np.array(values, dtype)


def overlaps(boxes: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(K, 4), (n, 4) xyxy -> IoU (K, n) and intersection over the detection's own area (K, n),
    which crowds are matched by. No epsilon, as in COCO; 0 where the area is 0.
    """
    # Corner plus size, as COCO computes from xywh: an IoU on a threshold then falls to the same
    # side, to the last bit.
    size, truth_size = boxes[:, 2:] - boxes[:, :2], truths[:, 2:] - truths[:, :2]
    far, truth_far = boxes[:, :2] + size, truths[:, :2] + truth_size
    side = np.minimum(far[:, None], truth_far[None]) - np.maximum(
        boxes[:, None, :2], truths[None, :, :2]
    )
    inter = side.clip(min=0).prod(-1)
    area = size.prod(-1)[:, None]
    union = area + truth_size.prod(-1)[None] - inter
    area = np.broadcast_to(area, inter.shape)
    iou = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return iou, np.divide(inter, area, out=np.zeros_like(inter), where=area > 0)
