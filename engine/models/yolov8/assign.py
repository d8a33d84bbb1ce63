"""Task-aligned assignment (TOOD, 2108.07755): which anchor points learn which target, and how
strongly.

Pure functions without gradient, independent of the other images of a batch. Letters: B images, A
anchor points, M targets of the fullest image, C classes, P pairs (image, target, point) with the
point inside the target.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.boxes import ciou

EPS = 1e-9


class Assignment(NamedTuple):
    """What every anchor point is to learn; meaningless where it is not foreground."""

    foreground: Tensor  # (B, A) bool
    target: Tensor  # (B, A) int64, index of the target within its image
    boxes: Tensor  # (B, A, 4) xyxy px
    scores: Tensor  # (B, A, C) soft class target, one class at most; 0 for the background


@torch.no_grad()
def assign(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    target_classes: Tensor,
    target_boxes: Tensor,
    is_target: Tensor,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    least_side: float = 0.0,
) -> Assignment:
    """Assign targets to points.

    scores (B, A, C) in [0, 1], boxes (B, A, 4) xyxy px: the predictions; points (A, 2) px;
    target_classes (B, M) int64, target_boxes (B, M, 4) xyxy px, is_target (B, M) bool: padded
    targets.

    u = max(CIoU, 0), t = score^alpha * u^beta; candidates are points strictly inside a target,
    whose sides count as at least `least_side` px here, and only here, about its middle. Each target
    takes its `topk` highest t. A point wanted by several goes to the target with the highest u of
    all that contain it, also to one that did not want it (the first of equal ones). A pair with
    t = 0 would weigh nothing in the loss and is left out, which keeps ties from deciding anything.
    """
    b, a, _ = scores.shape
    m = target_boxes.shape[1]
    overlap = boxes.new_zeros(b, m, a)
    metric = boxes.new_zeros(b, m, a)
    if m:
        i, j, k = _inside(points, _widened(target_boxes, least_side), is_target).nonzero(
            as_tuple=True
        )  # (P,) each
        u = ciou(target_boxes[i, j], boxes[i, k]).clamp(min=0)
        overlap[i, j, k] = u
        metric[i, j, k] = scores[i, k, target_classes[i, j]].pow(alpha) * u.pow(beta)
    chosen = _highest(metric, topk) & (metric > 0)
    foreground = chosen.any(1)
    if not m:
        nothing = torch.zeros(b, a, dtype=torch.int64, device=boxes.device)
        return Assignment(foreground, nothing, boxes.new_zeros(b, a, 4), torch.zeros_like(scores))
    contested = chosen.sum(1) > 1  # (B, A)
    owner = torch.where(contested, overlap.argmax(1), chosen.int().argmax(1))  # (B, A)
    is_owner = owner[:, None] == torch.arange(m, device=owner.device)[None, :, None]
    chosen = is_owner & foreground[:, None]
    soft = _soft_targets(metric * chosen, overlap * chosen)  # (B, A)
    kinds = target_classes.gather(1, owner)  # (B, A)
    soft_scores = torch.zeros_like(scores).scatter_(
        -1, kinds[..., None], soft[..., None].to(scores.dtype)
    )
    owned = target_boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    return Assignment(foreground, owner, owned, soft_scores)


def _widened(boxes: Tensor, least_side: float) -> Tensor:
    """(B, M, 4): the boxes with sides of at least `least_side`, about the same middle."""
    more = (least_side - (boxes[..., 2:] - boxes[..., :2])).clamp(min=0) / 2  # (B, M, 2)
    return boxes + torch.cat((-more, more), -1)


def _inside(points: Tensor, boxes: Tensor, is_target: Tensor) -> Tensor:
    """(B, M, A) bool: the point lies strictly inside the target."""
    x, y = points.unbind(-1)
    x1, y1, x2, y2 = (side[..., None] for side in boxes.unbind(-1))  # (B, M, 1)
    return (x > x1) & (x < x2) & (y > y1) & (y < y2) & is_target[..., None]


def _highest(metric: Tensor, topk: int) -> Tensor:
    """(B, M, A) bool: the `topk` highest of each target."""
    best = metric.topk(min(topk, metric.shape[-1]), -1).indices
    return torch.zeros_like(metric, dtype=torch.bool).scatter_(-1, best, True)


def _soft_targets(metric: Tensor, overlap: Tensor) -> Tensor:
    """(B, A): t * max(u) / (max(t) + eps), the maxima over the points of each target; inputs (B, M,
    A), 0 if not owned.
    """
    scale = overlap.amax(-1, keepdim=True) / (metric.amax(-1, keepdim=True) + EPS)
    return (metric * scale).amax(1)
