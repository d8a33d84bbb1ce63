"""What can be measured of an image without knowing what it shows: brightness, sharpness, shape.

Sharpness is the variance of the Laplacian, measured on images of one size, so that it compares
images of several cameras. Source: Pertuz, Puig and Garcia, Analysis of focus measure operators for
shape-from-focus (2013), operator LAP4.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from engine.data.images import read_image
from engine.errors import DataError

MEASURED_SIDE_PX = 320  # the longer side of what is measured; smaller images stay as they are


@dataclass(frozen=True)
class Property:
    """One measure of an image, and the words for little, some and much of it."""

    name: str
    low: str
    middle: str
    high: str
    edges: tuple[float, float] | None = None  # None: a quarter of the images each side


PROPERTIES = (
    Property("brightness", "dark", "medium", "bright"),  # mean grey level, 0 to 255
    Property("sharpness", "blurred", "medium", "sharp"),  # variance of the Laplacian
    Property("aspect", "portrait", "square", "landscape", edges=(0.8, 1.25)),  # width by height
)


def measure_image(image: np.ndarray) -> tuple[float, float, float]:
    """The PROPERTIES of one image, (H, W, 3) uint8 BGR."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    height, width = grey.shape
    scale = MEASURED_SIDE_PX / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    edges = cv2.Laplacian(grey, cv2.CV_64F)
    return float(grey.mean()), float(edges.var()), width / height


def measure_images(files: Sequence[Path | str]) -> np.ndarray:
    """(S, 3) the PROPERTIES of each image file; NaN for one that cannot be read any more."""
    with ThreadPoolExecutor() as threads:  # OpenCV frees the GIL
        rows = list(threads.map(_measure_file, files))
    return np.array(rows, np.float64).reshape(-1, len(PROPERTIES))


def _measure_file(file: Path | str) -> tuple[float, float, float]:
    try:
        return measure_image(read_image(file))
    except DataError:
        return (np.nan,) * 3
