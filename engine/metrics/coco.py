"""COCO average precision and recall, computed by faster-coco-eval exactly as pycocotools does.

101 recall points, IoU .50 to .95, crowd and area rules, 1/10/100 detections per image and class.
This module only
translates: no metric arithmetic of its own except means over the entries that exist (COCO marks the
others -1). Small, medium and large are distinguished by the area of the box.
Source: Lin et al., Microsoft COCO (1405.0312), and the evaluation page of the dataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.metrics.image_matches import Sample

AREAS = ("all", "small", "medium", "large")  # below 32^2, 32^2 to 96^2, above 96^2 square pixels
MAX_DETECTIONS = (1, 10, 100)


@dataclass(frozen=True, eq=False)
class CocoScores:
    """AP and AR per class, NaN where the class has no ground truth (in that area).

    Letters: C classes, R = 101 recall points 0, .01, .. 1.
    """

    ap: np.ndarray  # (C,) mean over IoU .50, .55, .. .95
    ap50: np.ndarray  # (C,)
    ap75: np.ndarray  # (C,)
    ap_area: np.ndarray  # (4, C) in the order of AREAS
    ap50_area: np.ndarray  # (4, C)
    ar: np.ndarray  # (3, C) in the order of MAX_DETECTIONS, mean over IoU
    ar_area: np.ndarray  # (4, C) in the order of AREAS, at most 100 detections
    precision50: np.ndarray  # (C, R) precision envelope at IoU .50


def coco_scores(samples: Sequence[Sample], num_classes: int) -> CocoScores:
    """Evaluate the samples in their order (it decides between equal scores of different images)."""
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    truth = [_truths(i, s) for i, s in enumerate(samples, 1)]
    found = [_detections(i, s) for i, s in enumerate(samples, 1)]
    evaluation = COCOeval_faster(
        _index(truth, len(samples), num_classes),
        _index(found, len(samples), num_classes),
        "bbox",
        print_function=_quiet,
    )
    evaluation.params.maxDets = list(MAX_DETECTIONS)
    evaluation.evaluate()
    evaluation.accumulate()
    # precision (T, R, C, areas, maxDets), recall (T, C, areas, maxDets): T IoU thresholds; -1: no
    # ground truth.
    precision = np.where(evaluation.eval["precision"] < 0, np.nan, evaluation.eval["precision"])
    recall = np.where(evaluation.eval["recall"] < 0, np.nan, evaluation.eval["recall"])
    thresholds = evaluation.params.iouThrs
    at50, at75 = (int(np.abs(thresholds - t).argmin()) for t in (0.5, 0.75))
    # With and without ground truth never mix within one class and area, so plain means keep NaN
    # exactly there.
    return CocoScores(
        ap=precision[..., 0, -1].mean((0, 1)),
        ap50=precision[at50, ..., 0, -1].mean(0),
        ap75=precision[at75, ..., 0, -1].mean(0),
        ap_area=precision[..., -1].mean((0, 1)).T,
        ap50_area=precision[at50, ..., -1].mean(0).T,
        ar=recall[:, :, 0].mean(0).T,
        ar_area=recall[..., -1].mean(0).T,
        precision50=precision[at50, ..., 0, -1].T,
    )


def mean_of_present(values: np.ndarray) -> float | None:
    """The mean over classes with ground truth; None if no class has any (COCO prints -1 there)."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else None


def _truths(image_id: int, sample: Sample) -> list[dict[str, Any]]:
    rows = _rows(image_id, sample.gt_boxes, sample.gt_classes)
    for row, crowd in zip(rows, sample.gt_crowd.tolist(), strict=True):
        row["iscrowd"] = int(crowd)
    return rows


def _detections(image_id: int, sample: Sample) -> list[dict[str, Any]]:
    rows = _rows(image_id, sample.boxes, sample.classes)
    for row, score in zip(rows, sample.scores.tolist(), strict=True):
        row["score"] = score
        row["iscrowd"] = 0
    return rows


def _rows(image_id: int, boxes: np.ndarray, classes: np.ndarray) -> list[dict[str, Any]]:
    xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)
    areas = xywh[:, 2] * xywh[:, 3]
    return [
        {"image_id": image_id, "category_id": c + 1, "bbox": box, "area": area}
        for box, c, area in zip(xywh.tolist(), classes.tolist(), areas.tolist(), strict=True)
    ]


def _index(rows_of_images: list[list[dict[str, Any]]], images: int, num_classes: int) -> Any:
    from faster_coco_eval.core.coco import COCO

    annotations = [row for rows in rows_of_images for row in rows]
    for i, row in enumerate(annotations, 1):  # from 1: an id of 0 would mean "not matched"
        row["id"] = i
    index = COCO(print_function=_quiet)
    index.dataset = {
        "images": [{"id": i} for i in range(1, images + 1)],
        "categories": [{"id": c} for c in range(1, num_classes + 1)],
        "annotations": annotations,
    }
    index.createIndex()
    return index


def _quiet(*_: Any) -> None:
    """faster-coco-eval reports its progress through this."""
