"""Where images for a prediction come from: file, list, directory, glob, array, tensor, PIL image,
URL, video, camera.

`open_source` checks at once that there is something to read and returns an iterator which yields
frames one by one, so that a video of hours needs no more memory than one frame. An image that
cannot be read is yielded as `Skipped`, not raised: one broken file in a thousand must not end the
job. This module knows nothing of models or boxes.
"""

from __future__ import annotations

import glob
import io
import logging
import os
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, NoReturn

import cv2
import numpy as np
import torch

from engine import web
from engine.data.images import decode_image, from_pillow
from engine.errors import DataError
from engine.files import open_regular, refuse_special
from engine.project.redaction import hide

log = logging.getLogger(__name__)

# FFmpeg writes the addresses of streams that it cannot open, with their passwords, to stderr; what
# cannot be read is said here. OpenCV asks when it opens the first.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif"}
)
WEB_SCHEMES = ("http://", "https://")
STREAM_SCHEMES = ("rtsp://", "rtmp://", "udp://", "tcp://")
URL_TIMEOUT_S = 20  # without a byte
URL_TIME_S = 120.0  # of an image, all together
URL_LIMIT_BYTES = 256 * 1024 * 1024  # an address that never stops sending must not fill the memory
VIDEO_LIMIT_BYTES, VIDEO_TIME_S = 4 * 1024**3, 3600.0
FETCH_ERRORS = (DataError, OSError, ValueError, HTTPException)
JPEG_TAIL_BYTES = 64 * 1024  # cameras append their own data after the end marker
ANSWER = "the answer"  # the name of what an address gives, in messages
MOST_NAMED = 5  # sub-folders in a line
DEFAULT_FPS = 30.0
HIGHEST_FPS = 1000.0  # more is what a decoder says that does not know
FRAMES_BROKEN_LIMIT = 25  # undecodable frames in a row after which a video counts as ended


@dataclass(frozen=True, eq=False)
class Video:
    """A video, stream or camera that frames come from; two of one name are two."""

    name: str
    fps: float  # frames a second, as it says; DEFAULT_FPS where it does not


