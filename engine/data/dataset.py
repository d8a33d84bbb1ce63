"""The training and validation images of one split as samples, and their collation into a `Batch`.

A sample depends on (seed, epoch, index) and nothing else: not on the number of workers, on
prefetching, on what was loaded before, or on a resume. The epoch therefore comes with each request,
as (epoch, index), from the sampler in `loader.py`; workers hold no epoch that could be out of date.
The order of steps is that of the detector notes, 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from engine.data import transforms as t
from engine.data.cache import ImageCache
from engine.data.transforms import Augment, Labelled, RatioPad
from engine.errors import DataError
from engine.types import Batch, ImageRecord, Size

# keeps the numbers of samples apart from those of the sampler, which has the same seed
SAMPLE_STREAM = 1


def generator(stream: int, seed: int, *position: int) -> np.random.Generator:
    """A generator for one purpose (`stream`) at one position of one run; equal arguments, equal
    numbers.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((stream, seed, *position))))


@dataclass(frozen=True)
class Sample:
    """One image as the network will see it, before it joins a batch."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    boxes: np.ndarray  # (n, 4) float32 xyxy pixels of `image`
    classes: np.ndarray  # (n,) int64
    file: str
    ori_shape: Size  # of the file's image
    # maps original pixels to those of `image`; None after augmentation: there is no way back
    ratio_pad: RatioPad | None


class DetectionDataset(Dataset):
    """Samples of `records` for a network input of `imgsz`.

    imgsz               (h, w) or one number
    augment             None: letterbox only, never enlarged (validation). Else the training
                        transforms.
    seed                of every random choice
    cache, cache_dir    see `ImageCache`
    single_cls          every class becomes 0
    mosaic_until_epoch  from this epoch on no mosaic, mixup and cutmix; None: always

    `dataset[epoch, index]` is a `Sample`; `dataset[index]` the one of epoch 0. Crowd boxes are left
    out: they mark regions, not objects. Raises DataError for no records or an unreadable image.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        imgsz: Size | int,
        augment: Augment | None = None,
        seed: int = 0,
        cache: str = "ram",
        cache_dir: Path | str | None = None,
        single_cls: bool = False,
        mosaic_until_epoch: int | None = None,
    ) -> None:
        if not len(records):
            raise DataError(
                "no images to load: the split is empty; check the dataset's splits and run "
                "prepare again"
            )
        self.records = list(records)
        self.size: Size = (
            (imgsz, imgsz) if isinstance(imgsz, int) else (int(imgsz[0]), int(imgsz[1]))
        )
        self.augment = augment
        self.seed = seed
        self.single_cls = single_cls
        self.mosaic_until_epoch = mosaic_until_epoch
        self.images = ImageCache(
            self.records, self.size, mode=cache, cache_dir=cache_dir, scaleup=augment is not None
        )
        self.labels = [self._labels(record) for record in self.records]

    def _labels(self, record: ImageRecord) -> tuple[np.ndarray, np.ndarray]:
        boxes = np.asarray(record.boxes, np.float32).reshape(-1, 4)
        classes = np.asarray(record.classes, np.int64).reshape(-1)
        if record.crowd is not None:
            boxes, classes = boxes[~record.crowd], classes[~record.crowd]
        return boxes, np.zeros_like(classes) if self.single_cls else classes

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        record = self.records[index]
        if self.augment is None:
            image, boxes, classes, ratio_pad = self._letterboxed(index)
        else:
            rng = generator(SAMPLE_STREAM, self.seed, epoch, index)
            image, boxes, classes = self._augmented(index, rng, mixing=self.mixes(epoch))
            ratio_pad = None
        return Sample(image, boxes, classes, str(record.file), tuple(record.size), ratio_pad)

    def mixes(self, epoch: int) -> bool:
        """Whether mosaic, mixup and cutmix are on in `epoch`."""
        return self.mosaic_until_epoch is None or epoch < self.mosaic_until_epoch

    def _fitted(self, index: int) -> Labelled:
        """The image fitted into `size` without padding, and its boxes there."""
        image = self.images[index]
        boxes, classes = self.labels[index]
        return image, t.to_input(boxes, self._ratio_pad(index, (0, 0))), classes

    def _ratio_pad(self, index: int, pad: tuple[int, int]) -> RatioPad:
        (h, w), (fitted_h, fitted_w) = self.records[index].size, self.images.shapes[index]
        return RatioPad((fitted_h / h, fitted_w / w), pad)

    def _letterboxed(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, RatioPad]:
        image, (_, pad) = t.letterbox(
            self.images[index], self.size, scaleup=False
        )  # fitted already: only pads
        ratio_pad = self._ratio_pad(index, pad)
        boxes, classes = self.labels[index]
        return image, t.to_input(boxes, ratio_pad), classes, ratio_pad

    def _composed(self, index: int, rng: np.random.Generator, mixing: bool) -> Labelled:
        """Mosaic or letterbox, then the affine map: an image of `size`."""
        if mixing and rng.random() < self.augment.mosaic:
            others = rng.integers(0, len(self.records), 3)
            tiles = [self._fitted(i) for i in (index, *others.tolist())]
            return t.mosaic_affine(tiles, self.size, rng, self.augment)
        image, boxes, classes, _ = self._letterboxed(index)
        return t.random_affine(image, boxes, classes, self.size, rng, self.augment)

    def _augmented(self, index: int, rng: np.random.Generator, mixing: bool) -> Labelled:
        labelled = self._composed(index, rng, mixing)
        if mixing and rng.random() < self.augment.mixup:
            other = int(rng.integers(0, len(self.records)))
            labelled = t.mixup(labelled, self._composed(other, rng, mixing), rng)
        # not drawn where it is off: the samples of runs without it are as they were before it came
        if mixing and self.augment.cutmix and rng.random() < self.augment.cutmix:
            other = int(rng.integers(0, len(self.records)))
            labelled = t.cutmix(labelled, self._composed(other, rng, mixing), rng)
        image, boxes, classes = labelled
        image = t.hsv(image, rng, self.augment)
        image, boxes = t.random_flips(image, boxes, rng, self.augment)
        return image, boxes, classes


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one size -> `Batch` (keys and types: `engine/types.py`), BGR turned to RGB.

    `resized_shape` is the network input (H, W); `ratio_pad` the `RatioPad` of each image, None
    where augmented.
    """
    h, w = samples[0].image.shape[:2]
    images = torch.empty((len(samples), 3, h, w), dtype=torch.uint8)
    planes = images.numpy()
    for i, sample in enumerate(samples):
        for channel in range(3):
            cv2.extractChannel(sample.image, 2 - channel, planes[i, channel])
    counts = np.array([len(sample.boxes) for sample in samples])
    xyxy = np.concatenate([sample.boxes for sample in samples]).astype(np.float32, copy=False)
    low, high = xyxy[:, :2], xyxy[:, 2:]
    scale = np.array([w, h], np.float32)
    xywh = np.concatenate(((low + high) / 2 / scale, (high - low) / scale), 1)
    return Batch(
        img=images,
        cls=torch.from_numpy(
            np.concatenate([s.classes for s in samples]).astype(np.float32)[:, None]
        ),
        bboxes=torch.from_numpy(xywh),
        batch_idx=torch.from_numpy(np.repeat(np.arange(len(samples), dtype=np.float32), counts)),
        im_file=tuple(s.file for s in samples),
        ori_shape=tuple(s.ori_shape for s in samples),
        resized_shape=tuple((h, w) for _ in samples),
        ratio_pad=tuple(s.ratio_pad for s in samples),
    )
