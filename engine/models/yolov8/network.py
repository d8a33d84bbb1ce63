"""Backbone, neck (PAN) and the decoupled, anchor-free head, put together as section 1 of the
detector notes says.

The network gives raw predictions (`Preds`); what they mean in pixels is
`engine.models.yolov8.decode`, what they cost is `engine.models.yolov8.loss`. Letters: B images, A
anchor points of all three maps, C classes, R = 16 bins.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.models.yolov8.backbones import make_backbone
from engine.models.yolov8.blocks import SPPF, C2f, Conv
from engine.models.yolov8.spec import STRIDES, ModelSpec, find_spec

BINS = 16  # R, distances 0 .. 15 in units of the stride
PRIOR_IMAGE_PX = 640  # the class prior: about 5 objects in an image of this size


class Preds(NamedTuple):
    """What the head says of every anchor point, stride 8 first, row by row."""

    distances: Tensor  # (B, A, 4 * R) logits over the bins of left, top, right, bottom
    scores: Tensor  # (B, A, C) logits
    points: Tensor  # (A, 2) x, y of the anchor point in units of its stride: cell + 0.5
    strides: Tensor  # (A, 1) pixels


class Backbone(nn.Module):
    """(B, 3, H, W) -> maps of strides 8, 16, 32."""

    def __init__(self, spec: ModelSpec):
        super().__init__()
        c1, c2, c3, c4, c5 = (spec.channels(level) for level in range(1, 6))
        self.stem = Conv(3, c1, 3, 2)
        self.stage2 = nn.Sequential(Conv(c1, c2, 3, 2), C2f(c2, c2, spec.repeats(3), shortcut=True))
        self.stage3 = nn.Sequential(Conv(c2, c3, 3, 2), C2f(c3, c3, spec.repeats(6), shortcut=True))
        self.stage4 = nn.Sequential(Conv(c3, c4, 3, 2), C2f(c4, c4, spec.repeats(6), shortcut=True))
        self.stage5 = nn.Sequential(
            Conv(c4, c5, 3, 2), C2f(c5, c5, spec.repeats(3), shortcut=True), SPPF(c5, c5)
        )
        self.channels = (c3, c4, c5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p3 = self.stage3(self.stage2(self.stem(x)))
        p4 = self.stage4(p3)
        return p3, p4, self.stage5(p4)


class Neck(nn.Module):
    """Top down, then bottom up (PAN): three maps in, three maps of the same sizes out."""

    def __init__(self, spec: ModelSpec, channels: tuple[int, int, int]):
        super().__init__()
        c3, c4, c5 = (spec.channels(level) for level in (3, 4, 5))
        b3, b4, b5 = channels  # of the backbone
        n = spec.repeats(3)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.up4 = C2f(b5 + b4, c4, n, shortcut=False)
        self.up3 = C2f(c4 + b3, c3, n, shortcut=False)
        self.down3 = Conv(c3, c3, 3, 2)
        self.down4 = C2f(c3 + c4, c4, n, shortcut=False)
        self.down4_conv = Conv(c4, c4, 3, 2)
        self.down5 = C2f(c4 + b5, c5, n, shortcut=False)
        self.channels = (c3, c4, c5)

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        top4 = self.up4(torch.cat((self.up(p5), p4), 1))
        out3 = self.up3(torch.cat((self.up(top4), p3), 1))
        out4 = self.down4(torch.cat((self.down3(out3), top4), 1))
        out5 = self.down5(torch.cat((self.down4_conv(out4), p5), 1))
        return out3, out4, out5


class Head(nn.Module):
    """A box branch and a class branch on each map; no objectness."""

    def __init__(self, nc: int, channels: tuple[int, ...], strides: tuple[int, ...] = STRIDES):
        super().__init__()
        self.nc, self.strides = nc, strides
        box_width = max(16, channels[0] // 4, 4 * BINS)
        class_width = max(channels[0], min(nc, 100))
        self.box = nn.ModuleList(_branch(c, box_width, 4 * BINS) for c in channels)
        self.cls = nn.ModuleList(_branch(c, class_width, nc) for c in channels)
        for box, cls, stride in zip(self.box, self.cls, strides, strict=True):
            nn.init.constant_(box[-1].bias, 1.0)
            nn.init.constant_(cls[-1].bias, class_prior(nc, stride))

    def forward(self, maps: tuple[Tensor, ...]) -> Preds:
        distances = torch.cat([_rows(branch(x)) for branch, x in zip(self.box, maps)], 1)
        scores = torch.cat([_rows(branch(x)) for branch, x in zip(self.cls, maps)], 1)
        points, strides = anchor_points([x.shape[-2:] for x in maps], self.strides, maps[0].device)
        return Preds(distances, scores, points, strides)


def class_prior(nc: int, stride: int) -> float:
    """Bias of the class scores: ln(5 / nc / (640 / stride)^2), so that training starts near the
    true rate.
    """
    return math.log(5 / nc / (PRIOR_IMAGE_PX / stride) ** 2)


def _branch(c_in: int, width: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(Conv(c_in, width, 3), Conv(width, width, 3), nn.Conv2d(width, c_out, 1))


def _rows(x: Tensor) -> Tensor:
    """(B, c, h, w) -> (B, h * w, c)."""
    return x.flatten(2).transpose(1, 2)


def anchor_points(
    sizes: list[tuple[int, int]], strides: tuple[int, ...], device: Any
) -> tuple[Tensor, Tensor]:
    """Points (A, 2) x, y in units of the stride, and strides (A, 1), of maps of the given (h,
    w).
    """
    points, pixels = [], []
    for (h, w), stride in zip(sizes, strides, strict=True):
        y, x = torch.arange(h, device=device) + 0.5, torch.arange(w, device=device) + 0.5
        y, x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((x, y), -1).reshape(-1, 2))
        pixels.append(torch.full((h * w, 1), float(stride), device=device))
    return torch.cat(points), torch.cat(pixels)


# The beginnings of the names of the 23 layers as the family counts them; None: no parameters.
LAYERS = (
    (
        "backbone.stem.",
        *(f"backbone.stage{stage}.{part}." for stage in (2, 3, 4) for part in (0, 1)),
    )
    + ("backbone.stage5.0.", "backbone.stage5.1.", "backbone.stage5.2.")
    + (None, None, "neck.up4.", None, None, "neck.up3.", "neck.down3.", None, "neck.down4.")
    + ("neck.down4_conv.", None, "neck.down5.", "head.")
)


class DetectionModel(nn.Module):
    """(B, 3, H, W) float RGB in [0, 1], H and W multiples of 32 -> `Preds`.

    Names for `freeze`: backbone.*, neck.*, head.*; `numbered_layers` with the family's backbone

    backbone: a network of the user's own under our neck and head: (B, 3, H, W) -> three maps of
    strides 8, 16, 32 with `channels`, the number of each. `spec`, which says how to build it all
    again, is None then.
    """

    def __init__(self, spec: ModelSpec, nc: int, backbone: nn.Module | None = None):
        super().__init__()
        self.spec = spec if backbone is None else None
        self.nc, self.strides = nc, STRIDES
        own = backbone is None and not spec.backbone
        self.numbered_layers = LAYERS if own else ()
        if backbone is None:
            backbone = make_backbone(spec.backbone) if spec.backbone else Backbone(spec)
        self.backbone = backbone
        self.neck = Neck(spec, self.backbone.channels)
        self.head = Head(nc, self.neck.channels)

    def forward(self, x: Tensor) -> Preds:
        return self.head(self.neck(*self.backbone(x)))


def build_model(cfg: str | dict[str, Any] | ModelSpec, nc: int) -> DetectionModel:
    """A freshly initialised network for `nc` classes; `cfg` as in `find_spec`. ConfigError for an
    unknown one.
    """
    return DetectionModel(find_spec(cfg), nc)
