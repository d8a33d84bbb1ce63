"""Whether an exported file says the same as PyTorch: on real images, before and after NMS. Figures,
or an ExportError.

The reference is the network as trained, not fused, in float32 on the CPU, so that folding the batch
norms is checked along with the file. Letters: B images, C classes, A anchor points, K detections of
one image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.detect.runtime import Runtime, split_raw
from engine.errors import ExportError
from engine.models.yolov8.decode import nms

# Float32 sums in another order differ in the seventh digit. What some sixty layers made of it,
# measured on a trained n at 640 px: 0.002 px and 5e-7; with its logits ten times as sharp 0.011 px
# and 1e-5. A file that computes something else is far beyond: batch norms folded with epsilon 1e-5
# for 1e-3 gave 2.5 px and 0.02 at 64 px, 180 px at 640.
BOX_PX = 0.1
SCORE = 1e-3
CONFIDENCE, IOU, MAX_DET = 0.25, 0.7, 300  # of the predictor

Found = tuple[Tensor, Tensor, Tensor]  # boxes (K, 4) xyxy px, scores (K,), classes (K,)


@dataclass
class Agreement:
    """The largest differences so far."""

    images: int = 0
    max_box_px: float = 0.0  # of centre, width, height, over all anchor points
    max_score: float = 0.0
    detections: int = 0  # of the reference, over all images
    max_detection_px: float = 0.0  # of the corners of boxes that NMS kept on both sides
    # boxes that only one side kept, because of a score or an overlap at the very threshold
    flips: int = 0

    def figures(self) -> dict[str, Any]:
        """Plain numbers to two digits: the others change with the number of threads."""
        return {
            key: float(f"{value:.1e}") if isinstance(value, float) else value
            for key, value in vars(self).items()
        }


def check_agreement(
    reference: Runtime, exported: Runtime, batches: Iterable[Tensor], what: str
) -> Agreement:
    """Run both on every batch (B, 3, H, W) float in [0, 1]; `what` names the file in errors.

    Raises:
        ExportError: other class names, size or shape; values that are not finite; a difference
            beyond BOX_PX or SCORE; a detection that only one side has and rounding does not
            explain.
    """
    for key in ("names", "stride"):
        if getattr(reference, key) != getattr(exported, key):
            raise ExportError(
                f"{what}: says {key} {getattr(exported, key)}, the weights say "
                f"{getattr(reference, key)}."
            )
    so_far = Agreement()
    for images in batches:
        expected, found = reference(images), exported(images)
        _compare_raw(expected, found, so_far, what)
        for index in range(len(images)):
            _compare_detections(expected[index : index + 1], found[index : index + 1], so_far, what)
        so_far.images += len(images)
    return so_far


def _compare_raw(expected: Tensor, found: Tensor, so_far: Agreement, what: str) -> None:
    if expected.shape != found.shape:
        raise ExportError(
            f"{what}: gives {tuple(found.shape)} where PyTorch gives {tuple(expected.shape)}."
        )
    if not torch.isfinite(expected).all():
        raise ExportError(
            f"{what}: PyTorch itself gives values that are not finite: the weights are damaged. "
            "Train again."
        )
    difference = (expected - found).abs()
    box, score = float(difference[:, :4].max()), float(difference[:, 4:].max())
    if not (box <= BOX_PX and score <= SCORE):  # written so that a NaN fails too
        raise ExportError(
            f"{what}: disagrees with PyTorch: boxes by {box:.3g} px (at most {BOX_PX}), scores by "
            f"{score:.3g} (at most {SCORE}). The file was not kept. Try another opset, or report "
            "it with the versions of torch and onnxruntime."
        )
    so_far.max_box_px, so_far.max_score = max(so_far.max_box_px, box), max(so_far.max_score, score)


def _compare_detections(expected: Tensor, found: Tensor, so_far: Agreement, what: str) -> None:
    """What NMS leaves of one image, (1, 4 + C, A) on both sides, at the predictor's thresholds."""
    best = float(expected[:, 4:].max())
    # so that there always is something to compare
    confidence = CONFIDENCE if best > CONFIDENCE else best / 2
    ours, theirs = (
        nms(*split_raw(raw), confidence, IOU, max_det=MAX_DET)[0] for raw in (expected, found)
    )
    counts = len(ours[1]), len(theirs[1])
    floor = confidence if max(counts) < MAX_DET else float(torch.cat((ours[1], theirs[1])).min())
    so_far.detections += counts[0]
    for one, other in ((ours, theirs), (theirs, ours)):
        distance = _distances(one, other)
        matched = distance <= 2 * BOX_PX
        explained = _explained(one, other, floor) & ~matched
        if alone := int((~matched & ~explained).sum()):
            raise ExportError(
                f"{what}: after NMS PyTorch has {counts[0]} detections in one image and the file "
                f"{counts[1]}; {alone} of them have no counterpart within {2 * BOX_PX} px."
            )
        so_far.flips += int(explained.sum())
        so_far.max_detection_px = max(so_far.max_detection_px, *distance[matched].tolist(), 0.0)


def _distances(one: Found, other: Found) -> Tensor:
    """(K,) how far the nearest detection of the same class in `other` is: the largest difference of
    a corner, px.
    """
    if not len(other[1]):
        return torch.full((len(one[1]),), torch.inf)
    far = (one[0][:, None] - other[0][None]).abs().amax(-1)
    return far.masked_fill(one[2][:, None] != other[2][None], torch.inf).amin(1)


def _explained(one: Found, other: Found, floor: float) -> Tensor:
    """(K,) bool: a detection of `one` that rounding alone can take from `other`: its score lies at
    the threshold, or `other` kept a box that suppresses it, as equal scores may change places and
    overlaps lie at the threshold too.
    """
    from torchvision.ops import (
        box_iou,
    )  # takes seconds to import, see `engine.models.yolov8.decode`

    suppresses = (box_iou(one[0], other[0]) > IOU - 0.01) & (one[2][:, None] == other[2][None])
    return (one[1] <= floor + 2 * SCORE) | suppresses.any(1)
