"""Decoded images: reading one file, and keeping it at the size of the network input in memory or on
disk.

`ImageCache` holds images (decoded by `images.py`) already fitted into the input size; it writes
only below its own directory, never beside the data, and knows neither boxes nor epochs.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from hashlib import sha256
from multiprocessing import reduction
from pathlib import Path

import numpy as np

from engine.data.images import decode_image, read_image
from engine.data.transforms import fit_size, resize
from engine.errors import ConfigError, DataError, nearest
from engine.types import ImageRecord, Size

MODES = ("ram", "disk", "none")


# --- memory shared by the processes of a loader ---------------------------------------------------


class SharedMemory:
    """`size` zero bytes that every process sees that receives this object on its way into
    existence.

    An anonymous memory file rather than /dev/shm: containers often limit that to 64 MiB, and a
    process that writes past the limit is killed without a message. Freed by the system when its
    last holder ends, however it ends.
    """

    def __init__(self, size: int) -> None:
        if hasattr(os, "memfd_create"):
            fd = os.memfd_create("detectflow-images", os.MFD_CLOEXEC)
        else:  # not Linux: an unlinked temporary file has the same life
            with tempfile.TemporaryFile() as file:
                fd = os.dup(file.fileno())
        os.ftruncate(fd, max(size, 1))
        self._open(fd)

    def _open(self, fd: int) -> None:
        self._fd = fd
        self.bytes = np.frombuffer(mmap.mmap(fd, 0), np.uint8)

    def __getstate__(self):
        return reduction.DupFd(
            self._fd
        )  # works only while a process is being started, which is the only use

    def __setstate__(self, handle) -> None:
        self._open(handle.detach())

    def __del__(self) -> None:
        fd = self.__dict__.pop("_fd", None)
        if fd is not None:
            os.close(fd)  # the mapping lives on until the array is gone


def available_memory() -> int:
    """Bytes that can be used without swapping; a very large number where the system does not
    tell.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(
            int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")
        )
    except (OSError, StopIteration):
        return 1 << 62


# --- the cache ------------------------------------------------------------------------------------


