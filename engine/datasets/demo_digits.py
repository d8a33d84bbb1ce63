"""The demo dataset: real handwriting in real photographs, made from what scikit-learn carries.
Deterministic by seed.

Its 1,797 scans of handwritten digits (8x8 grey) are enlarged, slanted and inked onto crops of its
two photographs. A scan is used in one split only, and each split has its own stretch of the
photographs, so test metrics are honest. Pixels are computed in plain float64 arithmetic, not by a
library that chooses its instructions by the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from pydantic import Field, model_validator

from engine.config import Frozen
from engine.datasets.formats.base import Row, SourceImage
from engine.types import SPLITS

NAMES = tuple("0123456789")
SCAN_SIDE, SCAN_MAX = 8, 16.0
# Fractions of the scans of a class, and of the photographs' width, that belong to each split.
FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
STREAM = {
    "train": 0,
    "val": 1,
    "test": 2,
    "scans": 3,
}  # keeps random numbers for different purposes apart
PNG_OPTIONS = (cv2.IMWRITE_PNG_COMPRESSION, 3)

FINE = 4  # a scan's pixel becomes so many, each way
SHARPEN = 1.0
INK_EDGE = (0.34, 0.60)  # grey of a scan, as a fraction, at which ink begins and is full
BOX_INK = 0.35  # a pixel with this much ink belongs to the box
MAX_OVERLAP = 0.05  # of the smaller of two boxes
CONTRAST = (105.0, 190.0)  # grey levels between ink and the paper under it
CROP_PX = (80, 120)  # side of the stretch of photograph that becomes an image
PLACE_TRIES = 40


class DigitsOptions(Frozen):
    """What can be chosen about the demo dataset."""

    train: int = Field(400, ge=1, description="images to train on")
    val: int = Field(100, ge=1, description="images to validate on")
    test: int = Field(100, ge=1, description="images to test on")
    size: int = Field(160, ge=64, le=2048, description="side of an image in pixels")
    min_px: int = Field(26, ge=16, description="height of the smallest digits")
    max_px: int = Field(62, ge=16, description="height of the largest digits")
    min_digits: int = Field(2, ge=1, description="fewest digits in an image")
    max_digits: int = Field(
        6, ge=1, description="most digits in an image; fewer where they find no place"
    )

    @model_validator(mode="after")
    def _in_order(self) -> DigitsOptions:
        if self.min_px > self.max_px or self.min_digits > self.max_digits:
            raise ValueError("min_px and min_digits must not be larger than max_px and max_digits")
        if self.max_px > self.size * 0.8:
            raise ValueError(f"max_px must be at most 0.8 of size ({int(self.size * 0.8)})")
        return self


def open_reader(options: Mapping[str, Any], seed: int) -> DigitsReader:
    """ConfigError for an unknown or impossible option."""
    return DigitsReader(DigitsOptions.build(options, where="data.options of digits"), seed)


def versions() -> list[str]:
    """The libraries whose data or codecs the bytes depend on."""
    import sklearn

    return [
        f"scikit-learn {sklearn.__version__}",
        f"opencv {cv2.__version__}",
        f"numpy {np.__version__}",
    ]


class DigitsReader:
    """See `formats.base.Reader`: makes image after image; every image depends on (options, seed,
    split, number) alone.
    """

    names = NAMES
    gives_splits = True

    def __init__(self, options: DigitsOptions, seed: int) -> None:
        self._options, self._seed = options, seed
        self._counts = {split: getattr(options, split) for split in SPLITS}
        self.total = sum(self._counts.values())

    def __iter__(self) -> Iterator[SourceImage]:
        for split in SPLITS:
            for index in range(self._counts[split]):
                image, rows = self._image(
                    split, np.random.default_rng((self._seed, STREAM[split], index))
                )
                content = cv2.imencode(".png", image, PNG_OPTIONS)[1].tobytes()
                yield SourceImage(
                    f"{split}/{index:05d}.png", rows, "digits", content=content, split=split
                )

    @cached_property
    def _scans(self) -> dict[str, list[np.ndarray]]:
        """split -> for each class its scans, enlarged: (n, 8 FINE, 8 FINE), values 0 to 1."""
        from sklearn.datasets import load_digits

        data = load_digits()
        rng = np.random.default_rng((self._seed, STREAM["scans"]))
        found: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        for digit in range(len(NAMES)):
            scans = data.images[data.target == digit] / SCAN_MAX
            scans = enlarge(scans[rng.permutation(len(scans))])
            for split, (low, high) in _stretches(len(scans)).items():
                found[split].append(scans[low:high])
        return found

    @cached_property
    def _photographs(self) -> list[np.ndarray]:
        """BGR, float64."""
        from sklearn.datasets import load_sample_images

        return [image[..., ::-1].astype(np.float64) for image in load_sample_images().images]

    def _image(self, split: str, rng: np.random.Generator) -> tuple[np.ndarray, tuple[Row, ...]]:
        """One image, uint8 BGR, and its rows."""
        options = self._options
        image = self._background(split, rng)
        boxes: list[tuple[int, int, int, int]] = []
        rows: list[Row] = []
        for _ in range(int(rng.integers(options.min_digits, options.max_digits + 1))):
            digit = int(rng.integers(len(NAMES)))
            scans = self._scans[split][digit]
            ink = draw_digit(
                scans[int(rng.integers(len(scans)))],
                _uniform(rng, options.min_px, options.max_px),
                rng,
            )
            corner = _free_place(ink.shape, boxes, options.size, rng)
            if corner is None:
                continue
            box = _write(image, ink, corner, rng)
            boxes.append(box)
            rows.append(Row(NAMES[digit], tuple(map(float, box)), ref=f"digit {len(rows) + 1}"))
        return np.clip(np.rint(image), 0, 255).astype(np.uint8), tuple(rows)

    def _background(self, split: str, rng: np.random.Generator) -> np.ndarray:
        """A crop of this split's stretch of a photograph, enlarged, softened in contrast: (size,
        size, 3) float64.
        """
        photo = self._photographs[int(rng.integers(len(self._photographs)))]
        low, high = _stretches(photo.shape[1])[split]
        side = min(_uniform(rng, *CROP_PX), high - low - 1, photo.shape[0] - 1)
        x, y = _uniform(rng, low, high - 1 - side), _uniform(rng, 0, photo.shape[0] - 1 - side)
        step = (np.arange(self._options.size) + 0.5) / self._options.size * side
        crop = stretch(stretch(photo, y + step, 0), x + step, 1)
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        mean = crop.mean((0, 1))
        return (crop - mean) * _uniform(rng, 0.45, 0.85) + mean + _uniform(rng, -25, 25)


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(rng.random())


def _stretches(n: int) -> dict[str, tuple[int, int]]:
    """n things in a row, shared out over the splits: split -> [from, to)."""
    found, start, fraction = {}, 0, 0.0
    for split, part in FRACTIONS.items():
        fraction += part
        end = round(n * fraction)
        found[split] = (start, end)
        start = end
    return found


def sample(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear values of `image` (h, w) at pixel positions y, x (one shape); fades to 0 outside."""
    h, w = image.shape
    padded = np.pad(image, 1)
    y, x = np.clip(y, -1, h) + 1, np.clip(x, -1, w) + 1
    y0, x0 = np.minimum(y.astype(np.int64), h), np.minimum(x.astype(np.int64), w)
    fy, fx = y - y0, x - x0
    above = padded[y0, x0] * (1 - fx) + padded[y0, x0 + 1] * fx
    below = padded[y0 + 1, x0] * (1 - fx) + padded[y0 + 1, x0 + 1] * fx
    return above * (1 - fy) + below * fy


