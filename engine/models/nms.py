"""From candidates to detections: threshold, suppression of doubles, the best. For every family.

Letters: B images, A candidates of an image, C classes, K detections of one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CANDIDATES = 30_000  # boxes of one image that enter NMS, best first
# of them at first: often enough for `max_det`, and NMS costs the square of their number
FIRST_CANDIDATES = 2_000


def nms(
    boxes: Tensor,
    scores: Tensor,
    conf: float,
    iou: float | None,
    max_det: int = 300,
    multi_label: bool = True,
    agnostic: bool = False,
    classes: Sequence[int] | None = None,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Detections of each image, best first: boxes (K, 4), scores (K,), classes (K,) int64.

    boxes (B, A, 4) xyxy, scores (B, A, C). `conf`: only higher scores; `iou`: above it the weaker
    box goes, None where the candidates hold no doubles; `multi_label`: a point may give several
    classes, else only its best one; `agnostic`: doubles are looked for across classes; `classes`:
    only these. There is no time limit.
    """
    return [
        _nms_one(b, s, conf, iou, max_det, multi_label, agnostic, classes)
        for b, s in zip(boxes, scores)
    ]


def _nms_one(
    boxes: Tensor,
    scores: Tensor,
    conf: float,
    iou: float | None,
    max_det: int,
    multi_label: bool,
    agnostic: bool,
    classes: Sequence[int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if multi_label:
        rows, kinds = (scores > conf).nonzero(as_tuple=True)
        values = scores[rows, kinds]
    else:
        values, kinds = scores.max(-1)
        rows = (values > conf).nonzero(as_tuple=True)[0]
        values, kinds = values[rows], kinds[rows]
    if classes is not None:
        wanted = torch.isin(
            kinds, torch.as_tensor(list(classes), device=kinds.device, dtype=kinds.dtype)
        )
        rows, kinds, values = rows[wanted], kinds[wanted], values[wanted]
    best = values.argsort(descending=True, stable=True)[:CANDIDATES]
    values, kinds, found = values[best], kinds[best], boxes[rows[best]]
    if iou is None:
        return found[:max_det], values[:max_det], kinds[:max_det]
    keep = _best_first(
        found.float(), values.float(), torch.zeros_like(kinds) if agnostic else kinds, iou, max_det
    )
    return found[keep], values[keep], kinds[keep]


def warm_up() -> None:
    """Import what NMS needs, where its time would otherwise be taken for that of the first images:
    torchvision takes seconds (it loads torch's compiler) and is not imported before there are boxes
    to compare.
    """
    import torchvision.ops  # noqa: F401


def nms_of_groups(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Indices of the boxes that NMS keeps, ascending: a box goes where its IoU with a better one of
    its group is above `iou`.

    boxes (n, 4) xyxy; scores, groups (n,); of equal scores the first is the better one. Each group
    is a call of its own, in 64 bits: shifting the groups apart, as `batched_nms` does with few
    boxes, costs digits, and boxes with negative coordinates of one group land on those of another.
    """
    from torchvision.ops import nms  # see `warm_up`

    boxes, scores = boxes.double(), scores.double()
    if not len(groups) or (groups == groups[0]).all():
        return nms(boxes, scores, iou).sort().values
    order = groups.argsort(stable=True)
    counts = torch.unique_consecutive(groups[order], return_counts=True)[1]
    parts = order.split(counts.tolist())
    return torch.cat([part[nms(boxes[part], scores[part], iou)] for part in parts]).sort().values


def _best_first(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float, max_det: int) -> Tensor:
    """The first `max_det` indices that NMS keeps of boxes (n, 4) in descending order of scores
    (n,).

    What becomes of a box depends on better ones alone, so the answer for the first boxes stands,
    whatever follows.
    """
    count = max(FIRST_CANDIDATES, 4 * max_det)
    while True:
        keep = nms_of_groups(boxes[:count], scores[:count], groups[:count], iou)
        if len(keep) >= max_det or count >= len(boxes):
            return keep[:max_det]
        count *= 4