@dataclass(frozen=True)
class Frame:
    """One image for the model. `path` is its image file where it has one and can be read again."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    name: (
        str  # for people and for output file names: path, address, "array 3", "video.mp4 frame 17"
    )
    path: Path | None = None
    # position within its source: the number of the frame in a video, 0 for a single image
    index: int = 0
    # a frame of a video or camera: nobody else holds its pixels, and hours of them fit no memory
    passing: bool = False
    video: Video | None = None  # None: a single image


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class Source:
    """An iterable of `Frame | Skipped`. `len_hint` is the number of images, None for videos and
    cameras.
    """

    def __init__(self, entries: list[Any], what: str):
        self.entries = entries
        self.what = what

    @property
    def len_hint(self) -> int | None:
        return (
            None
            if any(isinstance(entry, (_Video, _WebVideo)) for entry in self.entries)
            else len(self.entries)
        )

    @property
    def live(self) -> bool:
        """Whether frames come in their own time: a camera or a stream."""
        return any(isinstance(entry, _Video) and entry.live for entry in self.entries)

    def __iter__(self) -> Iterator[Frame | Skipped]:
        for entry in self.entries:
            yield from entry.frames()


def open_source(source: Any, vid_stride: int = 1) -> Source:
    """A `Source` of anything that can be read as one or more images.

    Accepts a path (file, directory, video), a glob pattern, an http(s) address, an rtsp address, a
    camera index (int or digits), a numpy array (H, W[, C]) or (B, H, W, C) uint8 BGR, a torch
    tensor (3, H, W) or (B, 3, H, W) RGB, float in [0, 1] or uint8, a PIL image, or a list of any of
    these. vid_stride: of a video or camera every Nth frame.
    Raises DataError, before the first frame, when nothing is there: the message says what was
    looked for and where.
    """
    if isinstance(source, (list, tuple)):
        if not source:
            raise DataError(
                "The list of sources is empty: give at least one image, directory or address."
            )
        return Source(
            [entry for item in source for entry in open_source(item, vid_stride).entries],
            f"{len(source)} sources",
        )
    entries = [
        replace(entry, stride=vid_stride) if isinstance(entry, (_Video, _WebVideo)) else entry
        for entry in _entries(source)
    ]
    return Source(entries, _describe(source))


def _entries(source: Any) -> list[Any]:
    if isinstance(source, np.ndarray):
        return _array_entries(source)
    if isinstance(source, torch.Tensor):
        return _tensor_entries(source)
    if isinstance(source, int) and not isinstance(source, bool):
        return [_Video(source, f"camera {source}")]
    if isinstance(source, (str, Path)):
        return _text_entries(str(source))
    if hasattr(source, "getexif") and hasattr(
        source, "convert"
    ):  # a PIL image, without importing PIL for the others
        return [_Ready(_from_pil(source), "image")]
    raise DataError(
        f"Cannot read a source of type {type(source).__name__}. Give a path, a directory, a glob "
        "pattern, an address, a camera index, a numpy array (BGR, uint8), a torch tensor (RGB, "
        "float in [0, 1]), a PIL image, or a list of these."
    )


def _text_entries(text: str) -> list[Any]:
    if "://" in text:
        return [_address_entry(text)]
    if not text.strip():
        raise DataError("The source is empty: give a path, a directory, an address or a camera.")
    path = Path(text).expanduser()
    if path.is_dir():
        return _directory_entries(path)
    if path.suffix.lower() == ".txt" and path.is_file():
        return _list_entries(path)
    if path.exists():
        return [_file_entry(path)]
    if text.isdecimal():
        return [_Video(int(text), f"camera {text}")]
    if glob.has_magic(text):
        return _glob_entries(path)
    if text.split(" ")[0] == "screen":
        raise DataError(
            f"Source not found: {text}. The screen is no source here: make an image of it, such as "
            "PIL.ImageGrab.grab(), and give that."
        )
    parent = path.absolute().parent
    where = (
        f"the directory {parent} exists, the file does not"
        if parent.is_dir()
        else f"no directory {parent} either"
    )
    raise DataError(
        f"Source not found: {text} ({where}). Check the path, or quote a pattern like "
        "'images/*.jpg'."
    )


def _address_entry(text: str) -> Any:
    """What an address gives. Whoever shows it hides the login in it."""
    scheme, _, rest = text.strip().partition("://")
    address = f"{scheme.lower()}://{rest}"
    try:
        suffix = Path(urllib.parse.urlparse(address).path).suffix.lower()
    except ValueError as error:
        raise DataError(f"The source {hide(text)} is no address: {error}.") from None
    if address.startswith(STREAM_SCHEMES):
        return _Video(address, hide(address))
    if address.startswith(WEB_SCHEMES):
        return _WebVideo(address) if suffix in VIDEO_SUFFIXES else _Address(address)
    known = ", ".join((*WEB_SCHEMES, *STREAM_SCHEMES))
    raise DataError(
        f"The source {hide(text)} is an address that is not read here; there are {known}. Fetch it "
        "with its own program, and give the file."
    )


def _list_entries(path: Path) -> list[Any]:
    """One source a line; relative paths are meant from the list's folder, as it can then be moved
    with its images.
    """
    lines = [
        line.strip() for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    ]
    entries = []
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            if line.endswith(".txt"):
                raise DataError(
                    f"{path}:{number}: a list file within a list file ({hide(line)}); name images "
                    "or folders."
                )
            beside = path.parent / line
            entries += _text_entries(str(beside) if "://" not in line and beside.exists() else line)
    if not entries:
        raise DataError(f"The list file {path} names no images: write one path or address a line.")
    return entries


def _directory_entries(path: Path) -> list[Any]:
    """The images of a folder; those of its sub-folders only where it has none itself, and said
    either way: a folder of results below it must not be read again.
    """
    inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    files = [p for p in inside if _is_known(p)]
    below = _below([p for p in inside if p.is_dir() and not p.is_symlink()])
    folders = list(dict.fromkeys(str(p.parent.relative_to(path)) for p in below))
    named = f"{', '.join(folders[:MOST_NAMED])}{', ...' if len(folders) > MOST_NAMED else ''}"
    if files and below:
        log.warning(
            "%s: %d more in sub-folders (%s) are left out; source='%s/**' takes all of them",
            path,
            len(below),
            named,
            path,
        )
    elif below:
        log.info("%s has no images itself: those of its sub-folders are taken (%s)", path, named)
    if found := files or below:
        return [_file_entry(p) for p in found]
    kinds = " ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise DataError(
        f"No images in the directory {path} and its sub-folders ({len(inside)} entries; looked for "
        f"{kinds})."
    )


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and not path.is_dir()


def _below(folders: list[Path]) -> list[Path]:
    """Images and videos of folders and what is in them, but for hidden ones, in order."""
    found = []
    for folder in folders:
        for where, inner, names in os.walk(folder):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            here = (Path(where) / name for name in sorted(names) if not name.startswith("."))
            found += [p for p in here if _is_known(p)]
    return found


def _glob_entries(pattern: Path) -> list[Any]:
    found = (Path(p) for p in sorted(glob.glob(str(pattern), recursive=True)))
    files = [p for p in found if not p.is_dir()]
    known = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
    if not known:
        matched = (
            f"matches {len(files)} files, none of them an image or a video"
            if files
            else "matches nothing"
        )
        raise DataError(
            f"The pattern {pattern} {matched} (looked in {Path.cwd()}). Check it with: ls {pattern}"
        )
    return [_file_entry(p) for p in known]


def _file_entry(path: Path) -> Any:
    return (
        _Video(str(path), str(path), path) if path.suffix.lower() in VIDEO_SUFFIXES else _File(path)
    )


def _array_entries(array: np.ndarray) -> list[Any]:
    if array.ndim == 4:
        return [
            _Ready(_as_bgr(image), f"array {i}") for i, image in enumerate(array)
        ] or _refuse_array(array)
    return [_Ready(_as_bgr(array), "array")]


def _tensor_entries(tensor: torch.Tensor) -> list[Any]:
    images = tensor.detach().cpu()
    if images.ndim not in (3, 4) or images.shape[-3] != 3 or images.numel() == 0:
        _refuse_tensor(tensor, "")
    if images.is_floating_point():
        images = images.float()
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):
            _refuse_tensor(tensor, f" with values from {low:g} to {high:g}")
        images = (images * 255).round().to(torch.uint8)  # exact where it was uint8 / 255
    elif images.dtype != torch.uint8:
        _refuse_tensor(tensor, "")
    arrays = images.numpy()[..., ::-1, :, :]  # RGB to BGR
    if arrays.ndim == 3:
        return [_Ready(np.ascontiguousarray(arrays.transpose(1, 2, 0)), "tensor")]
    return [
        _Ready(np.ascontiguousarray(array.transpose(1, 2, 0)), f"tensor {i}")
        for i, array in enumerate(arrays)
    ]


def _refuse_tensor(tensor: torch.Tensor, values: str) -> NoReturn:
    raise DataError(
        f"Cannot use a tensor of shape {tuple(tensor.shape)} and type {tensor.dtype}{values} as "
        "images. Expected RGB, (3, H, W) or (B, 3, H, W), as floats in [0, 1] (divide 0..255 by "
        "255) or as uint8."
    )


def _as_bgr(array: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8 to (H, W, 3) uint8 BGR; anything else is
    refused.
    """
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.size == 0:
        _refuse_array(array)
    channels = 1 if array.ndim == 2 else array.shape[2]
    if channels == 3:
        return np.ascontiguousarray(array)
    if channels == 1:
        return cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_GRAY2BGR)
    if channels == 4:
        return cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_BGRA2BGR)
    return _refuse_array(array)


