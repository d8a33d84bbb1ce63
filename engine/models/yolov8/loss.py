"""The loss of the detector: BCE on soft class targets, CIoU (1911.08287) and distribution focal
loss (2006.04388).

Takes the network's raw predictions and a batch, decides by task-aligned assignment what each point
learns, and gives one scalar. Letters as in `engine.models.yolov8.network`; N boxes of the batch, F
foreground points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.boxes import ciou, xywh_to_xyxy
from engine.models.family import Criterion
from engine.models.yolov8.assign import assign
from engine.models.yolov8.decode import distances_to_xyxy, expected_distances
from engine.models.yolov8.network import BINS, Preds

LAST_BIN = BINS - 1 - 0.01  # distances are clamped below the last bin, so that floor + 1 exists


class DetectionLoss(Criterion):
    """`loss, items = DetectionLoss(...)(preds, batch)`.

    Args:
        box, cls, dfl: gains of the three terms.
        class_weights: (C,) factor of each class's term, None: all 1.
        topk, alpha, beta, least_side: of the assignment.
        ranks, sum_over_ranks: where a batch is shared by several processes, their number and the
            sum of a tensor over them. While gradients are recorded, losses are then normalised over
            the whole batch, and the mean over ranks of loss, items and gradients is that of one
            process with all of it. Without gradients each process's part stands alone.
    """

    def __init__(
        self,
        box: float = 7.5,
        cls: float = 0.5,
        dfl: float = 1.5,
        class_weights: Tensor | None = None,
        topk: int = 10,
        alpha: float = 0.5,
        beta: float = 6.0,
        least_side: float = 0.0,
        ranks: int = 1,
        sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ):
        self.gains = (box, cls, dfl)
        self.class_weights = class_weights
        self.topk, self.alpha, self.beta = topk, alpha, beta
        self.least_side = least_side
        self.ranks, self._sum_over_ranks = ranks, sum_over_ranks
        # of the last call: the sum of target scores, of this process's part
        self.weight: Tensor | None = None

    def __call__(self, preds: Preds, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """(scalar: weighted sum times the batch size, items (3,) detached: box, cls, dfl with
        gains, per image).

        batch: `img` (B, 3, H, W) for the input's size, `bboxes` (N, 4) normalised xywh, `cls` (N,
        1), `batch_idx` (N,).
        """
        # In float32 also inside autocast, which would round the expected distances to 16 bits: 1/16
        # of a stride far out.
        with torch.autocast(preds.scores.device.type, enabled=False):
            return self._in_full_precision(preds, batch)

    def _in_full_precision(self, preds: Preds, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        distances, scores = preds.distances.float(), preds.scores.float()
        size = batch["img"].shape[-2:]
        classes, boxes, is_target = padded_targets(batch, len(scores), size)
        mine = distances_to_xyxy(
            expected_distances(distances), preds.points
        )  # (B, A, 4) in strides
        found = assign(
            scores.detach().sigmoid(),
            mine.detach() * preds.strides,
            preds.points * preds.strides,
            classes,
            boxes,
            is_target,
            self.topk,
            self.alpha,
            self.beta,
            self.least_side,
        )
        total, images = self._normalisers(found.scores)
        entropy = F.binary_cross_entropy_with_logits(scores, found.scores, reduction="none")
        if self.class_weights is not None:
            entropy = entropy * self.class_weights.to(entropy.device)
        cls = entropy.sum() / total
        fg = found.foreground
        weight = found.scores.sum(-1)[fg]  # (F,)
        strides = preds.strides.expand(len(scores), -1, -1)[fg]  # (F, 1)
        wanted = found.boxes[fg] / strides
        box = ((1 - ciou(wanted, mine[fg])) * weight).sum() / total
        points = preds.points.expand(len(scores), -1, -1)[fg]
        dfl = (
            focal_distances(distances[fg], xyxy_to_distances(wanted, points)) * weight
        ).sum() / total
        items = torch.stack(
            [gain * term for gain, term in zip(self.gains, (box, cls, dfl), strict=True)]
        )
        return items.sum() * images, items.detach()

    def _normalisers(self, targets: Tensor) -> tuple[Tensor, Tensor | int]:
        """(S: the sum of target scores, per rank and at least 1 in all; images of the batch, on all
        ranks).
        """
        total = targets.sum()
        self.weight = total.detach()
        if self._sum_over_ranks is None or not torch.is_grad_enabled():
            return total.clamp(min=1), len(targets)
        total, images = self._sum_over_ranks(
            torch.stack((total, targets.new_tensor(float(len(targets)))))
        )
        return total.clamp(min=1) / self.ranks, images


def padded_targets(
    batch: Mapping[str, Any], images: int, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Targets by image: classes (B, M) int64, boxes (B, M, 4) xyxy px, is_target (B, M) bool."""
    index = batch["batch_idx"].long()
    device = batch["img"].device
    counts = torch.bincount(index, minlength=images)
    m = int(counts.max()) if len(index) else 0
    order = index.argsort(stable=True)
    index = index[order]
    slot = torch.arange(len(index), device=device) - (counts.cumsum(0) - counts)[index]
    classes = torch.zeros(images, m, dtype=torch.int64, device=device)
    boxes = torch.zeros(images, m, 4, device=device)
    is_target = torch.zeros(images, m, dtype=torch.bool, device=device)
    scale = torch.tensor([size[1], size[0]] * 2, dtype=torch.float32, device=device)
    classes[index, slot] = batch["cls"].reshape(-1).long()[order]
    boxes[index, slot] = xywh_to_xyxy(batch["bboxes"].float()[order] * scale)
    is_target[index, slot] = True
    return classes, boxes, is_target


def xyxy_to_distances(boxes: Tensor, points: Tensor) -> Tensor:
    """(F, 4) xyxy and (F, 2) points -> (F, 4) left, top, right, bottom, clamped to what the bins
    can say.
    """
    return torch.cat((points - boxes[:, :2], boxes[:, 2:] - points), -1).clamp(0, LAST_BIN)


def focal_distances(logits: Tensor, distances: Tensor) -> Tensor:
    """(F,): cross entropy to the bins below and above each distance, linearly weighted, mean over
    the four sides.

    logits (F, 4 * R), distances (F, 4) in [0, R - 1).
    """
    low = distances.floor()
    fraction = (distances - low).reshape(-1)
    low = low.long().reshape(-1)
    rows = logits.reshape(-1, BINS).log_softmax(-1)
    below, above = (rows.gather(1, bins[:, None])[:, 0] for bins in (low, low + 1))
    return -(below * (1 - fraction) + above * fraction).reshape(-1, 4).mean(-1)
