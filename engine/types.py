"""Every convention of the engine, written once. Other modules refer to this page.

Images      uint8, BGR as OpenCV reads them, (H, W, 3), until `Batch`; from there RGB, (B, 3, H, W).
Sizes       (h, w), never (w, h). A single number means a square.
Boxes       `xyxy` in pixels of the original image, float, x to the right, y down, the corner of
            pixel (0, 0) at 0.0, so a full image is [0, 0, w, h]. In a batch: `xywh` centre,
            normalised to the network input.
Classes     int, index into `names`, from 0.

Letters in shape comments: B images, N boxes of a batch, M boxes of the fullest image, A anchor
points, C classes, H W input size, K detections of one image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Size = tuple[int, int]  # (h, w)

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ImageRecord:
    """One image of a dataset with its boxes: what a reader yields, a manifest stores and a loader
    loads.
    """

    file: Path  # absolute path of the image
    sha256: str  # of the file's bytes, hex
    size: Size  # (h, w) after EXIF rotation, as the image is shown
    boxes: np.ndarray  # (n, 4) float64 xyxy pixels
    classes: np.ndarray  # (n,) int64
    split: str = ""  # train | val | test | "" not yet assigned
    group: str = ""  # images of one group never part over splits
    crowd: np.ndarray | None = None  # (n,) bool; None: no crowd boxes
    name: str = ""  # the image's name in its source, for people
    # what else is known of it: column of `data.meta_table` -> value
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Detections:
    """The boxes found in one image, best first."""

    boxes: np.ndarray  # (K, 4) float32 xyxy pixels of the original image
    scores: np.ndarray  # (K,) float32 in [0, 1]
    classes: np.ndarray  # (K,) int64

    def __len__(self) -> int:
        return len(self.scores)


class Batch(dict):
    """A collated batch (keys: section 6 of the detector notes); `imgs` is the documented second
    name of `img`.

    img         uint8 (B, 3, H, W) RGB; float in [0, 1] after `preprocess_batch`
    cls         float32 (N, 1)
    bboxes      float32 (N, 4) xywh centre, normalised to the network input
    batch_idx   float32 (N,) image index of every box
    im_file, ori_shape, resized_shape, ratio_pad    tuples of length B
    """

    ALIASES = {"imgs": "img"}

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(self.ALIASES.get(key, key))

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(self.ALIASES.get(key, key), value)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(self.ALIASES.get(key, key))  # type: ignore[arg-type]

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default


@dataclass(frozen=True)
class RunPaths:
    """Where one run writes; nothing else in the engine invents a path of a run."""

    root: Path
    weights: Path = field(init=False)
    last: Path = field(init=False)
    best: Path = field(init=False)
    results_csv: Path = field(init=False)
    args_yaml: Path = field(init=False)
    failed_batch: Path = field(init=False)

    def __post_init__(self) -> None:
        set_ = object.__setattr__
        set_(self, "weights", self.root / "weights")
        set_(self, "last", self.root / "weights" / "last.pt")
        set_(self, "best", self.root / "weights" / "best.pt")
        set_(self, "results_csv", self.root / "results.csv")
        set_(self, "args_yaml", self.root / "args.yaml")
        set_(self, "failed_batch", self.root / "failed_batch.json")
