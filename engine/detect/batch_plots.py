"""Batches as plots: what the network was shown, and what it said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.boxes import xywh_to_xyxy
from engine.plots import plot_images

MOST_IMAGES = 16
SHOWN_CONF = 0.25


def images_of(batch: Any) -> list[np.ndarray]:
    """(H, W, 3) uint8 RGB of the first images of a batch, whichever form they are in."""
    images = batch["img"][:MOST_IMAGES]
    if images.is_floating_point():
        images = (images * 255).round().to(torch.uint8)
    return list(images.permute(0, 2, 3, 1).cpu().contiguous().numpy())


def truths_of(batch: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Boxes (n, 4) xyxy px of the input and classes (n,) of the first images of a batch."""
    h, w = batch["img"].shape[-2:]
    boxes = xywh_to_xyxy(batch["bboxes"].cpu().float()) * torch.tensor([w, h, w, h])
    index, classes = batch["batch_idx"].cpu(), batch["cls"].cpu().reshape(-1).long()
    count = min(len(batch["img"]), MOST_IMAGES)
    return [boxes[index == i].numpy() for i in range(count)], [
        classes[index == i].numpy() for i in range(count)
    ]


def plot_batch(batch: Any, names: Sequence[str], path: Path) -> None:
    """The images of a batch with their true boxes."""
    boxes, classes = truths_of(batch)
    titles = [Path(file).name for file in batch.get("im_file", ())][: len(boxes)] or None
    plot_images(images_of(batch), boxes, classes, None, names, path, titles=titles)


def plot_found(
    batch: Any,
    found: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    names: Sequence[str],
    path: Path,
) -> None:
    """The images of a batch with the detections (boxes in px of the input, scores, classes) worth
    showing.
    """
    images = images_of(batch)
    boxes, classes, scores = [], [], []
    for each_boxes, each_scores, each_classes in found[: len(images)]:
        shown = each_scores >= SHOWN_CONF
        boxes.append(each_boxes[shown])
        classes.append(each_classes[shown])
        scores.append(each_scores[shown])
    titles = [Path(file).name for file in batch.get("im_file", ())][: len(images)] or None
    plot_images(images, boxes, classes, scores, names, path, titles=titles)
