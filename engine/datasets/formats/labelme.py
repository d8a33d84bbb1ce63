"""labelme and X-AnyLabeling: one JSON file beside each image, `shapes` with `label`, `shape_type`
and `points` in pixels.

Of a rectangle, polygon, circle, mask or turned rectangle the box around it is taken; points and
lines are shapes without a box. Which image a file is about says `imagePath`, else its own name.
`imageData`, a copy of the image within the file, is not read. Splits: folders called train, val,
test.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from engine.datasets.formats.base import BoxNumbers, Row, SourceImage, number, shown, stated_size
from engine.datasets.formats.folder import Folder, base_name, inside, without_suffix
from engine.datasets.formats.kinds import AnnotationReader, ReaderKind, ReadRequest
from engine.datasets.formats.shapes import Box, Point, around
from engine.datasets.formats.writers import (
    PIXEL_DECIMALS,
    ImageFiles,
    Labelled,
    number_text,
    without_crowds,
    write,
)

LEAST_POINTS = {  # shape_type -> points that it has at least; the box around them
    "rectangle": 2,
    "polygon": 3,
    "mask": 2,
    "rotation": 4,  # X-AnyLabeling: a turned rectangle by its corners
    "circle": 2,  # centre and a point of the circle
}
OTHER_SHAPES = {"point", "points", "line", "linestrip", "polyline"}


class LabelmeReader(AnnotationReader):
    """See `formats.base.Reader`."""

    def __init__(self, request: ReadRequest) -> None:
        super().__init__(request)
        self._annotations = annotation_files(request.folder)
        self.total = len(self._annotations)

    def __iter__(self) -> Iterator[SourceImage]:
        for file in self._annotations:
            image = self._image(file)
            if image is not None:
                yield image
            else:  # found wanting, and said so
                self._splits.excuse(base_name(file))
        yield from self._without_entry("has no JSON file")
        self._report_elsewhere(self._owner, self._annotations)

    def _image(self, file: str) -> SourceImage | None:
        try:
            content = json.loads(self._folder.text(file), object_pairs_hook=_each_once)
            shapes = content["shapes"]
            if not isinstance(shapes, list):
                raise TypeError("shapes is no list")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            detail = f"no file of labelme: {type(error).__name__}: {error}"
            self._findings.add("unreadable_annotation", file, detail)
            return None
        name = self._find(file, content)
        if name is None:
            return None
        if name in self._owner:
            self._findings.add(
                "duplicate_entry", file, f"describes {name}, as {self._owner[name]} does"
            )
            return None
        self._owner[name] = file
        rows = (self._row(file, number, shape) for number, shape in enumerate(shapes, 1))
        return SourceImage(
            name=name,
            rows=tuple(row for row in rows if row is not None),
            origin=file,
            path=self._folder.path(name),
            size=stated_size(content.get("imageHeight"), content.get("imageWidth")),
            states_size=True,
            split=self._split_of(name),
        )

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        """Path without its suffix -> the images of that path."""
        found: dict[str, list[str]] = {}
        for name in self._folder.images:
            found.setdefault(without_suffix(name), []).append(name)
        return found

    def _find(self, file: str, content: Mapping[str, Any]) -> str | None:
        """The image of this file: `imagePath` as seen from it, which tools write with the folders
        of another machine, else the image beside it.
        """
        place, stem = file.rpartition("/")[0], without_suffix(file)
        path = content.get("imagePath")
        if isinstance(path, str) and path.strip():
            within = inside(f"{place}/{path}") if place else inside(path)
            if within in self._folder and within in self._by_stem.get(without_suffix(within), ()):
                return within
        beside = self._by_stem.get(stem, ())
        if len(beside) == 1:
            return beside[0]
        text = path if isinstance(path, str) and path.strip() else base_name(stem)
        if inside(text) is None:  # "..\\images\\a.jpg": the folder beside this one
            text = base_name(text)
        return self._folder.find_image(self._findings, file, text, what="imagePath")

    def _row(self, file: str, place: int, shape: Any) -> Row | None:
        ref = f"shapes[{place - 1}]"
        if not isinstance(shape, dict):
            self._findings.add("bad_entry", file, f"{ref} is no object")
            return None
        label = shape.get("label")
        label = "" if label is None else str(label).strip()  # 0 is a name too
        kind = str(shape.get("shape_type") or "polygon")
        if not label:
            self._findings.add("bad_entry", file, f"{ref} has no label")
        elif kind in OTHER_SHAPES:
            self._findings.add("other_shape", file, f"{ref}, {kind} of {shown(label)}")
        elif kind not in LEAST_POINTS:
            self._findings.add("bad_entry", file, f"{ref}: {shown(kind)} is no shape of labelme")
        else:
            try:
                points = shape.get("points")
                box, two = _box(kind, points), kind == "rectangle" and len(points) == 2
                written = tuple(map(float, (*points[0], *points[1]))) if two else None
                return Row(label, box, ref=ref, outline=not two, written=written)
            except ValueError as error:
                self._findings.add("bad_entry", file, f"{ref}: {error}")
        return None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. ValueError where a key is there twice: nobody knows which one is meant."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {shown(twice)} is there twice in one object")
    return found


def _box(kind: str, points: Any) -> Box:
    """The box around a shape. ValueError where its points are none."""
    if not isinstance(points, list) or len(points) < LEAST_POINTS[kind]:
        count = len(points) if isinstance(points, list) else 0
        raise ValueError(f"{count} points, a {kind} has at least {LEAST_POINTS[kind]}")
    found: list[Point] = []
    for point in points:
        x, y = map(number, point) if isinstance(point, list) and len(point) == 2 else (None, None)
        if x is None or y is None:
            raise ValueError(f"{shown(str(point))} is no point")
        found.append((x, y))
    if kind != "circle":
        return around(found)
    (cx, cy), radius = found[0], math.dist(found[0], found[1])
    return cx - radius, cy - radius, cx + radius, cy + radius


def is_labelme(folder: Folder, file: str) -> bool:
    """Whether a JSON file begins like one of labelme's; broken ones count, so that the reader can
    say what is wrong.
    """
    head = folder.head(file).decode("utf-8-sig", "replace").lstrip()
    beside = any(f'"{word}"' in head for word in ("imagePath", "shape_type", "flags"))
    # With its keys in order the image's own bytes come before the shapes, more than a head holds.
    is_one = '"imageData"' in head or ('"shapes"' in head and beside)
    return head.startswith("{") and is_one


def annotation_files(folder: Folder) -> list[str]:
    return [name for name in folder.with_suffix(".json") if is_labelme(folder, name)]


class LabelmeWriter:
    """images/<split>/ with a JSON file beside each image."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.lost: Counter[str] = Counter()
        self._folder, self._files = folder, ImageFiles(folder)

    def add(self, image: Labelled) -> None:
        place = f"images/{image.split}" if image.split else "images"
        name = self._files.put(image, place)
        rows = without_crowds(image.rows, self.lost)
        self.lost["the mark `difficult`"] += sum(row.difficult for row in rows)
        h, w = image.size
        content = {
            "version": "5.4.1",
            "flags": {},
            "shapes": [
                {
                    "label": row.name,
                    "points": [list(map(_pixels, row.box[:2])), list(map(_pixels, row.box[2:]))],
                    "group_id": None,
                    "description": "",
                    "shape_type": "rectangle",
                    "flags": {},
                }
                for row in rows
            ],
            "imagePath": name,
            "imageData": None,
            "imageHeight": h,
            "imageWidth": w,
        }
        text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
        write(self._folder / place / f"{PurePosixPath(name).stem}.json", text)

    def close(self) -> None:
        """Nothing is left to write."""


def _pixels(value: float) -> float:
    return float(number_text(value, PIXEL_DECIMALS))


KIND = ReaderKind(
    name="labelme",
    title="labelme",
    looks_for="*.json with `shapes` beside images",
    read_as=(
        "labelme and X-AnyLabeling: rectangles, polygons, circles and masks, one JSON file an image"
    ),
    detect=lambda folder: bool(annotation_files(folder)),
    open=LabelmeReader,
    write=LabelmeWriter,
    numbers=BoxNumbers("xyxy", "px", any_corners=True),
)
