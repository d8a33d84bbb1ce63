"""Image files: the one decoder of the project, and the question whether a file is whole.

JPEG, PNG, BMP, TIFF and WebP, 8 or 16 bit, grey, palette, RGB(A) or CMYK, all come out as uint8 BGR, turned as EXIF says:
training, validation, prediction and the checks see the same pixels. Pixels that are floats or have 32 bits have no scale and are
refused. Of several pages or frames the first counts.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from engine.errors import DataError
from engine.files import open_regular
from engine.parts.data.duplicates import dhash, grey_levels
from engine.types import Size

ORIENTATION_TAG = 0x0112
SIDEWAYS = 5  # EXIF orientations from here to 8 swap height and width
# Left to itself Pillow tries some forty formats, of which EPS starts Ghostscript; JPEG includes MPO.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
PAGED = ("PNG", "TIFF", "WEBP")  # of JPEG's further pictures (MPO) no viewer shows anything
MAX_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 0)  # Pillow's own limit, against files that unpack to any size
NO_SCALE = {"F": "floats", "I": "32-bit numbers"}  # Pillow's mode -> its pixels, of which nobody knows what is white
THUMB_PX = 32


# Decoding ---------------------------------------------------------------------------------------------------------


def read_image(path: Path | str) -> np.ndarray:
    """The image as shown (EXIF rotation applied): uint8 BGR (H, W, 3), 16 bit scaled to 8, transparency dropped.

    Raises DataError, naming the file, when it is missing or is no image.
    """
    try:
        with open_regular(Path(path)) as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"{path}: image cannot be read ({error.strerror}); check the path, or prepare again") from None
    return decode_image(data, path)


def decode_image(data: bytes, name: Path | str) -> np.ndarray:
    """`read_image` for bytes already in memory; `name` is for the message."""
    image = None
    if data and not _is_animated(data):
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        except cv2.error:  # OpenCV raises on some damaged files and returns None for the others
            image = None
    if image is None or image.dtype != np.uint8:
        image = decode_with_pillow(data, name)
    return image


def _is_animated(data: bytes) -> bool:
    """Whether this is a WebP or PNG with frames, whose EXIF rotation OpenCV passes over."""
    if data[:4] == b"RIFF":
        return data[12:16] == b"VP8X" and int.from_bytes(data[20:21], "big") & 2 > 0
    return data[:4] == b"\x89PNG" and b"acTL" in data[: data.find(b"IDAT")]


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The Pillow image, not decoded yet. ValueError: it has more than `MAX_PIXELS`; whatever Pillow raises."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MAX_PIXELS / 1e6:.0f} million pixels; cut it into tiles") from None


def _refuse_without_scale(mode: str) -> None:
    if mode in NO_SCALE:
        raise ValueError(f"its pixels are {NO_SCALE[mode]}; save it with 8 or 16 bits")


def decode_with_pillow(data: bytes, name: Path | str) -> np.ndarray:
    """The formats OpenCV lacks in this build (odd TIFFs, ...)."""
    try:
        with _opened(data) as opened:
            return from_pillow(opened)
    except (OSError, ValueError, SyntaxError) as error:
        reason = "the file is empty" if not data else str(error).partition(" <_io")[0]  # no addresses in messages
        raise DataError(f"{name}: not a readable image ({reason}); replace or remove it, then prepare again") from None


def from_pillow(image: Image.Image) -> np.ndarray:
    """A Pillow image as `read_image` would give it. ValueError for pixels that are floats or have 32 bits."""
    image = ImageOps.exif_transpose(image)
    _refuse_without_scale(image.mode)
    if image.mode.startswith("I"):  # Pillow would cut 16 bit grey off at 255
        deep = np.clip(np.asarray(image, np.int64), 0, 65535)
        return cv2.cvtColor((deep // 257).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


# Checking ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """The size of an image, (h, w)."""

    shown: Size  # as everybody sees it and training decodes it
    stored: Size  # before the EXIF rotation
    orientation: int = 1  # EXIF, 1 to 8; 1, too, where it is noted in a way that turns nothing (in XMP alone, say)
    dhash: bytes = b""  # of the image as shown: `duplicates.dhash`
    pages: int = 1  # or frames
    brightest: int = 255  # grey level, of 255


def inspect_image(data: bytes) -> Shape:
    """Decode an image completely.

    Raises:
        ValueError: it is no image, or it ends too early; the text says what is wrong.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images and odd EXIF blocks are none of our business here
            with _opened(data) as image:
                _refuse_without_scale(image.mode)
                orientation = image.getexif().get(ORIENTATION_TAG, 1)
                pages = image.n_frames if image.format in PAGED else 1
                image.load()
                size, turns_itself = (image.height, image.width), image.format == "TIFF"
                grey = grey_levels(image)
    # Pillow raises many types on damaged files, and its plugins raise any.
    except Exception as error:
        text = str(error)
        raise ValueError("no known image format" if "cannot identify" in text else text or type(error).__name__) from None
    if orientation not in range(2, 9):
        return Shape(size, size, 1, dhash(grey), pages, int(grey.max()))
    # Pillow turns some formats while it loads them and others not; what counts is what training will see.
    try:
        shown = cv2.cvtColor(decode_image(data, "image"), cv2.COLOR_BGR2GRAY)
    except DataError as error:
        raise ValueError(str(error)) from None
    if not turns_itself and not _is_turned(shown, grey, orientation):
        orientation = 1
    h, w = shown.shape
    stored = (w, h) if orientation >= SIDEWAYS else (h, w)
    return Shape((h, w), stored, orientation, dhash(shown), pages, int(shown.max()))


def _is_turned(shown: np.ndarray, stored: np.ndarray, orientation: int) -> bool:
    """Whether `shown` is `stored` turned as `orientation` says: (H, W) uint8 both. Where one looks like the other, it is."""
    h, w = stored.shape
    if orientation >= SIDEWAYS and h != w:
        return shown.shape == (w, h)
    small, plain = (cv2.resize(grey, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).astype(int) for grey in (shown, stored))
    turned = {
        2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.T, 6: np.rot90(plain, -1), 7: plain[::-1, ::-1].T,
        8: np.rot90(plain),
    }[orientation]  # fmt: skip
    return np.abs(small - turned).sum() <= np.abs(small - plain).sum()


def to_shown(boxes: np.ndarray, size: Size, shape: Shape) -> np.ndarray:
    """Boxes (n, 4) of an annotation made for `size` -> pixels of the image as shown: turned with it, or else scaled."""
    h, w = size
    if size != shape.stored or shape.orientation == 1:
        gain = (shape.shown[1] / w, shape.shown[0] / h)
        return boxes * (*gain, *gain)
    x, y = boxes[:, 0::2], boxes[:, 1::2]
    turned = {
        2: (w - x, y), 3: (w - x, h - y), 4: (x, h - y), 5: (y, x), 6: (h - y, x), 7: (h - y, w - x), 8: (y, w - x),
    }  # fmt: skip
    x, y = turned[shape.orientation]
    return np.stack((x.min(1), y.min(1), x.max(1), y.max(1)), 1)
