"""The truth of a batch as networks take it that want one entry an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from engine.boxes import xywh_to_xyxy


def image_targets(batch: Mapping[str, Any], first_label: int = 1) -> list[dict[str, Tensor]]:
    """The truth of each image as torchvision's detectors take it: {"boxes" (n, 4) xyxy px of the
    input, "labels" (n,) int64}. Boxes without an area, which augmentation may leave, are not there:
    no network can learn them.

    first_label: the number of class 0; torchvision keeps 0 for the background.
    """
    h, w = batch["img"].shape[-2:]
    boxes = xywh_to_xyxy(batch["bboxes"]) * batch["bboxes"].new_tensor([w, h, w, h])
    labels = batch["cls"].reshape(-1).long() + first_label
    owners = batch["batch_idx"].reshape(-1).long()
    real = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return [
        {"boxes": boxes[mine], "labels": labels[mine]}
        for mine in (real & (owners == i) for i in range(len(batch["img"])))
    ]
