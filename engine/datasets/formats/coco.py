"""COCO JSON: `images`, `annotations` with `bbox` [x, y, w, h] in pixels, `categories`. Crowd boxes
stay crowd boxes. An annotation without a box has the one around its `segmentation`. Ids are whole
numbers or texts: "1", 1 and 1.0 are one id.

A dataset may have one file for each split (instances_train2017.json) or one for all. Image files
are looked up by the end of their path, so `file_name` may be relative to the JSON file, to an
images folder or to the dataset.

Files are streamed, three times: the sections may stand in any order. First everything is read once,
then the boxes are gathered as plain numbers (about 60 bytes each), then the images come one by one.
"""

from __future__ import annotations

import codecs
import json
import shutil
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from engine.datasets.findings import Findings
from engine.datasets.formats.base import (
    BoxNumbers,
    Row,
    SourceImage,
    number,
    shown,
    split_of_path,
    split_word,
    stated_size,
)
from engine.datasets.formats.coco_boxes import CocoBoxes, ImageIds, Key, id_of
from engine.datasets.formats.folder import Folder, base_name
from engine.datasets.formats.json_stream import ChangedFile, Item, stream_json, stream_json_again
from engine.datasets.formats.kinds import AnnotationReader, ReaderKind, ReadRequest
from engine.datasets.formats.masks import box_around
from engine.datasets.formats.shapes import Box
from engine.datasets.formats.writers import PIXEL_DECIMALS, ImageFiles, Labelled
from engine.types import Size

# side of an image in which a file of boxes that are all within the first pixel must be a mistake
FRACTIONS_FROM_PX = 64
SECTIONS = ("images", "annotations", "categories")
COMPACT: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":")}  # JSON
SPOOL_BYTES = 1 << 20  # of entries kept in memory while a file is written


@dataclass(frozen=True)
class _File:
    """What the first reading of a file leaves in memory."""

    name: str
    categories: tuple[Item, ...]
    ids: ImageIds
    image_ids: np.ndarray  # (n,) int64, their numbers, sorted, each once
    used: frozenset[Key]  # ids of the categories that annotations have
    images: int  # entries
    longest_side_px: int  # of an image