def _refuse_array(array: np.ndarray) -> Any:
    raise DataError(
        f"Cannot use an array of shape {array.shape} and type {array.dtype} as an image. Expected "
        "uint8 BGR as OpenCV reads it: (H, W, 3), (H, W) or (H, W, 4), or a batch (B, H, W, 3); "
        "multiply floats in [0, 1] by 255 first."
    )


def _from_pil(image: Any) -> np.ndarray:
    try:
        return from_pillow(image)
    except ValueError as error:
        raise DataError(f"Cannot use this image: {error}.") from None


def _describe(source: Any) -> str:
    if isinstance(source, np.ndarray):
        return f"array {source.shape}"
    if isinstance(source, torch.Tensor):
        return f"tensor {tuple(source.shape)}"
    return str(source) if isinstance(source, (str, Path, int)) else type(source).__name__


@dataclass(frozen=True)
class _Ready:
    image: np.ndarray
    name: str

    def frames(self) -> Iterable[Frame | Skipped]:
        yield Frame(self.image, self.name)


@dataclass(frozen=True)
class _File:
    path: Path

    def frames(self) -> Iterable[Frame | Skipped]:
        try:
            with open_regular(self.path) as file:
                image = _decode_whole(file.read(), self.path.name)
        except (DataError, OSError) as error:
            yield Skipped(str(self.path), _reason(error, self.path.name))
        else:
            yield Frame(image, str(self.path), self.path)


