"""From raw predictions to boxes in input pixels. No image handling, no loss.

Letters: B images, A anchor points, C classes, R bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.models.yolov8.network import BINS, Preds


def expected_distances(logits: Tensor) -> Tensor:
    """(..., 4 * R) logits -> (..., 4) left, top, right, bottom in units of the stride: the mean of
    each distribution.
    """
    fractions = logits.unflatten(-1, (4, BINS)).softmax(-1)
    return fractions @ torch.arange(BINS, device=logits.device, dtype=logits.dtype)


def distances_to_xyxy(distances: Tensor, points: Tensor) -> Tensor:
    """(..., 4) left, top, right, bottom from (..., 2) points -> (..., 4) xyxy in the same units."""
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), -1)


def decode_boxes(preds: Preds) -> Tensor:
    """(B, A, 4) xyxy in input pixels."""
    return distances_to_xyxy(expected_distances(preds.distances), preds.points) * preds.strides


def decode(preds: Preds) -> tuple[Tensor, Tensor]:
    """Boxes (B, A, 4) xyxy in input pixels and scores (B, A, C) in [0, 1]."""
    return decode_boxes(preds), preds.scores.sigmoid()