def stretch(image: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Bilinear values along one axis, at positions within it."""
    low = np.minimum(at.astype(np.int64), image.shape[axis] - 2)
    part = (at - low).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
    return np.take(image, low, axis) * (1 - part) + np.take(image, low + 1, axis) * part


def enlarge(scans: np.ndarray) -> np.ndarray:
    """Scans (n, 8, 8) -> (n, 8 FINE, 8 FINE): sharpened, so that loops stay open, enlarged and
    smoothed.
    """
    framed = np.pad(scans, ((0, 0), (1, 1), (1, 1)))
    sharp = np.clip(framed + SHARPEN * (framed - _blur(framed)), 0, 1)
    side = SCAN_SIDE * FINE
    at = (np.arange(side) + 0.5) / FINE + 0.5  # pixel centres, in the frame of one pixel
    fine = stretch(stretch(sharp, at, 1), at, 2)
    for _ in range(2):
        fine = _blur(fine)
    return fine


def _blur(images: np.ndarray) -> np.ndarray:
    """A binomial filter 1 2 1 along both sides of (n, h, w), zeros outside."""
    for axis in (1, 2):
        n = images.shape[axis]
        padded = np.pad(images, [(1, 1) if i == axis else (0, 0) for i in range(3)])
        before, here, after = (np.take(padded, np.arange(n) + k, axis) for k in range(3))
        images = before * 0.25 + here * 0.5 + after * 0.25
    return images


def draw_digit(scan: np.ndarray, height: float, rng: np.random.Generator) -> np.ndarray:
    """An enlarged scan as ink: (h, w) fractions in [0, 1], cut to the ink, about `height` pixels
    high, slanted, turned a little.
    """
    width_factor, slant, turn = (
        _uniform(rng, 0.85, 1.2),
        _uniform(rng, -0.3, 0.3),
        _uniform(rng, -0.15, 0.15),
    )
    side = int(height * 1.7)
    v, u = np.mgrid[:side, :side] + 0.5 - side / 2  # pixels from the centre
    v, u = v - turn * u, u + turn * v  # a small turn; that it enlarges by a percent does not matter
    u = (u + slant * v) / width_factor
    zoom, centre = len(scan) / height, (len(scan) - 1) / 2
    grey = sample(scan, v * zoom + centre, u * zoom + centre)
    low, high = INK_EDGE
    ink = np.clip((grey - low) / (high - low), 0, 1)
    rows, columns = np.nonzero(ink.max(1) >= BOX_INK)[0], np.nonzero(ink.max(0) >= BOX_INK)[0]
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _free_place(
    shape: tuple[int, int],
    boxes: list[tuple[int, int, int, int]],
    size: int,
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    """(y, x) of a corner where ink of `shape` hardly overlaps `boxes`; None if none was found."""
    h, w = shape
    if h > size or w > size:
        return None
    for _ in range(PLACE_TRIES):
        y, x = int(rng.integers(size - h + 1)), int(rng.integers(size - w + 1))
        if all(_overlap((x, y, x + w, y + h), box) <= MAX_OVERLAP for box in boxes):
            return y, x
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Intersection as a fraction of the smaller box."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller


def _write(
    image: np.ndarray, ink: np.ndarray, corner: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Put ink onto the image, in a colour that stands out from what is under it; its box, xyxy."""
    (y, x), (h, w) = corner, ink.shape
    under = image[y : y + h, x : x + w]
    grey = float(under.mean())
    contrast = _uniform(rng, *CONTRAST)
    fits_dark, fits_light = grey - contrast >= 0, grey + contrast <= 255
    dark = grey > 127 if fits_dark == fits_light else fits_dark
    level = grey - contrast if dark else grey + contrast
    tint = np.array([_uniform(rng, -1, 1) for _ in range(3)])
    colour = np.clip(level + (tint - tint.mean()) * 45, 0, 255)
    opacity = ink[..., None] * _uniform(rng, 0.88, 1.0)
    image[y : y + h, x : x + w] = under * (1 - opacity) + colour * opacity
    return x, y, x + w, y + h
