"""Image files: the one decoder of the project, and the question whether a file is whole.

JPEG, PNG, BMP, TIFF and WebP, 8 or 16 bit, grey, palette, RGB(A) or CMYK, all come out as uint8
BGR, turned as EXIF says: training, validation, prediction and the checks see the same pixels.
Pixels that are floats or have 32 bits have no scale and are refused. Of several pages or frames the
first counts.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from engine.errors import DataError
from engine.files import open_regular

# Left to itself Pillow tries some forty formats, of which EPS starts Ghostscript; JPEG includes
# MPO.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 2 * (
    Image.MAX_IMAGE_PIXELS or 0
)  # Pillow's own limit, against files that unpack to any size
IS_LIMITED = "OPENCV_IO_MAX_IMAGE_PIXELS" in os.environ  # OpenCV refuses them too, see `engine`
NO_SCALE = {
    "F": "floats",
    "I": "32-bit numbers",
}  # Pillow's mode -> its pixels, of which nobody knows what is white


# Decoding -----------------------------------------------------------------------------------------


def read_image(path: Path | str) -> np.ndarray:
    """The image as shown (EXIF rotation applied): uint8 BGR (H, W, 3), 16 bit scaled to 8,
    transparency dropped.

    Raises DataError, naming the file, when it is missing or is no image.
    """
    try:
        with open_regular(Path(path)) as file:
            data = file.read()
    except OSError as error:
        raise DataError(
            f"{path}: image cannot be read ({error.strerror}); check the path, or prepare again"
        ) from None
    return decode_image(data, path)


def decode_image(data: bytes, name: Path | str) -> np.ndarray:
    """`read_image` for bytes already in memory; `name` is for the message."""
    image = None
    if data and not _is_animated(data) and (IS_LIMITED or _is_small(data)):
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:  # OpenCV raises on some damaged files and returns None for the others
            image = None
    if image is None or image.dtype != np.uint8:
        image = decode_with_pillow(data, name)
    return image


def _is_small(data: bytes) -> bool:
    """Whether the header promises no more than `MAX_PIXELS`; False where Pillow cannot say."""
    try:
        with open_pillow(data):
            return True
    except (OSError, ValueError, SyntaxError):
        return False


def _is_animated(data: bytes) -> bool:
    """Whether this is a WebP or PNG with frames, whose EXIF rotation OpenCV passes over."""
    if data[:4] == b"RIFF":
        return data[12:16] == b"VP8X" and int.from_bytes(data[20:21], "big") & 2 > 0
    return data[:4] == b"\x89PNG" and b"acTL" in data[: data.find(b"IDAT")]


@contextlib.contextmanager
def open_pillow(data: bytes) -> Iterator[Image.Image]:
    """The Pillow image, not decoded yet. ValueError: it has more than `MAX_PIXELS`; whatever Pillow
    raises.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except Image.DecompressionBombError:
        raise ValueError(
            f"more than {MAX_PIXELS / 1e6:.0f} million pixels; cut it into tiles"
        ) from None


def refuse_without_scale(mode: str) -> None:
    if mode in NO_SCALE:
        raise ValueError(f"its pixels are {NO_SCALE[mode]}; save it with 8 or 16 bits")


def decode_with_pillow(data: bytes, name: Path | str) -> np.ndarray:
    """The formats OpenCV lacks in this build (odd TIFFs, ...)."""
    try:
        with open_pillow(data) as opened:
            return from_pillow(opened)
    except (OSError, ValueError, SyntaxError) as error:
        # no addresses in messages
        reason = "the file is empty" if not data else str(error).partition(" <_io")[0]
        raise DataError(
            f"{name}: not a readable image ({reason}); replace or remove it, then prepare again"
        ) from None


def from_pillow(image: Image.Image) -> np.ndarray:
    """A Pillow image as `read_image` would give it. ValueError for pixels that are floats or have
    32 bits.
    """
    image = ImageOps.exif_transpose(image)
    refuse_without_scale(image.mode)
    if image.mode.startswith("I"):  # Pillow would cut 16 bit grey off at 255
        deep = np.clip(np.asarray(image, np.int64), 0, 65535)
        return cv2.cvtColor((deep // 257).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


# Checking -----------------------------------------------------------------------------------------
