"""Faster R-CNN as one function of fixed shapes, as export wants it.

torchvision's own code keeps as many boxes between its stages as an image gives; here a place stays
for each, and what is not wanted has score 0. The steps and thresholds are those of torchvision's
`RegionProposalNetwork.filter_proposals` and `RoIHeads.postprocess_detections`.

Letters: B images, A anchors of all maps, P proposals of an image, C classes, K boxes of an image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.models.torchvision.networks import clip

if TYPE_CHECKING:
    from engine.models.torchvision.networks import TwoStageDetector

NOTHING = -1.0  # score of a place that holds no box
SMALLEST_BOX_PX = 1e-2  # side of a box; torchvision's, in `postprocess_detections`


class StaticTwoStageDetector(nn.Module):
    """Faster R-CNN for one input size: images (B, 3, h, w) -> boxes (B, K, 4), scores (B, K, C).
    Its anchors are constants, and every shape but B is.
    """

    def __init__(self, detector: TwoStageDetector, size: tuple[int, int]):
        super().__init__()
        self.detector, self.size = detector, size
        with torch.no_grad():  # also sets the scales of the pooling
            anchors, self.per_level = detector.anchors(
                torch.zeros(1, 3, *size, device=detector.mean.device)
            )
        self.register_buffer("anchors", anchors.clone(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.detector.features(images)
        proposals, found = self.proposals(list(maps.values()))
        return self.boxes(maps, proposals, found)

    def proposals(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 4) xyxy px and whether they are there (B, P) bool: of each map the best by
        objectness, without doubles; of all maps the best.
        """
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        rpn = self.detector.rpn
        logits, codes = rpn.head(maps)
        batch = maps[0].shape[0]
        logits, codes = concat_box_prediction_layers(logits, codes)
        boxes = decode(codes.view(batch, -1, 4), self.anchors, rpn.box_coder.weights)
        logits, boxes = logits.view(batch, -1), clip(boxes, self.size)
        start, kept_boxes, kept_scores = 0, [], []
        for count in self.per_level:
            of_map = slice(start, start + count)
            start += count
            best, places = logits[:, of_map].topk(min(count, rpn.pre_nms_top_n()), dim=1)
            mine = boxes[:, of_map].gather(1, places[..., None].expand(-1, -1, 4))
            scores = best.sigmoid()
            wanted = is_larger(mine, rpn.min_size) & (scores >= rpn.score_thresh)
            scores = torch.where(wanted, scores, NOTHING)
            kept_boxes.append(mine)
            kept_scores.append(without_doubles(mine, scores, rpn.nms_thresh))
        boxes, scores = torch.cat(kept_boxes, 1), torch.cat(kept_scores, 1)
        scores, places = scores.topk(min(scores.shape[1], rpn.post_nms_top_n()), dim=1)
        return boxes.gather(1, places[..., None].expand(-1, -1, 4)), scores >= 0

    def boxes(
        self, maps: dict[str, Tensor], proposals: Tensor, found: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes (B, K, 4) and scores (B, K, C) of proposals (B, P, 4); found (B, P) bool."""
        heads, classes = self.detector.roi_heads, self.detector.classes
        batch, count = proposals.shape[:2]
        features = self.pooled(maps, proposals)
        logits, codes = heads.box_predictor(heads.box_head(features))
        scores = logits.softmax(-1)[:, 1:].view(batch, count, classes)
        codes = codes.view(batch, count, classes + 1, 4)[:, :, 1:]
        boxes = decode(codes, proposals[:, :, None], heads.box_coder.weights)
        boxes = clip(boxes, self.size)
        wanted = found[..., None] & (scores > heads.score_thresh)
        wanted = wanted & is_larger(boxes, SMALLEST_BOX_PX)
        scores = torch.where(wanted, scores, NOTHING)
        # (B, C, P): doubles are looked for within a class
        boxes, scores = boxes.transpose(1, 2), scores.transpose(1, 2)
        scores = without_doubles(
            boxes.reshape(batch * classes, count, 4),
            scores.reshape(batch * classes, count),
            heads.nms_thresh,
        )
        scores = scores.reshape(batch, classes * count)
        scores, places = scores.topk(min(classes * count, heads.detections_per_img), dim=1)
        boxes = boxes.reshape(batch, classes * count, 4)
        boxes = boxes.gather(1, places[..., None].expand(-1, -1, 4))
        columns = torch.arange(classes, device=places.device)
        mine = (places // count)[..., None] == columns  # (B, K, C)
        return boxes, torch.where(mine, scores.clamp(min=0)[..., None], 0.0)

    def pooled(self, maps: dict[str, Tensor], proposals: Tensor) -> Tensor:
        """(B * P, channels, side, side): each proposal from the map of its size. Pooled from all
        maps, of which one is chosen, as a choice beforehand would give shapes that depend on the
        image.
        """
        from torchvision.ops import roi_align

        pool = self.detector.roi_heads.box_roi_pool
        batch, count = proposals.shape[:2]
        owners = torch.arange(batch, device=proposals.device, dtype=proposals.dtype)
        owners = owners[:, None, None].expand(batch, count, 1)
        rois = torch.cat((owners, proposals), -1).reshape(batch * count, 5)
        levels = pool.map_levels([rois[:, 1:]])[:, None, None, None]
        pooled: Any = None
        names = [name for name in maps if name in pool.featmap_names]
        for level, (name, scale) in enumerate(zip(names, pool.scales, strict=True)):
            one = roi_align(maps[name], rois, pool.output_size, scale, pool.sampling_ratio)
            pooled = one if pooled is None else torch.where(levels == level, one, pooled)
        return pooled


def decode(codes: Tensor, boxes: Tensor, weights: tuple[float, ...]) -> Tensor:
    """(..., 4) xyxy px of codes (..., 4) and the boxes they start from, by torchvision's coder."""
    from torchvision.models.detection._utils import BoxCoder

    shape = torch.broadcast_shapes(codes.shape, boxes.shape)
    coder = BoxCoder(weights)
    flat = coder.decode_single(codes.reshape(-1, 4), boxes.expand(shape).reshape(-1, 4))
    return flat.view(shape)


def is_larger(boxes: Tensor, side_px: float) -> Tensor:
    """(...) bool: both sides of boxes (..., 4) are at least `side_px`."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side_px).all(-1)


def without_doubles(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """The scores (G, n) of groups of boxes (G, n, 4), NOTHING where NMS takes the box away or the
    score is below 0 already.
    """
    in_onnx = torch.onnx.is_in_onnx_export()
    kept = (_kept_by_onnx if in_onnx else _kept)(boxes, scores, iou)
    return torch.where(kept & (scores >= 0), scores, NOTHING)


def _kept(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    from torchvision.ops import nms

    kept = torch.zeros_like(scores, dtype=torch.bool)
    for group, (its_boxes, its_scores) in enumerate(zip(boxes, scores, strict=True)):
        kept[group, nms(its_boxes, its_scores, iou)] = True
    return kept


def _kept_by_onnx(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """The same by ONNX's operator, for all groups at once. torchvision's `nms` would become the
    same operator for one group, with the groups told apart by coordinates far from each other,
    which float32 does not hold to the pixel.
    """
    groups, count = scores.shape

    def onnx(name: str, inputs: list[Tensor], dtype: torch.dtype, shape: Any, **attrs: Any) -> Any:
        return torch.onnx.ops.symbolic(name, inputs, attrs, dtype=dtype, shape=shape)

    most = torch.tensor([count], dtype=torch.int64)
    limits = [torch.tensor([value], dtype=torch.float32) for value in (iou, NOTHING / 2)]
    # Rows (group, 0, box), as many as are kept; the shape given is the most there can be.
    rows = onnx(
        "NonMaxSuppression",
        [boxes, scores[:, None], most, *limits],
        torch.int64,
        (groups * count, 3),
    )
    ones = (rows[:, 0] >= 0).to(scores.dtype)  # as many as there are rows
    zeros = torch.zeros_like(scores)[:, None]
    kept = onnx("ScatterND", [zeros, rows, ones], scores.dtype, (groups, 1, count))
    return kept[:, 0] > 0
