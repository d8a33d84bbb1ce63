"""What an image's bytes say: content hash, size, dHash. The work that can be done for many images at once, anywhere.

Labels, findings and splits stay with `examine`, in the dataset's order: however many processes look, and wherever they
are, findings and result are the same bit for bit. A process that looks imports no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from engine.errors import WorkspaceError
from engine.files import open_regular
from engine.parts.data.checks import Findings
from engine.parts.data.formats.base import SourceImage
from engine.parts.data.images import Shape, inspect_image

UNREADABLE = "cannot be read: no permission, a link to nothing, or no regular file"


@dataclass(frozen=True)
class Ask:
    """One image to look at. Its bytes come from `path`, or are at hand as `content`."""

    name: str  # for messages
    path: Path | None
    content: bytes | None = None
    copy: Path | None = None  # where its bytes are to be written, if it can be decoded


@dataclass(frozen=True)
class Look:
    """What was seen."""

    sha256: str = ""  # "" where the file cannot be read
    shape: Shape | None = None  # None where it cannot be decoded
    wrong: str = ""  # why not
    host: str = ""  # where it could not be read


def look_at(ask: Ask) -> Look:
    """Read, hash and decode one image, and copy it where that is asked.

    Raises:
        OSError: the copy cannot be written. WorkspaceError: there is no such folder on this machine.
    """
    try:
        data = ask.content if ask.content is not None else _bytes_of(ask.path)
    except OSError:
        return Look(wrong=UNREADABLE, host=platform.node())
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        shape = inspect_image(data)
    except ValueError as error:
        return Look(sha256, wrong=str(error))
    if ask.copy is not None:
        _write(ask.copy, data)
    return Look(sha256, shape)


def look_at_all(batch: list[Ask]) -> list[Look]:
    """`look_at` for each: what a `Mapper` calls elsewhere."""
    return [look_at(ask) for ask in batch]


def _bytes_of(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def _write(copy: Path, data: bytes) -> None:
    try:
        copy.write_bytes(data)
    except FileNotFoundError:
        raise WorkspaceError(
            f"{copy.parent}: not there, seen from {platform.node()}. Either the preparing was ended meanwhile, or this machine "
            "does not see it: all who prepare need the project and the dataset in the same folders (a shared file system)."
        ) from None


# For many ---------------------------------------------------------------------------------------------------------

Looker = Callable[[list[Ask]], list[Look]]


class Mapper(Protocol):
    """Calls a function with batch after batch, here or elsewhere."""

    size: int  # images in a batch
    shared: bool  # whether others than this process look, who may not see the same files

    def map(self, function: Looker, batches: Iterable[list[Ask]]) -> Iterator[list[Look]]:
        """The results in the order of the batches, which are taken one by one: memory stays flat. Closing it ends the work."""


class InTurn:
    """The `Mapper` that does it here and now, image by image."""

    size = 1
    shared = False

    def map(self, function: Looker, batches: Iterable[list[Ask]]) -> Iterator[list[Look]]:
        yield from map(function, batches)


def looked_at(
    images: Iterable[SourceImage], findings: Findings, copies: Path | None, mapper: Mapper
) -> Iterator[tuple[SourceImage, Ask, Look]]:
    """Each image with what was asked and seen, in order; the reader's own findings come in at their image's turn.

    copies: folder for a copy of each image that can be decoded, named by its number.

    Raises:
        WorkspaceError: somebody else cannot read a file that is here. Whatever `mapper` raises.
    """
    waiting: deque[list[tuple[Findings, SourceImage, Ask]]] = deque()  # batches that are being looked at
    rest: list[Findings] = []  # found after the last image
    asked = _asked(images, findings, copies, rest)

    def batches() -> Iterator[list[Ask]]:
        while batch := list(islice(asked, mapper.size)):
            waiting.append(batch)
            yield [ask for _, _, ask in batch]

    with contextlib.closing(mapper.map(look_at_all, batches())) as results:
        for looks in results:
            for (before, image, ask), look in zip(waiting.popleft(), looks, strict=True):
                findings.merge(before)
                yield image, ask, _confirmed(ask, look, mapper)
    for found in rest:
        findings.merge(found)


def _asked(
    images: Iterable[SourceImage], findings: Findings, copies: Path | None, rest: list[Findings]
) -> Iterator[tuple[Findings, SourceImage, Ask]]:
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
        yield found, image, Ask(image.name, image.path, image.content, copy)


def _confirmed(ask: Ask, look: Look, mapper: Mapper) -> Look:
    """`look`, unless the file could not be read where others look, and can be read here."""
    if look.sha256 or not mapper.shared:
        return look
    with contextlib.suppress(OSError):
        open_regular(ask.path).close()
        raise WorkspaceError(
            f"{ask.path}: can be read here and not on {look.host}, where it was to be looked at. All who prepare must see the "
            "dataset in the same folder, with permission to read it (a shared file system)."
        )
    return look