@dataclass(frozen=True)
class _Address:
    url: str

    def frames(self) -> Iterable[Frame | Skipped]:
        try:
            body = io.BytesIO()
            _fetch(self.url, body, URL_LIMIT_BYTES, URL_TIME_S, "an image")
            image = _decode_whole(body.getvalue(), ANSWER)
        except FETCH_ERRORS as error:
            yield Skipped(hide(self.url), f"cannot be fetched: {hide(_reason(error, ANSWER))}")
        else:
            yield Frame(image, hide(self.url))


def _reason(error: Exception, name: str) -> str:
    """Why an image is left out, without its name, which stands before, and without the advice
    meant for datasets.
    """
    if isinstance(error, DataError):
        return str(error).removeprefix(f"{name}: ").partition("; replace or remove")[0]
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _decode_whole(data: bytes, name: str) -> np.ndarray:
    # The decoder fills what a cut JPEG lacks with grey and says nothing; detections on that would
    # look like real ones.
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-JPEG_TAIL_BYTES:]:
        raise DataError(f"{name}: the JPEG is cut off (no end marker in {len(data)} bytes)")
    return decode_image(data, name)


def _fetch(url: str, target: IO[bytes], limit_bytes: int, total_s: float, what: str) -> None:
    """The body of an http(s) address into `target`; see `web.fetch`."""
    too_large = f"more than {limit_bytes >> 20} MiB, not {what}"
    web.fetch(
        url,
        target,
        limit_bytes=limit_bytes,
        idle_s=URL_TIMEOUT_S,
        total_s=total_s,
        too_large=too_large,
    )


@dataclass(frozen=True)
class _WebVideo:
    """A video at an address. Fetched first: the decoder, which could read it from there, follows
    an answer wherever it leads.
    """

    url: str
    stride: int = 1

    def frames(self) -> Iterable[Frame | Skipped]:
        suffix = Path(urllib.parse.urlparse(self.url).path).suffix
        try:
            with tempfile.TemporaryDirectory(prefix="detectflow-") as folder:
                file = Path(folder, f"video{suffix}")
                with file.open("wb") as target:
                    _fetch(self.url, target, VIDEO_LIMIT_BYTES, VIDEO_TIME_S, "a video that fits")
                video = _Video(str(file), hide(self.url), file)
                yield from replace(video, stride=self.stride).frames()
        except FETCH_ERRORS as error:
            yield Skipped(hide(self.url), f"cannot be fetched: {hide(_reason(error, ANSWER))}")


@dataclass(frozen=True)
class _Video:
    address: str | int  # file, stream address or camera index
    name: str
    file: Path | None = None  # None: a stream or a camera
    stride: int = 1  # every Nth frame is given; those between are not even decoded

    @property
    def live(self) -> bool:
        return isinstance(self.address, int) or self.address.startswith(STREAM_SCHEMES)

    def frames(self) -> Iterable[Frame | Skipped]:
        if self.file is not None:
            try:
                refuse_special(self.file)  # the decoder would wait for a pipe
            except OSError as error:
                yield Skipped(self.name, error.strerror)
                return
        # Opened when its turn comes: a directory of videos must not hold a decoder for each.
        capture = cv2.VideoCapture(self.address)
        try:
            if not capture.isOpened():
                yield Skipped(self.name, "cannot be opened as a video or camera")
                return
            yield from self._read(capture)
        finally:
            capture.release()

    def _read(self, capture: cv2.VideoCapture) -> Iterator[Frame | Skipped]:
        # The decoder says "no" both at a damaged frame and at the end, and the announced number of
        # frames is often a few too high: a gap is reported when a good frame follows it, a missing
        # tail when it is more than rounding.
        expected = int(
            capture.get(cv2.CAP_PROP_FRAME_COUNT)
        )  # 0 or negative for cameras and streams
        fps = capture.get(cv2.CAP_PROP_FPS)
        video = Video(self.name, fps if 0 < fps <= HIGHEST_FPS else DEFAULT_FPS)
        index = good = gap = 0
        while gap <= FRAMES_BROKEN_LIMIT:
            is_wanted = index % self.stride == 0
            ok, image = capture.read() if is_wanted else (capture.grab(), None)
            if ok:
                for missing in range(index - gap, index):
                    yield Skipped(f"{self.name} frame {missing}", "cannot be decoded")
                if is_wanted:
                    name = f"{self.name} frame {index}"
                    yield Frame(image, name, None, index, passing=True, video=video)
                good, gap = good + 1, 0
            else:
                gap += 1
            index += 1
        seen = index - gap
        if not good:
            yield Skipped(self.name, "gives no frames")
        elif expected > 0 and seen < 0.95 * expected - 1:
            yield Skipped(self.name, f"breaks off after {seen} of about {expected} frames")
