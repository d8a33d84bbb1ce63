"""Writers: labelled images into an empty folder, as Pascal VOC, COCO JSON or YOLO text. The readers
read it back as it was.

Boxes are written in pixels of the image as shown, or in shares of it, with more decimals than
anybody can draw. What a format has no place for is counted in `lost`, never written as something
else: VOC and YOLO know no crowds, COCO and YOLO nothing difficult.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol
from xml.sax.saxutils import escape

import yaml

from engine.datasets.formats.base import Row, safe_stem, shown
from engine.datasets.formats.voc import CORNERS, LISTS
from engine.errors import DataError
from engine.types import SPLITS, Size

PIXEL_DECIMALS = 4
SHARE_DECIMALS = 9
COMPACT: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":")}  # JSON
SPOOL_BYTES = 1 << 20  # of entries kept in memory

_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


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
class _Files:
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


class VocWriter:
    """JPEGImages/, Annotations/, ImageSets/Main/. Corners as edges, with decimals where they have
    some.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.lost: Counter[str] = Counter()
        self._folder, self._files = folder, _Files(folder)
        self._splits: dict[str, list[str]] = {}
        for name in names:
            if _NOT_IN_XML.search(name):
                raise DataError(f"class {shown(name)} holds a character that XML cannot; rename it")

    def add(self, image: Labelled) -> None:
        name = self._files.put(image, "JPEGImages")
        stem = PurePosixPath(name).stem
        rows = _without_crowds(image.rows, self.lost)
        write(self._folder / "Annotations" / f"{stem}.xml", _annotation(name, image.size, rows))
        self._splits.setdefault(image.split, []).append(stem)

    def close(self) -> None:
        given = {split: stems for split, stems in self._splits.items() if split}
        for split, stems in given.items():
            write(self._folder / LISTS.format(split), "".join(f"{stem}\n" for stem in stems))


def _annotation(name: str, size: Size, rows: Sequence[Row]) -> str:
    lines = [
        "<annotation>",
        "  <folder>JPEGImages</folder>",
        f"  <filename>{escape(name)}</filename>",
        f"  <size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>",
    ]
    for row in rows:
        corners = "".join(
            f"<{tag}>{_text(value, PIXEL_DECIMALS)}</{tag}>"
            for tag, value in zip(CORNERS, row.box, strict=True)
        )
        lines += [
            "  <object>",
            f"    <name>{escape(row.name)}</name>",
            f"    <difficult>{int(row.difficult)}</difficult>",
            f"    <bndbox>{corners}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


class CocoWriter:
    """images/<split>/ and annotations/instances_<split>.json; instances_all.json for images without
    split.

    Entries wait in files, not in memory, until the writer is closed: the sections of the JSON stand
    one after the other.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.lost: Counter[str] = Counter()
        self._folder, self._files = folder, _Files(folder)
        self._category = {name: number for number, name in enumerate(names, 1)}
        self._parts: dict[str, tuple[_Entries, _Entries]] = {}  # split -> images, boxes
        self._images = self._boxes = 0

    def add(self, image: Labelled) -> None:
        name = self._files.put(image, f"images/{image.split}")
        if image.split not in self._parts:
            self._parts[image.split] = (_Entries(self._folder), _Entries(self._folder))
        images, boxes = self._parts[image.split]
        self._images += 1
        h, w = image.size
        images.add({"id": self._images, "file_name": name, "height": h, "width": w})
        for row in image.rows:
            self._boxes += 1
            self.lost["the mark `difficult`"] += row.difficult
            x1, y1, x2, y2 = row.box
            box = [round(value, PIXEL_DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)]
            boxes.add(
                {
                    "id": self._boxes,
                    "image_id": self._images,
                    "category_id": self._category[row.name],
                    "bbox": box,
                    "area": round(abs(box[2] * box[3]), PIXEL_DECIMALS),
                    "iscrowd": int(row.crowd),
                }
            )

    def close(self) -> None:
        categories = json.dumps(
            [{"id": number, "name": name} for name, number in self._category.items()], **COMPACT
        )
        for split, (images, boxes) in self._parts.items():
            file = self._folder / f"annotations/instances_{split or 'all'}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "w", encoding="utf-8", newline="") as target:
                target.write('{"images":[')
                images.move_to(target)
                target.write('],"annotations":[')
                boxes.move_to(target)
                target.write(f'],"categories":{categories}}}\n')


class _Entries:
    """JSON objects with commas between them; once they are many in a file without name, on the disk
    of `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.SpooledTemporaryFile(
            SPOOL_BYTES, "w+", encoding="utf-8", newline="", dir=folder
        )
        self._empty = True

    def add(self, entry: dict[str, Any]) -> None:
        self._file.write(("" if self._empty else ",") + json.dumps(entry, **COMPACT))
        self._empty = False

    def move_to(self, target: IO[str]) -> None:
        with self._file as source:
            source.seek(0)
            shutil.copyfileobj(source, target)


class YoloWriter:
    """images/<split>/, labels/<split>/ and data.yaml."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.lost: Counter[str] = Counter()
        self._folder, self._files = folder, _Files(folder)
        self._number = {name: number for number, name in enumerate(names)}
        self._splits: set[str] = set()
        if not names:
            raise DataError(
                "YOLO numbers its classes, and there are none: no box and no list; give `names` "
                "in a description"
            )

    def add(self, image: Labelled) -> None:
        name = self._files.put(image, f"images/{image.split}")
        h, w = image.size
        lines = []
        for row in _without_crowds(image.rows, self.lost):
            self.lost["the mark `difficult`"] += row.difficult
            x1, y1, x2, y2 = row.box
            shares = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h)
            lines.append(
                " ".join(
                    [
                        str(self._number[row.name]),
                        *(_text(share, SHARE_DECIMALS) for share in shares),
                    ]
                )
                + "\n"
            )
        write(
            self._folder / "labels" / image.split / f"{PurePosixPath(name).stem}.txt",
            "".join(lines),
        )
        self._splits.add(image.split)

    def close(self) -> None:
        # Without `path`, folders are meant from where this file lies, wherever that is.
        settings: dict[str, Any] = {
            split: f"images/{split}" for split in SPLITS if split in self._splits
        }
        settings["names"] = dict(enumerate(self._number))
        write(
            self._folder / "data.yaml",
            yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        )


WRITERS: dict[str, type[VocWriter] | type[CocoWriter] | type[YoloWriter]] = {
    "voc": VocWriter,
    "coco": CocoWriter,
    "yolo": YoloWriter,
}


def _without_crowds(rows: Sequence[Row], lost: Counter[str]) -> list[Row]:
    lost["crowd boxes"] += sum(row.crowd for row in rows)
    return [row for row in rows if not row.crowd]


def _text(value: float, decimals: int) -> str:
    """A number without needless zeros: 4, 0.5, -1.25."""
    text = f"{value:.{decimals}f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
