"""Test-time augmentation: an image is also seen smaller, and mirrored, and the candidates of all
looks go through one NMS. Slower by three, and better where objects differ much in size.

The input keeps its size, so that every model file can do it: what is smaller lies in the corner of
a grey image. Letters: B images, N candidates of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.registry import Candidates

LOOKS = ((1.0, False), (0.83, True), (0.67, False))  # (scale, whether mirrored)
GREY = 114 / 255  # of the letterbox


def look_thrice(model: Callable[[Tensor], Candidates], images: Tensor) -> Candidates:
    """Candidates of every look in pixels of the input: boxes (B, 3 N, 4) xyxy, scores (B, 3 N, C).

    images: (B, 3, H, W) float RGB in [0, 1].
    """
    found = [_look(model, images, scale, mirrored) for scale, mirrored in LOOKS]
    return torch.cat([boxes for boxes, _ in found], 1), torch.cat([s for _, s in found], 1)


def _look(
    model: Callable[[Tensor], Candidates], images: Tensor, scale: float, mirrored: bool
) -> Candidates:
    h, w = images.shape[2:]
    size = (round(h * scale), round(w * scale))
    seen = images.flip(3) if mirrored else images
    if scale != 1:
        small = F.interpolate(seen, size=size, mode="bilinear", align_corners=False)
        seen = F.pad(small, (0, w - size[1], 0, h - size[0]), value=GREY)
    boxes, scores = model(seen)
    # Sides are whole pixels, so the two scales are not quite `scale`.
    y, x = size[0] / h, size[1] / w
    boxes = boxes / boxes.new_tensor([x, y, x, y])
    if mirrored:
        x1, y1, x2, y2 = boxes.unbind(-1)
        boxes = torch.stack((w - x2, y1, w - x1, y2), -1)
    return boxes, scores
