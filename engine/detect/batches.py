"""A batch on its way to the device, and back to what its images were: for trainer and validator alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.boxes import xywh_to_xyxy
from engine.parts.data.transforms import RatioPad, to_original
from engine.types import ImageRecord

TARGETS = ("cls", "bboxes", "batch_idx")


def is_resident(batch: Any) -> bool:
    """Whether a batch has been prepared already."""
    return torch.is_floating_point(batch["img"])


def to_device(batch: Any, device: torch.device, channels_last: bool = True) -> Any:
    """The same batch with `img` float in [0, 1] and the targets on `device`."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = batch["img"].to(device, non_blocking=True)
    batch["img"] = images.to(torch.float32, memory_format=layout).div_(255)
    for key in TARGETS:
        if key in batch:
            batch[key] = batch[key].to(device, non_blocking=True)
    return batch


def record_of(batch: Any, index: int) -> ImageRecord:
    """The truth of image `index` of a batch, in pixels of its file, from the batch alone (a loader of the user's own)."""
    shape, ratio_pad = batch["ori_shape"][index], batch["ratio_pad"][index]
    h, w = batch["img"].shape[-2:]
    mine = batch["batch_idx"] == index
    boxes = xywh_to_xyxy(batch["bboxes"][mine].double().cpu()).numpy() * np.array([w, h, w, h])
    boxes = to_original(boxes, RatioPad(*ratio_pad), shape)
    classes = batch["cls"][mine].reshape(-1).long().cpu().numpy()
    file = str(batch["im_file"][index])
    return ImageRecord(Path(file), "", tuple(shape), boxes, classes, name=file)
