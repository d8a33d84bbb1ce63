"""The building blocks. Letters: B images, c channels, h w size of a map.

C2f follows CSPNet (1911.11929), SPPF is SPP (1406.4729) with its pools chained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORM_EPS = 1e-3
# The family's published 0.03 keeps the statistics of fresh weights for a hundred steps, so that a
# short run is measured with them; the average of the weights (EMA) smooths the statistics anyway.
# Measured: benchmarks/LOG.md.
NORM_MOMENTUM = 0.1


class Conv(nn.Module):
    """Convolution without bias, batch norm, SiLU: (B, c_in, h, w) -> (B, c_out, h / stride, w /
    stride).
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=NORM_EPS, momentum=NORM_MOMENTUM)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, with a residual where `shortcut` asks for one."""

    def __init__(self, c: int, shortcut: bool):
        super().__init__()
        self.cv1 = Conv(c, c, 3)
        self.cv2 = Conv(c, c, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.shortcut else y


class C2f(nn.Module):
    """1x1 to two halves, n bottlenecks chained on the second, all n + 2 parts joined, 1x1 to
    c_out.
    """

    def __init__(self, c_in: int, c_out: int, n: int, shortcut: bool):
        super().__init__()
        self.c = c_out // 2
        self.cv1 = Conv(c_in, 2 * self.c)
        self.cv2 = Conv((2 + n) * self.c, c_out)
        self.m = nn.ModuleList(Bottleneck(self.c, shortcut) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    """1x1 to half the channels, three chained 5x5 max-pools of stride 1, all four joined, 1x1 to
    c_out.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 5):
        super().__init__()
        self.cv1 = Conv(c_in, c_in // 2)
        self.cv2 = Conv(c_in // 2 * 4, c_out)
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.cv2(torch.cat(parts, 1))
