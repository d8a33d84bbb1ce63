"""Large images in overlapping pieces: where the tiles lie, and how their detections become one
list.

An object on a seam is seen cut in one tile and, when it is smaller than the overlap, whole in the
next; the cut boxes have too little IoU with the whole one for NMS, so they are removed by the
fraction of their own area that is covered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from engine.models.nms import nms_of_groups
from engine.types import Detections, Size

SEAM_PX = 2.0  # a box ending this close to a seam counts as cut
# a cut box with this fraction of its area inside another box of its class is a part of that one
COVERED = 0.7

Seen = tuple[
    np.ndarray, np.ndarray, np.ndarray, np.ndarray
]  # boxes (n, 4), scores (n,), classes (n,), cut (n,) bool


def tile_corners(size: Size, tile: int, overlap: float) -> list[tuple[int, int]]:
    """(x, y) of the tiles that cover an image of `size`, row by row; neighbours overlap by at least
    `overlap` of a tile.

    The last tile of a row ends at the border, all tiles lie inside an image that is larger than
    one.
    """
    h, w = size
    return [(x, y) for y in _starts(h, tile, overlap) for x in _starts(w, tile, overlap)]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    if length <= tile:
        return [0]
    step = max(int(tile * (1 - overlap)), 1)
    count = -(-(length - tile) // step) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def touches_seam(
    boxes: np.ndarray, corner: tuple[int, int], shape: Size, image: Size
) -> np.ndarray:
    """(n,) bool: boxes (n, 4) of the image's pixels that end at a side of the tile which is no
    border of the image.
    """
    x, y = corner
    right, bottom = x + shape[1], y + shape[0]
    cut = np.zeros(len(boxes), bool)
    for at, column, is_border in (
        (x, 0, x <= 0),
        (y, 1, y <= 0),
        (right, 2, right >= image[1]),
        (bottom, 3, bottom >= image[0]),
    ):
        if not is_border:
            cut |= np.abs(boxes[:, column] - at) <= SEAM_PX
    return cut


def merge_tiles(
    views: Sequence[Seen], iou: float, max_det: int, agnostic: bool = False
) -> Detections:
    """One `Detections`, best first, of what was seen in one or more views of the same image."""
    boxes, scores, classes, cut = (np.concatenate(parts) for parts in zip(*views))
    if len(views) > 1 and len(boxes):
        group = np.zeros_like(classes) if agnostic else classes
        whole = ~_covered(boxes, scores, group, cut)
        boxes, scores, classes, group = boxes[whole], scores[whole], classes[whole], group[whole]
        tensors = map(torch.from_numpy, (boxes, scores, group))
        keep = nms_of_groups(*tensors, iou).numpy()
        boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
    order = np.argsort(-scores, kind="stable")[:max_det]
    return Detections(
        boxes[order].astype(np.float32),
        scores[order].astype(np.float32),
        classes[order].astype(np.int64),
    )


def _covered(
    boxes: np.ndarray, scores: np.ndarray, group: np.ndarray, cut: np.ndarray
) -> np.ndarray:
    """(n,) bool: cut boxes that are a part of another box: one that is whole, or cut too but
    larger.
    """
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    covered = np.zeros(len(boxes), bool)
    for i in np.flatnonzero(cut):  # one row at a time: n x n would not fit for a very large image
        low, high = np.maximum(boxes[i, :2], boxes[:, :2]), np.minimum(boxes[i, 2:], boxes[:, 2:])
        inside = np.clip(high - low, 0, None).prod(1)
        larger = (area > area[i]) & (group == group[i])
        covered[i] = bool((larger & (inside >= COVERED * max(area[i], 1e-9))).any())
    return covered
