"""A detector nobody trained that still finds things: random weights whose scores spread over [0,
1]. For tests.
"""

from pathlib import Path

import torch
from torch import nn

from engine.core.checkpoint import Checkpoint, save_checkpoint
from engine.detect.model_io import model_meta
from engine.export.parity_images import batches
from engine.models.yolov8 import build_model
from engine.models.yolov8.family import YOLOv8Family

NAMES = ("square", "disc")
SIZE = (64, 64)
DIGEST = "d" * 64


@torch.no_grad()
def random_detector(nc: int = 2, seed: int = 0) -> nn.Module:
    """A yolov8n in eval mode whose batch norms know real statistics, so that no layer is silent;
    about one score in twenty is above one half.
    """
    torch.manual_seed(seed)
    model = build_model("yolov8n", nc)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
        norm.momentum = None  # statistics are plain means over the images
    images = torch.cat(list(batches(None, 16, SIZE)))
    model.train()(images)
    model.eval()
    for branch in model.head.cls:
        branch[-1].weight *= 2
    highest = model(images).scores.quantile(0.95)
    for branch in model.head.cls:
        branch[-1].bias -= highest
    return model


def save_detector(path: Path, model: nn.Module | None = None, names=NAMES, size=SIZE) -> Path:
    """Write a checkpoint as training does."""
    model = model if model is not None else random_detector(len(names))
    spec = model.spec.to_dict()
    meta = model_meta(YOLOv8Family(), spec, "yolov8n", tuple(names), size, DIGEST)
    save_checkpoint(Checkpoint(meta, model.state_dict()), path)
    return path
