"""Pascal VOC: one XML file an image, `<object>` with `<name>` and `<bndbox>` in pixels.

Corners are taken as written: today's annotation tools write edges (xmin = 0 is the left edge), and
the half pixel that the original 1-based inclusive convention differs by is below what people draw.
`<path>` and parts of objects are not used; `<difficult>` is kept, and changes nothing in training.
Splits: `ImageSets/Main/{train,val,test}.txt`, else folders called train, val, test.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

from engine.datasets.formats.base import BoxNumbers, Row, SourceImage, number, shown, stated_size
from engine.datasets.formats.cvat import is_cvat
from engine.datasets.formats.folder import Folder, base_name, inside, without_suffix
from engine.datasets.formats.given_splits import find_lists
from engine.datasets.formats.kinds import AnnotationReader, ReaderKind, ReadRequest
from engine.datasets.formats.writers import (
    PIXEL_DECIMALS,
    ImageFiles,
    Labelled,
    number_text,
    without_crowds,
    write,
)
from engine.datasets.formats.xml_tree import Node, parse_xml
from engine.errors import DataError
from engine.types import Size

LISTS = "ImageSets/Main/{}.txt"
CORNERS = ("xmin", "ymin", "xmax", "ymax")

_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class VocReader(AnnotationReader):
    """See `formats.base.Reader`."""

    def __init__(self, request: ReadRequest) -> None:
        super().__init__(request, lists=find_lists(request.folder, LISTS))
        self._annotations = annotation_files(request.folder)
        self.total = len(self._annotations)

    def __iter__(self) -> Iterator[SourceImage]:
        for file in self._annotations:
            image = self._image(file)
            if image is not None:
                yield image
            else:  # found wanting, and said so: a list that names it is not wrong as well
                self._splits.excuse(base_name(file))
        used = set(self._annotations)
        for name in self._folder.images:
            if name in self._owner:
                continue
            beside, detail = f"{without_suffix(name)}.xml", "has no XML file"
            if beside in self._folder and beside not in used:
                detail += f" in a folder called Annotations; there is one, so {beside} is not read"
            yield from self._unlabelled(name, detail)
        self._report_lists()
        self._report_elsewhere(self._owner, used, self._looks_right)

    def _looks_right(self, file: str) -> bool:
        return file.endswith(".xml") and b"<annotation>" in self._folder.head(file)

    def _image(self, file: str) -> SourceImage | None:
        try:
            root = parse_xml(self._folder.read(file))
        except ValueError as error:
            self._findings.add("unreadable_annotation", file, str(error))
            return None
        if root.tag != "annotation":
            detail = f"its root is <{root.tag}>, Pascal VOC has <annotation>"
            self._findings.add("unreadable_annotation", file, detail, root.line)
            return None
        try:
            name = self._find(file, root)
        except LookupError:
            return None  # ambiguous or outside, and said so
        if name is None:
            asked = base_name(root.text("filename") or without_suffix(file))
            self._splits.excuse(asked)
            self._findings.add(
                "missing_image",
                file,
                f"its image {shown(asked)} is not there{self._folder.looks_like(asked)}",
            )
            return None
        if name in self._owner:
            self._findings.add(
                "duplicate_entry", file, f"describes {name}, as {self._owner[name]} does"
            )
            return None
        self._owner[name] = file
        rows = (self._row(file, node) for node in root.children("object"))
        stated = root.child("size")
        return SourceImage(
            name=name,
            rows=tuple(row for row in rows if row is not None),
            origin=file,
            path=self._folder.path(name),
            size=stated_size(stated.text("height"), stated.text("width")) if stated else None,
            states_size=True,
            split=self._splits.of(name),
        )

    def _find(self, file: str, root: Node) -> str | None:
        """The image this annotation describes; None if there is none. LookupError after a finding
        that leaves it out.
        """
        text = root.text("filename") or ""
        stem = without_suffix(file)
        beside = self._nearest_to(file, self._folder.images_with_stem(base_name(stem)))
        named: list[str] = []
        if text:
            tail = inside(text)
            if tail is None:
                detail = f"<filename> {shown(text)} leaves the dataset folder"
                if (
                    self._findings.add("outside_folder", file, detail, root.child("filename").line)
                    != "fix"
                ):
                    raise LookupError(file)
                tail = base_name(text)
            named = self._nearest_to(
                file, self._folder.images_ending(tail) or self._folder.images_with_stem(tail)
            )
        candidates = named or beside or self._renamed(file, text)
        if len(candidates) == 1 and (not beside or candidates[0] in beside):
            return candidates[0]
        if not candidates:
            return None
        fitting = sorted({*named, *beside})
        policy = self._findings.add("ambiguous_image", file, f"fits {' and '.join(fitting[:4])}")
        if policy != "fix":
            raise LookupError(file)
        return (beside or fitting)[0]

    def _renamed(self, file: str, text: str) -> list[str]:
        """The one image that the annotation means under another name, [] where there is none or the
        policy does not want it.
        """
        for meant in (base_name(text), base_name(without_suffix(file))):
            found = self._nearest_to(file, self._folder.images_renamed(meant)) if meant else []
            if len(found) == 1:
                detail = f"image {shown(meant)} is not there; {found[0]} is the only one that fits"
                if self._findings.add("renamed_image", file, detail) == "fix":
                    return found
                raise LookupError(file)
        return []

    def _nearest_to(self, file: str, names: list[str]) -> list[str]:
        """Of images with one name in several folders, those whose folders resemble the annotation's
        most.
        """
        if len(names) < 2:
            return names
        parts = {*file.split("/")[:-1], "JPEGImages"}
        score = {name: len(parts.intersection(name.split("/")[:-1])) for name in names}
        best = max(score.values())
        return [name for name in names if score[name] == best]

    def _row(self, file: str, node: Node) -> Row | None:
        name = node.text("name")
        boxes = list(node.children("bndbox"))
        if not name:
            self._findings.add("bad_entry", file, "an <object> without <name>", node.line)
        elif len(boxes) != 1:
            self._findings.add(
                "bad_entry",
                file,
                f"an <object> '{name}' with {len(boxes)} <bndbox>, expected 1",
                node.line,
            )
        else:
            texts = [boxes[0].text(corner) for corner in CORNERS]
            corners = [number(text) for text in texts]
            if None not in corners:
                return Row(
                    name, tuple(corners), line=node.line, difficult=node.text("difficult") == "1"
                )
            wrong = corners.index(None)
            found = (
                "is missing" if texts[wrong] is None else f"is {shown(texts[wrong])}, not a number"
            )
            self._findings.add(
                "bad_entry", file, f"<{CORNERS[wrong]}> of '{name}' {found}", boxes[0].line
            )
        return None


def annotation_files(folder: Folder) -> list[str]:
    """The XML files of the folders called Annotations, or all where there is no such folder."""
    files = folder.with_suffix(".xml")
    return [name for name in files if "annotations" in name.lower().split("/")[:-1]] or files


class VocWriter:
    """JPEGImages/, Annotations/, ImageSets/Main/. Corners as edges, with decimals where they have
    some.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.lost: Counter[str] = Counter()
        self._folder, self._files = folder, ImageFiles(folder)
        self._splits: dict[str, list[str]] = {}
        for name in names:
            if _NOT_IN_XML.search(name):
                raise DataError(f"class {shown(name)} holds a character that XML cannot; rename it")

    def add(self, image: Labelled) -> None:
        name = self._files.put(image, "JPEGImages")
        stem = PurePosixPath(name).stem
        rows = without_crowds(image.rows, self.lost)
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
            f"<{tag}>{number_text(value, PIXEL_DECIMALS)}</{tag}>"
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


KIND = ReaderKind(
    name="voc",
    title="Pascal VOC",
    looks_for="*.xml",
    read_as="one XML file an image, `<object>` with `<bndbox>`",
    detect=lambda folder: any(not is_cvat(folder, name) for name in annotation_files(folder)),
    open=VocReader,
    write=VocWriter,
    numbers=BoxNumbers("xyxy", "px"),
)
