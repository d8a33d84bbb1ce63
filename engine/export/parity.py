"""Whether an exported file says the same as PyTorch: on real images, before and after NMS. Metrics,
or an ExportError.

The reference is the network as trained, not fused, in float32 on the CPU, so that folding the batch
norms is checked along with the file. Letters: B images, N candidates of one image, C classes, K
detections of one image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.boxes import xyxy_to_xywh
from engine.config import PredictConfig
from engine.detect.runtime import Candidates, Runtime
from engine.errors import ExportError
from engine.models.nms import nms

# Float32 sums in another order differ in the seventh digit. What some sixty layers made of it,
# measured on a trained n at 640 px: 0.002 px and 5e-7; with its logits ten times as sharp 0.011 px
# and 1e-5. A file that computes something else is far beyond: batch norms folded with epsilon 1e-5
# for 1e-3 gave 2.5 px and 0.02 at 64 px, 180 px at 640.
BOX_PX = 0.1
SCORE = 1e-3
CONFIDENCE, IOU, MAX_DET = PredictConfig().thresholds().values()
# Of a network that selects its detections itself: below this score none is compared, and a box
# above this overlap may have been removed by another.
FINAL_CONFIDENCE, FINAL_IOU = 0.01, 0.5
# A box moved by a wrong file looks like one that took the place of another with an equal score,
# and only their number says: rounding changes few.
FINAL_DETECTIONS_PER_FLIP = 10

Found = tuple[Tensor, Tensor, Tensor]  # boxes (K, 4) xyxy px, scores (K,), classes (K,)


@dataclass
class Parity:
    """The largest differences so far."""

    images: int = 0
    max_box_px: float = 0.0  # of centre, width, height, over all candidates
    max_score: float = 0.0
    detections: int = 0  # of the reference, over all images
    max_detection_px: float = 0.0  # of the corners of boxes that NMS kept on both sides
    # boxes that only one side kept, because of a score or an overlap at the very threshold
    flips: int = 0

    def metrics(self) -> dict[str, Any]:
        """Plain numbers to two digits: the others change with the number of threads."""
        return {
            key: float(f"{value:.1e}") if isinstance(value, float) else value
            for key, value in vars(self).items()
        }


def check_parity(
    reference: Runtime, exported: Runtime, batches: Iterable[Tensor], what: str
) -> Parity:
    """Run both on every batch (B, 3, H, W) float in [0, 1]; `what` names the file in errors.

    Candidates that have a place each are compared one by one, their detections too. Those that the
    network itself selects (`Runtime.selects`) are detections, whose order rounding can change: they
    are compared as sets.

    Raises:
        ExportError: other class names, size or shape; values that are not finite; a difference
            beyond BOX_PX or SCORE; a detection that only one side has and rounding does not
            explain.
    """
    for key in ("names", "stride", "needs_nms"):
        if getattr(reference, key) != getattr(exported, key):
            raise ExportError(
                f"{what}: says {key} {getattr(exported, key)}, the weights say "
                f"{getattr(reference, key)}."
            )
    so_far, final = Parity(), reference.selects
    for images in batches:
        expected, found = reference(images), exported(images)
        _check_values(expected, found, what, final)
        if not final:
            _compare_candidates(expected, found, so_far, what)
        for index in range(len(images)):
            one = slice(index, index + 1)
            ours, theirs = ((boxes[one], scores[one]) for boxes, scores in (expected, found))
            _compare_detections(ours, theirs, so_far, what, final)
        so_far.images += len(images)
    if final and so_far.flips > max(1, so_far.detections // FINAL_DETECTIONS_PER_FLIP):
        raise ExportError(
            f"{what}: {so_far.flips} detections, of {so_far.detections} of PyTorch, are on one "
            "side only: more than rounding explains. The file was not kept."
        )
    return so_far


def _check_values(expected: Candidates, found: Candidates, what: str, final: bool) -> None:
    shapes = [[tuple(each.shape) for each in of] for of in (expected, found)]
    if final:  # how many there are may differ by what lies at a threshold
        shapes = [[(shape[0], shape[2]) for shape in of] for of in shapes]
    if shapes[0] != shapes[1]:
        raise ExportError(
            f"{what}: gives boxes {shapes[1][0]} and scores {shapes[1][1]} where PyTorch gives "
            f"{shapes[0][0]} and {shapes[0][1]}."
        )
    if not all(torch.isfinite(each).all() for each in expected):
        raise ExportError(
            f"{what}: PyTorch itself gives values that are not finite: the weights are damaged. "
            "Train again."
        )
    if final and not all(torch.isfinite(each).all() for each in found):
        raise ExportError(f"{what}: gives values that are not finite where PyTorch does not.")


def _compare_candidates(expected: Candidates, found: Candidates, so_far: Parity, what: str) -> None:
    box = float((xyxy_to_xywh(expected[0]) - xyxy_to_xywh(found[0])).abs().max())
    score = float((expected[1] - found[1]).abs().max())
    if not (box <= BOX_PX and score <= SCORE):  # written so that a NaN fails too
        raise ExportError(
            f"{what}: differs from PyTorch: boxes by {box:.3g} px (at most {BOX_PX}), scores by "
            f"{score:.3g} (at most {SCORE}). The file was not kept. Try another opset, or report "
            "it with the versions of torch and onnxruntime."
        )
    so_far.max_box_px, so_far.max_score = max(so_far.max_box_px, box), max(so_far.max_score, score)


def _compare_detections(
    expected: Candidates, found: Candidates, so_far: Parity, what: str, final: bool = False
) -> None:
    """The detections of one image, (1, N, 4) and (1, N, C) on both sides, at the predictor's
    thresholds; `final`: as they are.
    """
    confidence, iou = (FINAL_CONFIDENCE, FINAL_IOU) if final else (CONFIDENCE, IOU)
    best = max(expected[1].flatten().tolist(), default=0.0)
    if best <= confidence:
        confidence = best / 2  # so that there always is something to compare
    # Above an IoU of 1 nothing lies: all stay, best first.
    ours, theirs = (
        nms(*each, confidence, 1.0 if final else iou, max_det=MAX_DET)[0]
        for each in (expected, found)
    )
    counts = len(ours[1]), len(theirs[1])
    cut = final or max(counts) == MAX_DET  # the network has a threshold of its own
    floor = min(torch.cat((ours[1], theirs[1])).tolist(), default=0.0) if cut else confidence
    so_far.detections += counts[0]
    for one, other in ((ours, theirs), (theirs, ours)):
        distance, score = _nearest(one, other)
        matched = distance <= 2 * BOX_PX
        explained = _explained(one, other, floor, iou) & ~matched
        if alone := int((~matched & ~explained).sum()):
            raise ExportError(
                f"{what}: after NMS PyTorch has {counts[0]} detections in one image and the file "
                f"{counts[1]}; {alone} of them have no counterpart within {2 * BOX_PX} px and "
                f"{SCORE} of score."
            )
        so_far.flips += int(explained.sum())
        so_far.max_detection_px = max(so_far.max_detection_px, *distance[matched].tolist(), 0.0)
        if final:
            so_far.max_score = max(so_far.max_score, *score[matched].tolist(), 0.0)


def _nearest(one: Found, other: Found) -> tuple[Tensor, Tensor]:
    """(K,) how far the nearest detection of the same class and score in `other` is: the largest
    difference of a corner, px; infinite where there is none. And how far its score is.
    """
    if not len(other[1]):
        return torch.full((len(one[1]),), torch.inf), torch.full((len(one[1]),), torch.inf)
    far = (one[0][:, None] - other[0][None]).abs().amax(-1)
    score = (one[1][:, None] - other[1][None]).abs()
    far = far.masked_fill((one[2][:, None] != other[2][None]) | (score > SCORE), torch.inf)
    distance, index = far.min(1)
    return distance, score.gather(1, index[:, None])[:, 0]


def _explained(one: Found, other: Found, floor: float, iou: float) -> Tensor:
    """(K,) bool: a detection of `one` that rounding alone can take from `other`: its score lies at
    the threshold, or `other` kept a box that suppresses it, as equal scores may change places and
    overlaps lie at the threshold too.
    """
    from torchvision.ops import box_iou  # takes seconds to import, see `warm_up` of NMS

    same_class = one[2][:, None] == other[2][None]
    # In the very same place it is no other box, but the same one with another score.
    elsewhere = (one[0][:, None] - other[0][None]).abs().amax(-1) > 2 * BOX_PX
    suppresses = (box_iou(one[0], other[0]) > iou - 0.01) & same_class & elsewhere
    return (one[1] <= floor + 2 * SCORE) | suppresses.any(1)
