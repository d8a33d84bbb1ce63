"""Batch norms folded into the convolutions before them: fewer operations, the same function in eval
mode.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from engine.models.yolov8.blocks import Conv


@torch.no_grad()
def fuse(model: nn.Module) -> nn.Module:
    """A fused copy in eval mode that does not learn; the original is untouched."""
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    for module in fused.modules():
        if isinstance(module, Conv) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return fused
