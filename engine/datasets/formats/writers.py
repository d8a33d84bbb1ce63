"""What the writers of all formats have in common: the image to write, file names, numbers as text.

A writer fills an empty folder, and its format's reader reads it back as it was. Boxes are written
in pixels of the image as shown, or in fractions of it, with more decimals than anybody can draw.
What a format has no place for is counted in `lost`, never written as something else: VOC and YOLO
know no crowds, COCO and YOLO nothing difficult.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from engine.datasets.formats.base import Row, safe_stem
from engine.types import Size

PIXEL_DECIMALS = 4
FRACTION_DECIMALS = 9


@dataclass(frozen=True)
class Labelled:
    """One image to write. The boxes of `rows` are xyxy pixels."""

    name: str  # in its source
    size: Size  # (h, w) as shown
    rows: tuple[Row, ...]
    content: bytes  # of the image file, written as it is
    split: str = ""


class Writer(Protocol):
    """Fills a folder in one format; `close` writes what can only be written at the end."""

    lost: Counter[str]

    def add(self, image: Labelled) -> None: ...

    def close(self) -> None: ...


@dataclass
class ImageFiles:
    """File names of the images: their own, made harmless, and no two alike even without suffix or
    in another case.
    """

    folder: Path
    taken: set[str] = field(default_factory=set)

    def put(self, image: Labelled, place: str) -> str:
        """Write the image file to `place`; its name there."""
        path = PurePosixPath(image.name)
        stem = base = safe_stem(path.stem)
        again = 1
        while stem.casefold() in self.taken:
            again += 1
            stem = f"{base}-{again}"
        self.taken.add(stem.casefold())
        name = stem + path.suffix.lower()
        write(self.folder / place / name, image.content)
        return name


def write(file: Path, content: bytes | str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def without_crowds(rows: Sequence[Row], lost: Counter[str]) -> list[Row]:
    lost["crowd boxes"] += sum(row.crowd for row in rows)
    return [row for row in rows if not row.crowd]


def number_text(value: float, decimals: int) -> str:
    """A number without needless zeros: 4, 0.5, -1.25."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