class CocoReader(AnnotationReader):
    """See `formats.base.Reader`. The JSON files are streamed, one after the other."""

    def __init__(self, request: ReadRequest) -> None:
        super().__init__(request)
        scanned = map(self._scan, coco_files(request.folder))
        self._files = [file for file in scanned if file is not None]
        self._root = self._root_class()
        names = (name for file in self._files for name in self._categories(file).values())
        self.names = tuple(dict.fromkeys(names))
        self.total = sum(file.images for file in self._files)
        self._by_file = (
            not self._splits.given_by_list
            and not request.ignore_splits
            and any(split_of_json(file.name) for file in self._files)
        )
        self.gives_splits = self._by_file or self.gives_splits

    def _scan(self, file: str) -> _File | None:
        """What a file holds, None where it is no COCO file or, with a finding, a broken one."""
        wrong: dict[str | None, str] = {}
        present: set[str | None] = set()
        categories: list[Item] = []
        ids, image_ids, used = array("q"), ImageIds(), set[Key]()
        images = longest = 0
        try:
            for item in stream_json(self._folder.chunks(file)):
                if item.section is None:
                    if item.position is None and not isinstance(item.value, dict):
                        wrong[None] = (
                            f"holds a {type(item.value).__name__}, COCO has an object with "
                            f"{', '.join(SECTIONS)}"
                        )
                elif item.position is None:
                    present.add(item.section)
                if item.section in SECTIONS and not isinstance(
                    item.value, list if item.position is None else dict
                ):
                    wrong[item.section] = f"'{item.section}' is missing or no list of objects"
                elif item.position is None:
                    continue
                elif item.section == "categories":
                    categories.append(item)
                elif item.section == "images":
                    images += 1
                    longest = max(
                        longest,
                        *(stated_size(item.value.get("height"), item.value.get("width")) or (0,)),
                    )
                    if (key := id_of(item.value.get("id"))) is not None:
                        ids.append(image_ids.add(key))
                elif item.section == "annotations":
                    used.add(id_of(item.value.get("category_id")))
        except ValueError as error:
            wrong = {None: str(error)}
        if None not in wrong and not present.intersection(SECTIONS[:2]):
            return None  # some other JSON file
        wrong.update(
            {
                section: f"'{section}' is missing or no list of objects"
                for section in SECTIONS
                if section not in present
            }
        )
        problem = next((wrong[section] for section in (None, *SECTIONS) if section in wrong), "")
        if problem:
            self._findings.add("unreadable_annotation", file, problem)
            return None
        ids = np.unique(np.array(ids, np.int64))
        return _File(
            file, tuple(categories), image_ids, ids, frozenset(used - {None}), images, longest
        )

    def _root_class(self) -> str:
        """The name of the category that Roboflow puts above the others, where it is no class and
        the policy leaves it out; else "".
        """
        found = [(file.name, _root_category(file)) for file in self._files]
        roots = [(file, root) for file, root in found if root is not None]
        names = {root.value["name"].strip() for _, root in roots}
        if len(names) != 1 or len(roots) < len(self._files):
            return ""
        policies = set()
        for file, root in roots:
            detail = (
                f"category 0 {shown(root.value['name'])} is the supercategory of the others, and "
                "no annotation has it"
            )
            policies.add(self._findings.add("root_class", file, detail, root.line))
        return names.pop() if "drop" in policies else ""

    def _categories(self, file: _File, findings: Findings | None = None) -> dict[Key, str]:
        """Category id -> name, in the order of the ids. Only a call with `findings` reports."""
        found: dict[Key, str] = {}
        taken: set[str] = set()
        root = _root_category(file) if self._root else None
        for item in file.categories:
            if item is root:
                continue
            key, name = id_of(item.value.get("id")), item.value.get("name")
            if key is None or not isinstance(name, str) or not name.strip():
                if findings is not None:
                    key = shown(str(item.value.get("id")))
                    detail = f"category {key} without a number or text as id, or without name"
                    findings.add("bad_entry", file.name, detail, item.line)
            elif key in found or name.strip() in taken:
                if findings is not None:
                    detail = f"category {key} '{name}': its id or name is taken"
                    findings.add("duplicate_entry", file.name, detail, item.line)
            else:
                found[key] = name.strip()
                taken.add(name.strip())
        return dict(sorted(found.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))

    def __iter__(self) -> Iterator[SourceImage]:
        for file in self._files:
            categories = self._categories(file, self._findings)
            try:
                boxes = self._boxes(file, categories)
                for item in self._images(file):
                    key = file.ids.of(id_of(item.value["id"]))
                    image = self._image(file.name, item, boxes.of(key))
                    if image is not None:
                        yield image
            except ChangedFile as error:
                self._findings.add("unreadable_annotation", file.name, str(error))
        yield from self._without_entry("is in no JSON file")
        read = {file.name for file in self._files}
        self._report_elsewhere(self._owner, read, lambda name: is_coco(self._folder, name))

    def _entries(self, file: str, section: str) -> Iterator[Item]:
        """The objects of a section."""
        for item in stream_json_again(self._folder.chunks(file)):
            if (
                item.section == section
                and item.position is not None
                and isinstance(item.value, dict)
            ):
                yield item

    def _images(self, file: _File) -> Iterator[Item]:
        """The image entries that have an id of their own and a name."""
        seen = np.zeros(len(file.image_ids), bool)
        for item in self._entries(file.name, "images"):
            key, name = id_of(item.value.get("id")), item.value.get("file_name")
            if key is None or not isinstance(name, str) or not name.strip():
                detail = f"images[{item.position}] has no number or text as id, or no file_name"
                self._findings.add("bad_entry", file.name, detail, item.line)
                continue
            place = _place(file.image_ids, file.ids.of(key))
            if place is None:
                raise ChangedFile(f"was changed while it was read: image id {key} is new")
            if seen[place]:
                self._findings.add(
                    "duplicate_entry", file.name, f"image id {key} is there twice", item.line
                )
            else:
                seen[place] = True
                yield item

    def _boxes(self, file: _File, categories: dict[int, str]) -> CocoBoxes:
        """The boxes of a file; those that make no sense become findings."""
        boxes = CocoBoxes(categories)
        for item in self._entries(file.name, "annotations"):
            image = file.ids.of(id_of(item.value.get("image_id")))
            box, outline, mask, problem = None, False, None, ""
            if _place(file.image_ids, image) is None:
                said = shown(str(item.value.get("image_id")))
                problem = f"image_id {said} is not among the images"
            elif item.value.get("iscrowd") not in (None, 0, 1, "0", "1"):
                problem = f"iscrowd {shown(str(item.value['iscrowd']))} is neither 0 nor 1"
            else:
                try:
                    box, outline, mask = _box_of(item.value)
                except ValueError as error:
                    problem = str(error)
            dropped = outline and self._findings.policies["no_bbox"] != "fix"
            usable = None if problem or dropped else image
            boxes.add(item, usable, box, outline=outline, mask=mask)
            if outline:
                self._findings.add("no_bbox", file.name, f"{boxes.ref(-1)} has no bbox", item.line)
            if problem:
                self._findings.add("bad_entry", file.name, f"{boxes.ref(-1)}: {problem}", item.line)
        for ref, line in boxes.sort():
            self._findings.add("duplicate_entry", file.name, f"{ref} is there twice", line)
        for ref, line in (
            boxes.without_fractions() if file.longest_side_px >= FRACTIONS_FROM_PX else ()
        ):
            detail = (
                f"{ref}: its bbox, like all of the file, is within 0 to 1, and COCO's are pixels; "
                "are these fractions?"
            )
            self._findings.add("bad_entry", file.name, detail, line)
        return boxes

    def _image(self, file: str, item: Item, rows: tuple[Row, ...]) -> SourceImage | None:
        entry, text = item.value, item.value["file_name"]
        name = self._folder.find_image(
            self._findings,
            file,
            text,
            item.line,
            what="file_name",
            prefer=lambda names: self._near(file, names),
        )
        if name is None:
            self._splits.excuse(
                base_name(text)
            )  # found wanting, and said so: a list that names it is not wrong as well
            return None
        if name in self._owner:
            detail = f"image {entry['id']} is {name}, which {self._owner[name]} has too"
            self._findings.add("duplicate_entry", file, detail, item.line)
            return None
        self._owner[name] = file
        split = split_of_json(file) if self._by_file else self._splits.of(name)
        size = stated_size(entry.get("height"), entry.get("width"))
        return SourceImage(
            name,
            rows,
            file,
            self._folder.path(name),
            size=size,
            states_size=True,
            split=split,
            line=item.line,
        )

    def _near(self, file: str, names: list[str]) -> list[str]:
        """Of several images with that name, those beside the JSON file, else those in its split's
        folder, else all.
        """
        folder = PurePosixPath(file).parent
        beside = (
            [name for name in names if PurePosixPath(name).is_relative_to(folder)]
            if str(folder) != "."
            else []
        )
        split = split_of_json(file)
        return beside or [name for name in names if split and split_of_path(name) == split] or names


