"""Which of torchvision's detectors there are, and each one as a module of the shape used here.

The modules keep torchvision's parameter names, so its published state dicts fit and `freeze:
[backbone]` means the same as elsewhere. torchvision's resizing is not used: images come
letterboxed.

Letters: B images, A anchors of all maps, K classes of the head (with background where it has one).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Network:
    """What distinguishes one detector from another, before it is built."""

    losses: tuple[str, ...]  # torchvision's names of the terms, in the order they are reported
    background: int  # 1: the head has a column for the background, before the first class
    smallest_px: int = 32  # sides below leave a map without a single cell
    dense: bool = True  # boxes and scores of all anchors; else its own proposals and selection


SSD = ("bbox_regression", "classification")
RETINANET = ("classification", "bbox_regression")
FCOS = ("classification", "bbox_regression", "bbox_ctrness")
FASTER_RCNN = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")

NETWORKS: dict[str, Network] = {
    "ssdlite320_mobilenet_v3_large": Network(SSD, background=1),
    "ssd300_vgg16": Network(SSD, background=1, smallest_px=268),
    "retinanet_resnet50_fpn": Network(RETINANET, background=0),
    "retinanet_resnet50_fpn_v2": Network(RETINANET, background=0),
    "fcos_resnet50_fpn": Network(FCOS, background=0),
    "fasterrcnn_mobilenet_v3_large_320_fpn": Network(FASTER_RCNN, background=1, dense=False),
    "fasterrcnn_mobilenet_v3_large_fpn": Network(FASTER_RCNN, background=1, dense=False),
    "fasterrcnn_resnet50_fpn": Network(FASTER_RCNN, background=1, dense=False),
    "fasterrcnn_resnet50_fpn_v2": Network(FASTER_RCNN, background=1, dense=False),
}

SCORE_FLOOR, MOST_FOUND = 0.001, 300  # of Faster R-CNN's own selection: those of validation here


class Dense(NamedTuple):
    """What a one-stage network says of every anchor."""

    outputs: dict[str, Tensor]  # cls_logits (B, A, K), bbox_regression (B, A, 4), of FCOS also
    #                             bbox_ctrness (B, A, 1)
    anchors: Tensor  # (A, 4) xyxy px of the input
    per_level: tuple[int, ...]  # anchors of each map
    size: tuple[int, int]  # (h, w) of the input
    detector: DenseDetector  # whose it is: it knows how to read it


def build(name: str, classes: int) -> nn.Module:
    """The detector `name` with fresh weights."""
    from torchvision.models import get_model

    network = NETWORKS[name]
    net = get_model(
        name, weights=None, weights_backbone=None, num_classes=classes + network.background
    )
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = PatientBatchNorm
    if hasattr(net, "anchor_generator") and hasattr(net.anchor_generator, "steps"):
        # SSD300 places its boxes by steps in pixels of a 300 px input; without them they follow the
        # maps, whatever the size. At 300 px they move by less than a pixel.
        net.anchor_generator.steps = None
    return DenseDetector(net, name) if network.dense else TwoStageDetector(net, name)


class PatientBatchNorm(nn.BatchNorm2d):
    """Batch norm that takes its running statistics where a batch gives one value per channel, which
    has no variance: the last maps of an SSD with a batch of one image. torch refuses there.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(x)


