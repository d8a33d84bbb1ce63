"""The images on which an export is compared with PyTorch: of the dataset, or generated ones where
there is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from engine.data.images import read_image
from engine.data.transforms import letterbox
from engine.datasets.open import open_dataset
from engine.errors import DataError
from engine.types import Size

SPLITS_TO_TRY = ("val", "test", "train")
LARGEST_BATCH = 8


def image_files(data: str | Path, count: int) -> list[Path]:
    """Up to `count` images of the dataset, evenly spread over its validation split (test, train
    where that is empty).

    Raises:
        DataError: no dataset, or not one image in it.
    """
    dataset = open_dataset(data)
    for split in SPLITS_TO_TRY:
        if records := dataset.records(split):
            chosen = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
            return [records[i].file for i in chosen]
    raise DataError(
        f"{data}: no images to check the export on; prepare the dataset again (detectflow run)"
    )


def generated_image(number: int, size: Size) -> np.ndarray:
    """(h, w, 3) uint8: soft noise with filled shapes on it, the same for the same number on every
    machine.
    """
    random = np.random.default_rng(number)
    h, w = size
    coarse = random.integers(0, 256, (max(2, h // 32), max(2, w // 32), 3), np.uint8)
    image = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)
    for _ in range(6):
        centre = int(random.integers(0, w)), int(random.integers(0, h))
        radius = int(random.integers(max(2, min(h, w) // 16), max(3, min(h, w) // 4)))
        cv2.circle(image, centre, radius, random.integers(0, 256, 3).tolist(), -1)
    return image


def batches(data: str | Path | None, count: int, size: Size) -> Iterator[Tensor]:
    """(B, 3, H, W) float RGB in [0, 1], letterboxed as in validation; the first of one image, then
    of several, so that a batch size that is fixed by mistake shows.
    """
    sources: Sequence[Path | int] = range(count) if data is None else image_files(data, count)
    start, length = 0, 1
    while start < len(sources):
        images = [
            generated_image(each, size)
            if isinstance(each, int)
            else letterbox(read_image(each), size, scaleup=False)[0]
            for each in sources[start : start + length]
        ]
        stacked = np.ascontiguousarray(np.stack(images)[..., ::-1].transpose(0, 3, 1, 2))
        yield torch.from_numpy(stacked).float() / 255
        start, length = start + length, LARGEST_BATCH - 1 if start == 0 else LARGEST_BATCH
