"""A batch on its way to the device, and back to what its images were: for trainer and validator
alike.

A loader of the user's own may yield any mapping with `img` (or `imgs`), `cls`, `bboxes` and
`batch_idx`; validation also wants `im_file`, to distinguish the images. `engine.types.Batch` says
what the keys are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.boxes import xywh_to_xyxy
from engine.data.transforms import RatioPad, to_original
from engine.errors import DataError
from engine.models.targets import image_targets
from engine.types import Batch, ImageRecord

__all__ = ["file_of", "image_targets", "record_of", "to_device"]

TARGETS = ("cls", "bboxes", "batch_idx")


def to_device(batch: Mapping[str, Any], device: torch.device, channels_last: bool = True) -> Batch:
    """A new batch on `device`: `img` float in [0, 1], targets beside it. Bytes are scaled, floats
    taken as they are.

    Where a loader does not say how its images came about, they count as what the file shows: same
    size, no padding.

    Raises:
        DataError: a key is missing.
    """
    ready = Batch()
    for key, value in batch.items():
        ready[key] = value
    missing = [key for key in ("img", *TARGETS) if key not in ready]
    if missing:
        raise DataError(
            f"a batch of the loader lacks {', '.join(missing)}; it has "
            f"{', '.join(map(str, batch))}. engine.types.Batch says what the keys are"
        )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = ready["img"].to(device, non_blocking=True)
    floats = images.to(torch.float32, memory_format=layout)
    ready["img"] = floats if images.is_floating_point() else floats.div_(255)
    for key in TARGETS:
        ready[key] = ready[key].to(device, non_blocking=True)
    count, size = len(images), tuple(images.shape[-2:])
    ready.setdefault("ori_shape", (size,) * count)
    ready.setdefault("ratio_pad", (RatioPad((1.0, 1.0), (0, 0)),) * count)
    return ready


def file_of(batch: Mapping[str, Any], index: int) -> str:
    """What distinguishes image `index` of a batch from all others. DataError where the
    loader does not say.
    """
    if "im_file" not in batch:
        raise DataError(
            "a validation batch of the loader lacks im_file, one path or name for each image: "
            "without it an image that comes twice would count twice"
        )
    return str(batch["im_file"][index])


def record_of(batch: Any, index: int) -> ImageRecord:
    """The truth of image `index` of a batch, in pixels of its file, from the batch alone (a loader
    of the user's own).
    """
    shape, ratio_pad = batch["ori_shape"][index], batch["ratio_pad"][index]
    h, w = batch["img"].shape[-2:]
    mine = batch["batch_idx"] == index
    boxes = xywh_to_xyxy(batch["bboxes"][mine].double().cpu()).numpy() * np.array([w, h, w, h])
    boxes = to_original(boxes, RatioPad(*ratio_pad), shape)
    classes = batch["cls"][mine].reshape(-1).long().cpu().numpy()
    file = file_of(batch, index)
    return ImageRecord(Path(file), "", tuple(shape), boxes, classes, name=file)
