"""What an image's bytes say: content hash, size, dHash. The work that can be done for many images
at once, anywhere.

Labels, findings and splits stay with `examine`, in the dataset's order: however many processes
look, and wherever they are, findings and result are the same bit for bit. A process that looks
imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from engine.data.images import decode_image, open_pillow, refuse_without_scale
from engine.datasets.crops import Keypoints, find_keypoints, miniature
from engine.datasets.findings import Findings
from engine.datasets.formats.base import SourceImage
from engine.datasets.near_duplicates import dhash_pair, grey_levels
from engine.errors import DataError, WorkspaceError
from engine.files import open_regular
from engine.types import Size

ORIENTATION_TAG = 0x0112

SIDEWAYS = 5  # EXIF orientations from here to 8 swap height and width

PAGED = ("PNG", "TIFF", "WEBP")  # of JPEG's further images (MPO) no viewer shows anything

THUMB_PX = 32


@dataclass(frozen=True)
class Shape:
    """The size of an image, (h, w)."""

    shown: Size  # as everybody sees it and training decodes it
    stored: Size  # before the EXIF rotation
    # EXIF, 1 to 8; 1, too, where it is noted in a way that turns nothing (in XMP alone, say)
    orientation: int = 1
    dhash: bytes = b""  # of the image as shown: `near_duplicates.dhash_pair`
    exchanged: bytes = b""
    thumb: bytes = b""  # `crops.miniature`
    pages: int = 1  # or frames
    brightest: int = 255  # grey level, of 255
    keypoints: Keypoints | None = None  # where asked for, and there are enough


def inspect_image(data: bytes, keypoints: bool = False) -> Shape:
    """Decode an image completely. keypoints: find those of `crops` too.

    Raises:
        ValueError: it is no image, or it ends too early; the text says what is wrong.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # large images and odd EXIF blocks are none of our business here
            with open_pillow(data) as image:
                refuse_without_scale(image.mode)
                orientation = image.getexif().get(ORIENTATION_TAG, 1)
                pages = image.n_frames if image.format in PAGED else 1
                image.load()
                size, turns_itself = (image.height, image.width), image.format == "TIFF"
                grey = grey_levels(image)
    # Pillow raises many types on damaged files, and its plugins raise any.
    except Exception as error:
        text = str(error)
        raise ValueError(
            "no known image format" if "cannot identify" in text else text or type(error).__name__
        ) from None
    if orientation not in range(2, 9):
        return _shape(grey, size, 1, pages, keypoints)
    # Pillow turns some formats while it loads them and others not; what counts is what training
    # will see.
    try:
        shown = cv2.cvtColor(decode_image(data, "image"), cv2.COLOR_BGR2GRAY)
    except DataError as error:
        raise ValueError(str(error)) from None
    if not turns_itself and not _is_turned(shown, grey, orientation):
        orientation = 1
    h, w = shown.shape
    stored = (w, h) if orientation >= SIDEWAYS else (h, w)
    return _shape(shown, stored, orientation, pages, keypoints)


def _shape(grey: np.ndarray, stored: Size, orientation: int, pages: int, keypoints: bool) -> Shape:
    """What is kept of the image as shown, (H, W) uint8."""
    dhash, exchanged = dhash_pair(grey)
    return Shape(
        (grey.shape[0], grey.shape[1]),
        stored,
        orientation,
        dhash,
        exchanged,
        miniature(grey) if exchanged else b"",
        pages,
        int(grey.max()),
        find_keypoints(grey) if keypoints else None,
    )


def _is_turned(shown: np.ndarray, stored: np.ndarray, orientation: int) -> bool:
    """Whether `shown` is `stored` turned as `orientation` says: (H, W) uint8 both. Where one looks
    like the other, it is.
    """
    h, w = stored.shape
    if orientation >= SIDEWAYS and h != w:
        return shown.shape == (w, h)
    small, plain = (
        cv2.resize(grey, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).astype(int)
        for grey in (shown, stored)
    )
    turned = {
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.T,
        6: np.rot90(plain, -1),
        7: plain[::-1, ::-1].T,
        8: np.rot90(plain),
    }[orientation]
    return np.abs(small - turned).sum() <= np.abs(small - plain).sum()


def to_shown(boxes: np.ndarray, size: Size, shape: Shape) -> np.ndarray:
    """Boxes (n, 4) of an annotation made for `size` -> pixels of the image as shown: turned with
    it, or else scaled.
    """
    h, w = size
    if size != shape.stored or shape.orientation == 1:
        gain = (shape.shown[1] / w, shape.shown[0] / h)
        return boxes * (*gain, *gain)
    x, y = boxes[:, 0::2], boxes[:, 1::2]
    turned = {
        2: (w - x, y),
        3: (w - x, h - y),
        4: (x, h - y),
        5: (y, x),
        6: (h - y, x),
        7: (h - y, w - x),
        8: (y, w - x),
    }
    x, y = turned[shape.orientation]
    return np.stack((x.min(1), y.min(1), x.max(1), y.max(1)), 1)


UNREADABLE = "cannot be read: no permission, a link to nothing, or no regular file"