class ImageCache:
    """Images of `records`, decoded once and fitted into `size` (h, w): uint8 BGR, read-only.

    mode "ram": in memory shared with the loader's workers, filled as images are asked for;
    mode "disk": one file an image below `cache_dir`, found by content (SHA-256) and size, shared by
    runs; mode "none": decoded every time. What comes back does not depend on the mode. Raises
    ConfigError for a wrong mode, DataError for a bad image.
    """

    def __init__(
        self,
        records: Sequence[ImageRecord],
        size: Size,
        *,
        mode: str = "ram",
        cache_dir: Path | str | None = None,
        scaleup: bool = True,
    ) -> None:
        if mode not in MODES:
            raise ConfigError(
                f"cache={mode!r}: expected one of {', '.join(MODES)}.{nearest(str(mode), MODES)}"
            )
        if mode == "disk" and cache_dir is None:
            raise ConfigError(
                "cache='disk' needs a cache directory; give cache_dir, or use cache='ram'"
            )
        self.records = records
        self.shapes = [fit_size(record.size, size, scaleup) for record in records]
        self.mode = mode
        self.cache_dir = Path(cache_dir) if mode == "disk" else None
        self._memory: SharedMemory | None = None
        self._offsets = np.zeros(len(records), np.int64)
        if mode == "ram":
            self._reserve()

    def __getitem__(self, index: int) -> np.ndarray:
        """The fitted image number `index`; do not write to it."""
        if self._memory is not None:
            return self._from_memory(index)
        if self.cache_dir is not None:
            return self._from_disk(index)
        return self._decode(index)

    def _decode(self, index: int, data: bytes | None = None) -> np.ndarray:
        record = self.records[index]
        image = read_image(record.file) if data is None else decode_image(data, record.file)
        if image.shape[:2] != tuple(record.size):
            raise DataError(
                f"{record.file}: image is {image.shape[0]} x {image.shape[1]} (h x w), the dataset "
                f"says {record.size[0]} x {record.size[1]}; the file changed, prepare the dataset "
                "again"
            )
        return resize(image, self.shapes[index])

    # memory: one flag byte an image, then the images one after the other

    def _reserve(self) -> None:
        sizes = np.array([h * w * 3 for h, w in self.shapes], np.int64)
        self._offsets = len(sizes) + np.cumsum(sizes) - sizes
        needed, free = int(len(sizes) + sizes.sum()), available_memory()
        if needed > 0.8 * free:
            warnings.warn(
                f"cache='ram' needs {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: "
                "images are decoded every time instead; use cache='disk', or a smaller imgsz",
                stacklevel=3,
            )
            return
        self._memory = SharedMemory(needed)

    def _from_memory(self, index: int) -> np.ndarray:
        memory, (h, w), start = self._memory.bytes, self.shapes[index], self._offsets[index]
        view = memory[start : start + h * w * 3].reshape(h, w, 3)
        # No lock: two workers may fill one place, with the same bytes, and the flag is set long
        # after them.
        if not memory[index]:
            view[:] = self._decode(index)
            memory[index] = 1
        view.flags.writeable = False
        return view

    # disk

    def _from_disk(self, index: int) -> np.ndarray:
        record, shape = self.records[index], self.shapes[index]
        path = disk_path(self.cache_dir, record.sha256, shape)
        image = read_cached(path, record.sha256, shape)
        if image is None:
            data = record.file.read_bytes() if record.file.is_file() else b""
            # The cache outlives this run: what is stored under a hash must have that hash.
            if data and sha256(data).hexdigest() != record.sha256:
                raise DataError(
                    f"{record.file}: not the image the dataset was prepared from (its SHA-256 "
                    "differs); prepare it again"
                )
            image = self._decode(index, data or None)
            self._store(path, record.sha256, image)
        return image

    def _store(self, path: Path, digest: str, image: np.ndarray) -> None:
        try:
            write_cached(path, digest, image)
        except OSError as error:
            warnings.warn(
                f"{self.cache_dir}: image cache cannot be written ({error.strerror}); going on "
                "without it, free some space or choose another cache_dir",
                stacklevel=4,
            )
            self.cache_dir = None


HEADER = struct.Struct("<8s32sIII")  # magic, SHA-256 of the source, h, w, CRC-32 of the pixels
MAGIC = b"dfimage1"  # count up when decoding or resizing changes


def disk_path(cache_dir: Path, digest: str, shape: Size) -> Path:
    """Where the image with content `digest` at `shape` lies."""
    return cache_dir / "images" / digest[:2] / f"{digest}-{shape[0]}x{shape[1]}.bin"


def write_cached(path: Path, digest: str, image: np.ndarray) -> None:
    """Writes header and pixels beside `path`, then renames: a reader sees the whole file or
    none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.ascontiguousarray(image)
    header = HEADER.pack(MAGIC, bytes.fromhex(digest), *pixels.shape[:2], zlib.crc32(pixels))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(header)
            file.write(pixels.data)
        os.replace(
            temporary, path
        )  # no fsync: a file lost or torn by a power cut fails its CRC and is made again
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_cached(path: Path, digest: str, shape: Size) -> np.ndarray | None:
    """The cached image, or None where there is none, or none that is whole and belongs to `digest`
    at `shape`.
    """
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) != HEADER.size + shape[0] * shape[1] * 3:
        return None
    magic, source, h, w, crc = HEADER.unpack_from(data)
    pixels = memoryview(data)[HEADER.size :]
    if (magic, source.hex(), (h, w)) != (MAGIC, digest, tuple(shape)) or zlib.crc32(pixels) != crc:
        return None
    return np.frombuffer(pixels, np.uint8).reshape(h, w, 3)
