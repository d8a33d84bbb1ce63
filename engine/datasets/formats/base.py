"""What every reader yields, and the small questions all of them ask: is this a number, which split
does a name mean.

A reader walks one dataset folder and yields `SourceImage` after `SourceImage` in a stable order,
with flat memory; what it cannot make sense of goes to the `Findings` it was given, and their policy
decides. It decodes no image and writes nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.files import open_regular
from engine.types import Size

# Of one annotation file; a mistake or an attack above that.
MAX_WHOLE_BYTES = 1 << 28  # held in memory: of one image, or a list of names
# read piece by piece: of whole datasets, the largest public ones have 1 to 6 GB
MAX_STREAMED_BYTES = 1 << 34

_SPLIT_WORD = re.compile(
    r"(train|training|val|valid|validation|test|testing)[-_ ]?\d*", re.IGNORECASE
)


@dataclass(frozen=True)
class BoxNumbers:
    """How a format writes a box."""

    order: str  # xyxy | xywh (x, y: the upper left corner) | cxcywh (x, y: the centre)
    unit: str  # px | fraction | percent
    any_corners: bool = False  # xyxy: any two opposite corners, in either order


@dataclass(frozen=True)
class Row:
    """One annotated box, as written."""

    name: str  # class
    box: tuple[
        float, float, float, float
    ]  # xyxy; pixels, or fractions of its sides (`SourceImage.fractions`)
    crowd: bool = False
    line: int | None = None  # in the annotation file
    ref: str = ""  # what people call it where there are no lines, for example "annotation 17"
    # Pascal VOC's flag: not used in training, kept for whoever writes the dataset again
    difficult: bool = False
    # the box around another shape (a polygon, a mask, a turned box), which was not written as a box
    outline: bool = False
    # the four numbers in the file's own order, where that cannot be seen from `box`
    written: tuple[float, float, float, float] | None = None
    mask: Size | None = None  # (h, w) of the mask that `box` is around, as the mask says


@dataclass(frozen=True)
class SourceImage:
    """One image with its boxes, before anything was checked. Its bytes come from `path`, or are at
    hand as `content`.
    """

    name: str  # relative to the dataset folder, with /
    rows: tuple[Row, ...]
    origin: str  # the annotation file, relative to the dataset folder; findings name it
    path: Path | None = None  # None where `content` holds the image
    size: Size | None = None  # (h, w) as the annotation says
    # whether the format has a place for the size, so that None is a finding
    states_size: bool = False
    fractions: bool = False
    split: str = ""  # train | val | test, "" where the dataset does not say
    content: bytes | None = None
    line: int | None = None  # of the image's entry in `origin`, where that holds many

    def read(self) -> bytes:
        """The image file's bytes. OSError where it cannot be read."""
        if self.content is not None:
            return self.content
        with open_regular(self.path) as file:
            return file.read()


class Reader(Protocol):
    """One dataset in one format. Iterate once."""

    names: tuple[str, ...]  # classes the dataset itself lists, in its order; () where it lists none
    total: int  # images to expect, for a progress bar
    gives_splits: bool  # whether the dataset assigns images to splits

    def __iter__(self) -> Iterator[SourceImage]: ...


def number(value: Any) -> float | None:
    """A finite number from JSON or text, else None: no booleans, no `nan`, no `1_000`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, str) and "_" in value:
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def is_writable(text: str) -> bool:
    """Whether a text can be written as UTF-8: `"\\ud83d"` in JSON or YAML, half of a pair, can
    not.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def stated_size(height: Any, width: Any) -> Size | None:
    """(h, w) as an annotation states it; None where it does not: some tools write 0 when they do
    not know.
    """
    h, w = number(height), number(width)
    return (int(h), int(w)) if h and w and h > 0 and w > 0 else None


def split_word(word: str) -> str:
    """`"valid"` -> "val", `"train2017"` -> "train", `"photos"` -> ""."""
    match = _SPLIT_WORD.fullmatch(word)
    if match is None:
        return ""
    start = match[1].lower()
    return next(split for split in ("train", "val", "test") if start.startswith(split))


def split_of_path(name: str) -> str:
    """The split that the folders of an image, or else a file's own name, stand for:
    "valid/images/a.jpg" -> "val".
    """
    found = [split_word(part) for part in name.split("/")[:-1]]
    return next((split for split in reversed(found) if split), "")


def safe_stem(stem: str) -> str:
    """A file name without suffix that is harmless everywhere: letters, digits, `. _ -` and blanks,
    at most 80.
    """
    return re.sub(r"[^\w.\- ]", "_", stem)[:80].strip(" .") or "image"


def shown(text: str, limit: int = 60) -> str:
    """Text of a file in quotes, on one line, not too long."""
    text = " ".join(text.split())
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