@dataclass(frozen=True)
class ScanRequest:
    """One image to scan. Its bytes come from `path`, or are at hand as `content`."""

    name: str  # for messages
    path: Path | None
    content: bytes | None = None
    copy: Path | None = None  # where its bytes are to be written, if it can be decoded
    keypoints: bool = False  # whether to find them


@dataclass(frozen=True)
class ScanResult:
    """What was seen."""

    sha256: str = ""  # "" where the file cannot be read
    shape: Shape | None = None  # None where it cannot be decoded
    wrong: str = ""  # why not
    host: str = ""  # where it could not be read


def scan_image(ask: ScanRequest) -> ScanResult:
    """Read, hash and decode one image, and copy it where that is asked.

    Raises:
        OSError: the copy cannot be written. WorkspaceError: there is no such folder on this
            machine.
    """
    try:
        data = ask.content if ask.content is not None else _bytes_of(ask.path)
    except OSError:
        return ScanResult(wrong=UNREADABLE, host=platform.node())
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        shape = inspect_image(data, ask.keypoints)
    except ValueError as error:
        return ScanResult(sha256, wrong=str(error))
    if ask.copy is not None:
        _write(ask.copy, data)
    return ScanResult(sha256, shape)


def scan_batch(batch: list[ScanRequest]) -> list[ScanResult]:
    """`scan_image` for each: what a `Mapper` calls elsewhere."""
    return [scan_image(ask) for ask in batch]


def _bytes_of(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _write(copy: Path, data: bytes) -> None:
    try:
        copy.write_bytes(data)
    except FileNotFoundError:
        raise WorkspaceError(
            f"{copy.parent}: not there, seen from {platform.node()}. Either the preparing was "
            "ended meanwhile, or this machine does not see it: all who prepare need the project "
            "and the dataset in the same folders (a shared file system)."
        ) from None


# For many -----------------------------------------------------------------------------------------

ScanFunction = Callable[[list[ScanRequest]], list[ScanResult]]


class Mapper(Protocol):
    """Calls a function with batch after batch, here or elsewhere."""

    size: int  # images in a batch
    shared: bool  # whether others than this process scan, who may not see the same files

    def map(
        self, function: ScanFunction, batches: Iterable[list[ScanRequest]]
    ) -> Iterator[list[ScanResult]]:
        """The results in the order of the batches, which are taken one by one: memory stays flat.
        Closing it ends the work.
        """


class SerialMapper:
    """The `Mapper` that does it here and now, image by image."""

    size = 1
    shared = False

    def map(
        self, function: ScanFunction, batches: Iterable[list[ScanRequest]]
    ) -> Iterator[list[ScanResult]]:
        yield from map(function, batches)


def scan_images(
    images: Iterable[SourceImage],
    findings: Findings,
    copies: Path | None,
    mapper: Mapper,
    keypoints: bool = False,
) -> Iterator[tuple[SourceImage, ScanRequest, ScanResult]]:
    """Each image with what was asked and seen, in order; the reader's own findings come in at their
    image's turn.

    copies: folder for a copy of each image that can be decoded, named by its number. keypoints:
    whether to find them.

    Raises:
        WorkspaceError: somebody else cannot read a file that is here. Whatever `mapper` raises.
    """
    # batches that are being scanned
    waiting: deque[list[tuple[Findings, SourceImage, ScanRequest]]] = deque()
    rest: list[Findings] = []  # found after the last image
    asked = _asked(images, findings, copies, rest, keypoints)

    def batches() -> Iterator[list[ScanRequest]]:
        while batch := list(islice(asked, mapper.size)):
            waiting.append(batch)
            yield [ask for _, _, ask in batch]

    with contextlib.closing(mapper.map(scan_batch, batches())) as results:
        for scanned in results:
            for (before, image, ask), result in zip(waiting.popleft(), scanned, strict=True):
                findings.merge(before)
                yield image, ask, _confirmed(ask, result, mapper)
    for found in rest:
        findings.merge(found)


def _asked(
    images: Iterable[SourceImage],
    findings: Findings,
    copies: Path | None,
    rest: list[Findings],
    keypoints: bool,
) -> Iterator[tuple[Findings, SourceImage, ScanRequest]]:
    """Each image, what its reader found on the way to it, and what is to be seen of it."""
    reader = iter(images)
    number = 0
    while True:
        with findings.apart() as found:
            image = next(reader, None)
        if image is None:
            rest.append(found)
            return
        copy = copies / str(number) if copies is not None else None
        number += 1
        yield found, image, ScanRequest(image.name, image.path, image.content, copy, keypoints)


def _confirmed(ask: ScanRequest, result: ScanResult, mapper: Mapper) -> ScanResult:
    """`result`, unless the file could not be read where others scan, and can be read here."""
    if result.sha256 or not mapper.shared:
        return result
    with contextlib.suppress(OSError):
        open_regular(ask.path).close()
        raise WorkspaceError(
            f"{ask.path}: can be read here and not on {result.host}, where it was to be scanned. "
            "All who prepare must see the dataset in the same folder, with permission to read it "
            "(a shared file system)."
        )
    return result