def coco_files(folder: Folder) -> list[str]:
    """The JSON files; of COCO's own set only instances_*.json, the others describe the same images
    for other tasks.
    """
    files = folder.with_suffix(".json")
    return [name for name in files if base_name(name).startswith("instances_")] or files


def _root_category(file: _File) -> Item | None:
    """The category of Roboflow's exports that stands for the whole project: id 0, supercategory
    "none", the supercategory of all others, and no annotation has it. None where there is none.
    """
    roots = [item for item in file.categories if id_of(item.value.get("id")) == 0]
    others = [item for item in file.categories if item not in roots]
    if len(roots) != 1 or not others or 0 in file.used:
        return None
    name = roots[0].value.get("name")
    is_root = isinstance(name, str) and roots[0].value.get("supercategory") == "none"
    above_all = all(item.value.get("supercategory") == name for item in others)
    return roots[0] if is_root and name.strip() and above_all else None


def _box_of(entry: dict[str, Any]) -> tuple[Box, bool, Size | None]:
    """(xyxy, whether it is the one around the segmentation, (h, w) of its mask) of an annotation.
    ValueError says what is wrong with it.
    """
    box = entry.get("bbox")
    # Four zeros beside a mask stand for no box: a tool had to write something.
    if box is None or box == [] or (box == [0, 0, 0, 0] and entry.get("segmentation")):
        try:
            outline = entry.get("segmentation")
            size = outline.get("size") if isinstance(outline, dict) else None
            return box_around(outline), True, tuple(size) if size else None
        except ValueError as error:
            raise ValueError(
                f"bbox {shown(str(box))} is not [x, y, width, height], and its segmentation is of "
                f"no use: {error}"
            ) from None
    values = [number(v) for v in box] if isinstance(box, list) and len(box) == 4 else [None]
    if None in values or any(isinstance(v, str) for v in box):
        raise ValueError(f"bbox {shown(str(box))} is not [x, y, width, height]")
    x, y, w, h = values
    return (x, y, x + w, y + h), False, None


def _place(ids: np.ndarray, key: int | None) -> int | None:
    """Where `key` stands among sorted ids, None where it is not there."""
    if key is None:
        return None
    place = int(np.searchsorted(ids, key))
    return place if place < len(ids) and ids[place] == key else None


def split_of_json(file: str) -> str:
    """`"annotations/instances_val2017.json"` -> "val"; `"test/_annotations.coco.json"` ->
    "test".
    """
    words = PurePosixPath(file).stem.replace("-", "_").replace(".", "_").split("_")
    return next((split for split in map(split_word, words) if split), "") or split_of_path(file)


def is_coco(folder: Folder, file: str) -> bool:
    """Whether a JSON file holds COCO's sections; broken ones count, so that the reader can say what
    is wrong.
    """
    wanted, end, begun = {b'"images"', b'"annotations"'}, b"", False
    try:
        for chunk in folder.chunks(file):
            text = end + chunk
            if not begun and (head := text.removeprefix(codecs.BOM_UTF8).lstrip()):
                if head.startswith(b"["):
                    return False
                begun = True
            wanted = {word for word in wanted if word not in text}
            if not wanted:
                return True
            end = text[-16:]  # a word may lie across two pieces
    except ValueError:
        pass
    return False


class CocoWriter:
    """images/<split>/ and annotations/instances_<split>.json; instances_all.json for images without
    split.

    Entries wait in files, not in memory, until the writer is closed: the sections of the JSON stand
    one after the other.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.lost: Counter[str] = Counter()
        self._folder, self._files = folder, ImageFiles(folder)
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


KIND = ReaderKind(
    name="coco",
    title="COCO",
    looks_for="*.json with images and annotations",
    read_as="JSON with `images`, `annotations`, `categories`; one file or one for each split",
    detect=lambda folder: any(is_coco(folder, name) for name in folder.with_suffix(".json")),
    open=CocoReader,
    write=CocoWriter,
    numbers=BoxNumbers("xywh", "px"),
    many_in_file=True,
)