class Detector(nn.Module):
    """The common part: torchvision's parts under its own names, and the normalisation."""

    def __init__(self, net: nn.Module, name: str):
        super().__init__()
        self.name = name
        self.network = NETWORKS[name]
        self._net = [net]  # in a list: its parts are registered below, under torchvision's names
        for part, module in net.named_children():
            if part != "transform":
                self.add_module(part, module)
        for kind in ("mean", "std"):
            values = torch.tensor(getattr(net.transform, f"image_{kind}")).view(1, 3, 1, 1)
            self.register_buffer(kind, values, persistent=False)

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The maps of (B, 3, H, W) float RGB in [0, 1], finest first."""
        return self.backbone((images - self.mean) / self.std)


class DenseDetector(Detector):
    """SSD, RetinaNet or FCOS: images (B, 3, H, W) -> `Dense`. Targets are not needed for that."""

    def __init__(self, net: nn.Module, name: str):
        super().__init__(net, name)
        self.coder_weights: tuple[float, ...] | None = getattr(net.box_coder, "weights", None)

    def forward(self, images: Tensor, targets: Any = None) -> Dense:
        from torchvision.models.detection.image_list import ImageList

        maps = list(self.features(images).values())
        outputs = self.head(maps)
        size = (int(images.shape[-2]), int(images.shape[-1]))
        (anchors,) = self.anchor_generator(ImageList(images[:1], [size]), maps)
        cells = [each.shape[-2] * each.shape[-1] for each in maps]
        at_a_cell = self.anchor_generator.num_anchors_per_location()
        return Dense(
            outputs,
            anchors,
            tuple(count * many for count, many in zip(cells, at_a_cell, strict=True)),
            size,
            self,
        )

    def losses(self, preds: Dense, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """torchvision's terms by name; targets as `engine.models.targets.image_targets` gives
        them, labels from `background`.
        """
        net = self._net[0]
        anchors = [preds.anchors] * len(targets)
        outputs = {name: value.float() for name, value in preds.outputs.items()}
        if self.network.losses == SSD:
            return net.compute_loss(targets, outputs, anchors, self._matched(targets, anchors))
        if self.network.losses == FCOS:
            return net.compute_loss(targets, outputs, anchors, list(preds.per_level))
        return net.compute_loss(targets, outputs, anchors)

    def _matched(self, targets: list[dict[str, Tensor]], anchors: list[Tensor]) -> list[Tensor]:
        """Of each image (A,): the target of each anchor, -1 for the background."""
        from torchvision.ops import box_iou

        matcher = self._net[0].proposal_matcher
        return [
            matcher(box_iou(target["boxes"], boxes))
            if len(target["boxes"])
            else torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
            for target, boxes in zip(targets, anchors, strict=True)
        ]


class Found(NamedTuple):
    """What Faster R-CNN selected."""

    detections: list[dict[str, Tensor]]  # of each image boxes (k, 4) px, scores (k,), labels from 1
    classes: int  # without background


class TwoStageDetector(Detector):
    """Faster R-CNN: images (B, 3, H, W), in training with targets -> its losses by name; in eval
    mode -> `Found`.
    """

    def __init__(self, net: nn.Module, name: str):
        super().__init__(net, name)
        self.classes = net.roi_heads.box_predictor.cls_score.out_features - 1
        # Its own would end at 100 boxes of score 0.05, before `conf` and `max_det` are asked.
        self.roi_heads.score_thresh = SCORE_FLOOR
        self.roi_heads.detections_per_img = MOST_FOUND

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Any:
        from torchvision.models.detection.image_list import ImageList

        maps = self.features(images)
        sizes = [tuple(images.shape[-2:])] * len(images)
        proposals, of_proposals = self.rpn(ImageList(images, sizes), maps, targets)
        found, of_boxes = self.roi_heads(maps, proposals, sizes, targets)
        return {**of_boxes, **of_proposals} if self.training else Found(found, self.classes)

    def anchors(self, images: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """(A, 4) xyxy px for images of this size, and how many of them each map has."""
        from torchvision.models.detection.image_list import ImageList

        maps = self.features(images)
        sizes = [tuple(images.shape[-2:])] * len(images)
        anchors = self.rpn.anchor_generator(ImageList(images, sizes), list(maps.values()))[0]
        at_a_cell = self.rpn.anchor_generator.num_anchors_per_location()
        self.roi_heads.box_roi_pool(maps, [anchors[:1]], sizes[:1])  # learns the scales of the maps
        cells = [each.shape[-2] * each.shape[-1] for each in maps.values()]
        return anchors, tuple(a * b for a, b in zip(cells, at_a_cell, strict=True))


class StaticDetector(nn.Module):
    """A dense detector for one input size, as export wants it: images (B, 3, h, w) -> boxes (B, A,
    4), scores (B, A, C). Its anchors are constants, so nothing in it depends on a shape.
    """

    def __init__(self, detector: DenseDetector, size: tuple[int, int]):
        super().__init__()
        self.detector, self.size = detector, size
        with torch.no_grad():
            example = detector(torch.zeros(1, 3, *size, device=detector.mean.device))
        self.register_buffer("anchors", example.anchors.clone(), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.detector.head(list(self.detector.features(images).values()))
        return decode(Dense(outputs, self.anchors, (), self.size, self.detector))


def decode(preds: Dense) -> tuple[Tensor, Tensor]:
    """Boxes (B, A, 4) xyxy px clipped to the input, scores (B, A, C) without background."""
    outputs = {name: value.float() for name, value in preds.outputs.items()}
    logits = outputs["cls_logits"]
    if ahead := preds.detector.network.background:
        scores = logits.softmax(-1)[..., ahead:]
    elif "bbox_ctrness" in outputs:
        scores = (logits.sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()
    else:
        scores = logits.sigmoid()
    boxes = _boxes(outputs["bbox_regression"], preds.anchors, preds.detector.coder_weights)
    return clip(boxes, preds.size), scores


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) xyxy px within an image of `size` (h, w)."""
    h, w = size
    x, y = boxes[..., 0::2].clamp(0, w), boxes[..., 1::2].clamp(0, h)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), -1)


def _boxes(codes: Tensor, anchors: Tensor, weights: tuple[float, ...] | None) -> Tensor:
    """(B, A, 4) xyxy px of codes (B, A, 4) and anchors (A, 4). weights: of the box coder, None for
    FCOS's linear one.
    """
    low, high = anchors[:, :2], anchors[:, 2:]
    extent, centre = high - low, (low + high) / 2
    if weights is None:  # distances to the four sides, in anchor sizes
        return torch.cat((centre - codes[..., :2] * extent, centre + codes[..., 2:] * extent), -1)
    shift, growth = codes[..., :2], codes[..., 2:]
    if weights != (1.0, 1.0, 1.0, 1.0):
        factors = codes.new_tensor(weights)
        shift, growth = shift / factors[:2], growth / factors[2:]
    middle = shift * extent + centre
    half = growth.clamp(max=LARGEST_GROWTH).exp() * extent / 2
    return torch.cat((middle - half, middle + half), -1)


LARGEST_GROWTH = 4.135166556742356  # ln(1000 / 16), torchvision's: exp must not overflow
