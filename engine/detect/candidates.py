"""Boxes and scores of whatever a network of the user's own returns in eval mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from engine.errors import TrainingError
from engine.models.detections import padded
from engine.models.family import kind_of
from engine.models.registry import Candidates, built_in


def read_candidates(preds: Any, classes: int, first_label: int = 1) -> Candidates:
    """Boxes (B, N, 4) xyxy px of the input and scores (B, N, classes) of what a network of the
    user's own returns in eval mode: such a pair, the output of a family here (YOLOv8's `Preds`), or
    of each image a dictionary with boxes, scores and labels as torchvision's detectors give it.

    first_label: in such dictionaries, the label of class 0.

    Raises:
        TrainingError: something else; says what, and the method to override.
    """
    if type(preds) in (tuple, list) and len(preds) == 2 and _is_pair(*preds):
        boxes, scores = preds
        if scores.shape[-1] != classes:
            raise TrainingError(
                f"the network gives scores for {scores.shape[-1]} classes, and there are {classes}"
            )
        return boxes.float(), scores.float()
    for family in built_in():
        if family.reads(preds):
            return family.candidates(preds)
    if isinstance(preds, Sequence) and all(
        isinstance(one, Mapping) and {"boxes", "scores", "labels"} <= set(one) for one in preds
    ):
        return padded(preds, classes, first_label)
    raise TrainingError(
        f"what the network returned in eval mode ({kind_of(preds)}) is none of: boxes (B, N, 4) "
        "xyxy px with scores (B, N, C), engine.models.yolov8.Preds, or a list of {boxes, scores, "
        "labels}. Override candidates(preds) of the trainer to bring it into the first form"
    )


def _is_pair(boxes: Any, scores: Any) -> bool:
    return (
        isinstance(boxes, Tensor)
        and isinstance(scores, Tensor)
        and boxes.ndim == scores.ndim == 3
        and boxes.shape[:2] == scores.shape[:2]
        and boxes.shape[-1] == 4
    )
