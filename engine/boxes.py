"""Box arithmetic on torch tensors: formats, IoU, CIoU (1911.08287). Conventions:
`engine/types.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners to centre and size."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), -1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size to corners; the inverse of `xyxy_to_xywh`."""
    x, y, w, h = boxes.unbind(-1)
    return torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)


def _intersection_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    left_top = torch.maximum(a[..., :2], b[..., :2])
    right_bottom = torch.minimum(a[..., 2:], b[..., 2:])
    inter = (right_bottom - left_top).clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    return inter, area_a + area_b - inter


def iou(a: Tensor, b: Tensor, eps: float = 1e-9) -> Tensor:
    """IoU of xyxy boxes, elementwise over broadcast leading dimensions: (..., 4) x (..., 4) ->
    (...).
    """
    inter, union = _intersection_union(a, b)
    return inter / (union + eps)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(n, 4) x (m, 4) xyxy -> (n, m)."""
    return iou(a[:, None], b[None])


def ciou(a: Tensor, b: Tensor, eps: float = 1e-7) -> Tensor:
    """Complete IoU of xyxy boxes, elementwise over broadcast dimensions, in (-1.5, 1].

    IoU - d^2 / c^2 - alpha v: d the distance of the centres, c the diagonal of the enclosing box,
    v = 4/pi^2 (atan(w_b / h_b) - atan(w_a / h_a))^2, alpha = v / (1 - IoU + v) without gradient.
    """
    inter, union = _intersection_union(a, b)
    overlap = inter / (union + eps)
    wa, ha = (a[..., 2:] - a[..., :2]).unbind(-1)
    wb, hb = (b[..., 2:] - b[..., :2]).unbind(-1)
    enclosing = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    diagonal = enclosing.square().sum(-1) + eps
    centres = ((a[..., :2] + a[..., 2:]) - (b[..., :2] + b[..., 2:])).square().sum(-1) / 4
    v = (4 / math.pi**2) * (torch.atan(wb / (hb + eps)) - torch.atan(wa / (ha + eps))).square()
    with torch.no_grad():
        alpha = v / (1 - overlap + v + eps)
    return overlap - centres / diagonal - alpha * v
