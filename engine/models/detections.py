"""Detections that a network has selected itself, brought into the shape of candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def padded(
    found: Sequence[Mapping[str, Tensor]], classes: int, first_label: int = 1
) -> tuple[Tensor, Tensor]:
    """Boxes (B, K, 4) xyxy px and scores (B, K, classes), K of the fullest image: each row has its
    score in the column of its class, rows that an image lacks have score 0.

    found: of each image {"boxes" (k, 4), "scores" (k,), "labels" (k,)} as torchvision's detectors
    give them. first_label: the number of class 0; lower ones are the background and left out.
    """
    kept = []
    for one in found:
        columns = one["labels"].long() - first_label
        real = (columns >= 0) & (columns < classes)
        kept.append((one["boxes"][real], one["scores"][real], columns[real]))
    most = max((len(scores) for _, scores, _ in kept), default=0)
    example = kept[0][0] if kept else torch.zeros(0, 4)
    boxes = example.new_zeros(len(kept), most, 4, dtype=torch.float32)
    scores = example.new_zeros(len(kept), most, classes, dtype=torch.float32)
    for image, (own_boxes, own_scores, columns) in enumerate(kept):
        rows = torch.arange(len(columns), device=columns.device)
        boxes[image, rows] = own_boxes.float()
        scores[image, rows, columns] = own_scores.float()
    return boxes, scores
