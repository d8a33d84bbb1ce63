"""Label Studio's JSON export: a list of tasks with `data` (where the image is), `annotations` and
`predictions`.

Values are percent of the image as shown; a turned rectangle turns about its upper left corner. Of a
turned rectangle and of a polygon the box around it is taken. Of several annotations of a task the
latest that was not cancelled counts; predictions are never used, nor are choices, texts and other
answers about the whole image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from engine.datasets.formats.base import BoxNumbers, Row, SourceImage, number, shown, stated_size
from engine.datasets.formats.folder import (
    IMAGE_SUFFIXES,
    UPLOAD_PREFIX,
    Folder,
    base_name,
    inside,
    tails,
)
from engine.datasets.formats.json_stream import ChangedFile, Item, stream_json, stream_json_again
from engine.datasets.formats.kinds import AnnotationReader, ReaderKind
from engine.datasets.formats.others import is_create_ml
from engine.datasets.formats.shapes import Box, around, around_ellipse, around_turned
from engine.types import Size

RECTANGLES = {"rectanglelabels", "rectangle"}
POLYGONS = {"polygonlabels", "polygon"}
ELLIPSES = {"ellipselabels", "ellipse"}
OTHER_SHAPES = {
    *ELLIPSES,
    "brushlabels",
    "brush",
    "keypointlabels",
    "keypoint",
    "videorectangle",
    "bitmask",
    "bitmasklabels",
    "vectorlabels",
    "vector",
}
SHAPES = RECTANGLES | POLYGONS | OTHER_SHAPES  # anything else is an answer about the whole image
# how far a value may leave 0 to 100 before it must be something else than a box that is drawn over
# the edge, which is cut there: no more than YOLO's fractions may
OVER_PERCENT = 100


class LabelStudioReader(AnnotationReader):
    """See `formats.base.Reader`. The JSON files are streamed, one after the other, a task at a
    time.
    """

    def __iter__(self) -> Iterator[SourceImage]:
        files = self._folder.with_suffix(".json")
        for file in files:
            problem = self._problem(file)
            if problem:
                self._findings.add("unreadable_annotation", file, *problem)
                continue
            try:
                yield from self._tasks(file)
            except ChangedFile as error:
                self._findings.add("unreadable_annotation", file, str(error))
        yield from self._without_entry("is in no JSON file")
        self._report_elsewhere(self._owner, files)

    def _problem(self, file: str) -> tuple[str, int | None] | None:
        """What makes the whole file useless, and the line of it: it is read to its end before its
        first image is used.
        """
        try:
            for item in stream_json(self._folder.chunks(file)):
                problem = _wrong_part(item)
                if problem:
                    return problem, item.line
        except ValueError as error:
            return str(error), None  # which names the line
        return None

    def _tasks(self, file: str) -> Iterator[SourceImage]:
        seen: set[str] = set()
        for item in stream_json_again(self._folder.chunks(file)):
            if problem := _wrong_part(item):
                raise ChangedFile(f"was changed while it was read: {problem}")
            if item.position is None:
                continue
            task = item.value
            where = (
                f"task {task['id']}"
                if isinstance(task.get("id"), int)
                else f"tasks[{item.position}]"
            )
            if "id" in task and str(task["id"]) in seen:
                self._findings.add("duplicate_entry", file, f"{where} is there twice", item.line)
                continue
            seen.add(str(task.get("id", f"[{item.position}]")))
            image = self._image(file, item.line, where, task)
            if image is not None:
                yield image

    # Tasks ----------------------------------------------------------------------------------------

    def _image(self, file: str, line: int, where: str, task: dict[str, Any]) -> SourceImage | None:
        name = self._find(file, line, where, task)
        if name is None:
            return None
        if name in self._owner:
            detail = f"{where}: its image is {name}, which {self._owner[name]} has too"
            self._findings.add("duplicate_entry", file, detail, line)
            return None
        self._owner[name] = f"{file}, {where}"
        path, split = self._folder.path(name), self._splits.of(name)
        answer = _latest(task["annotations"])
        if answer is None:
            detail = f"has no finished annotation ({file}, {where})"
            if self._findings.add("unlabelled_image", name, detail) == "warn":
                return SourceImage(name, (), file, path, split=split)
            return None
        regions = self._of_the_image(file, line, where, answer["result"], task["data"])
        size = next((size for region in regions if (size := _size(region))), None)
        rows = self._rows(file, line, where, regions, size)
        stated = size is not None
        return SourceImage(
            name,
            rows,
            file,
            path,
            size=size,
            states_size=stated,
            fractions=not stated,
            split=split,
            line=line,
        )

    def _find(self, file: str, line: int, where: str, task: dict[str, Any]) -> str | None:
        """The image file of a task; None after a finding."""
        keys = _image_keys(task["data"])
        if not keys or ("image" not in keys and len(keys) > 1):
            several = (
                f"names {len(keys)} images, and none as 'image'" if keys else "names no image file"
            )
            self._findings.add("bad_entry", file, f"{where}: its data {several}", line)
            return None
        text = _path_of(task["data"][keys[0]])
        tail = inside(text)
        found = (
            next(filter(None, map(self._known, _candidates(tail))), text)
            if tail is not None
            else text
        )
        return self._folder.find_image(self._findings, file, found, line, what=f"{where}: image")

    def _known(self, tail: str) -> str | None:
        return tail if self._folder.images_ending(tail) else None

    # Regions --------------------------------------------------------------------------------------

    def _of_the_image(
        self, file: str, line: int, where: str, result: list[Any], data: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The shapes drawn on the task's image; a finding for each that is drawn, or may be drawn,
        on another one.

        `to_name` is the name of a control, and the export does not say which image that shows. It
        often has the name of the image in the data; where a task has one image and one control,
        there is nothing to distinguish.
        """
        shapes = [
            region for region in result if isinstance(region, dict) and _kind_of(region) in SHAPES
        ]
        keys, controls = (
            _image_keys(data),
            {str(region["to_name"]) for region in shapes if region.get("to_name")},
        )
        alone = (
            len(keys) == 1 and len(controls) <= 1 and controls.isdisjoint(data.keys() - keys[:1])
        )
        own = []
        for position, region in enumerate(shapes):
            control = str(region.get("to_name") or "")
            if alone or control == keys[0]:
                own.append(region)
                continue
            detail = (
                f"is drawn on {shown(control)}, and its task's image is '{keys[0]}': export one "
                "image a task"
            )
            self._findings.add(
                "bad_entry", file, f"{where}, region {region.get('id', position)}: {detail}", line
            )
        return own

    def _rows(
        self, file: str, line: int, where: str, regions: list[dict[str, Any]], size: Size | None
    ) -> tuple[Row, ...]:
        labels_of: dict[
            str, list[str]
        ] = {}  # a region with several controls stands here once for each
        for region in regions:
            labels = labels_of.setdefault(_place(region), [])
            labels += [label for label in _labels(region) if label not in labels]
        rows = []
        for position, region in enumerate(regions):
            kind, labels, value = _kind_of(region), _labels(region), region.get("value")
            ref = f"{where}, region {region.get('id', position)}"
            if not labels and labels_of[_place(region)]:
                continue  # the bare shape of a region that stands here with its label too
            problem = ""
            if len(labels) != 1:
                problem = f"{len(labels)} labels, expected 1"
            elif len(several := labels_of[_place(region)]) > 1:
                problem = f"{len(several)} labels ({shown(', '.join(several))}), expected 1"
            elif _size(region) not in (None, size):
                problem = (
                    "its original_width and original_height differ from those of other regions"
                )
            elif (
                kind in OTHER_SHAPES
                and self._findings.add(
                    "other_shape", file, f"{ref}: {kind} {shown(labels[0])}", line
                )
                != "fix"
            ):
                continue
            elif kind in RECTANGLES | POLYGONS | ELLIPSES:
                try:
                    box = _box(kind, value, size)
                    outline = kind not in RECTANGLES or bool(number(value.get("rotation")))
                    rows.append(Row(labels[0], box, line=line, ref=ref, outline=outline))
                except ValueError as error:
                    problem = str(error)
            if problem:
                self._findings.add("bad_entry", file, f"{ref}: {problem}", line)
        return tuple(rows)


def is_label_studio(folder: Folder, file: str) -> bool:
    """Whether a JSON file begins like one of Label Studio's; broken ones count, so that the reader
    can say what is wrong.
    """
    head = folder.head(file).decode("utf-8-sig", "replace").lstrip()
    return (
        head.startswith("[")
        and not is_create_ml(head)
        and any(
            f'"{word}"' in head for word in ("annotations", "completions", "original_width", "data")
        )
    )


def _wrong_part(item: Item) -> str:
    """What is wrong with the list, or with one of its tasks; "" where nothing is."""
    task = item.value
    if not isinstance(task, list if item.position is None else dict):
        return "is no list of tasks, as Label Studio exports them under the name JSON"
    if item.position is None:
        return ""
    answers = task.get("annotations")
    if "data" not in task and "annotations" not in task:
        return "is JSON-MIN or another short form; export from Label Studio as JSON"
    if not isinstance(task.get("data"), dict):
        return f"tasks[{item.position}] has no 'data'"
    if not isinstance(answers, list) or not all(
        isinstance(a, dict) and isinstance(a.get("result"), list) for a in answers
    ):
        return (
            f"tasks[{item.position}] has no list 'annotations' of objects with 'result'; export "
            "from Label Studio as JSON"
        )
    return ""


def _latest(answers: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The annotation that counts: the one changed last, of equal ones the later in the file."""
    finished = [answer for answer in answers if not answer.get("was_cancelled")]
    # Times are ISO 8601 in UTC, which sort as text.
    return max(
        reversed(finished),
        key=lambda a: str(a.get("updated_at") or a.get("created_at") or ""),
        default=None,
    )


# Files --------------------------------------------------------------------------------------------


def _path_of(address: str) -> str:
    """The path in an address: `/data/local-files/?d=a/b.jpg`, `/data/upload/1/b.jpg`,
    `s3://bucket/b.jpg`, or a path itself.
    """
    parts = urlsplit(address.strip())
    if parts.path.rstrip("/").endswith("/data/local-files"):
        return unquote(parts.query.partition("d=")[2].partition("&")[0]).lstrip("/")
    if parts.scheme in ("http", "https", "s3", "gs", "azure-blob"):
        return unquote(parts.path).lstrip("/")
    if parts.path.startswith("/data/upload/"):
        return unquote(parts.path).lstrip("/")
    return address.strip()  # a bare path, in which ? and # are letters


def _candidates(path: str) -> Iterator[str]:
    """What the file may be called here, most likely first: the longest end of the path, then
    without the upload's prefix.
    """
    ends = list(reversed(tails(path)))
    yield from ends
    for end in ends:
        folder, _, name = end.rpartition("/")
        bare = UPLOAD_PREFIX.sub("", name, count=1) if UPLOAD_PREFIX.match(name) else ""
        if bare:
            yield f"{folder}/{bare}".lstrip("/")


def _image_keys(data: dict[str, Any]) -> list[str]:
    """Under what names a task's data have images; the one that counts, if any, is the first."""
    keys = [key for key, value in data.items() if isinstance(value, str) and _is_image(value)]
    return sorted(keys, key=lambda key: key != "image")


def _is_image(text: str) -> bool:
    return PurePosixPath(base_name(_path_of(text))).suffix.lower() in IMAGE_SUFFIXES


# Regions ------------------------------------------------------------------------------------------


def _labels(region: dict[str, Any]) -> list[str]:
    """The labels of a region, under whatever name they stand: `rectanglelabels`, `labels`, ..."""
    value = region.get("value")
    lists = (
        [v for k, v in value.items() if k.endswith("labels") and isinstance(v, list)]
        if isinstance(value, dict)
        else []
    )
    return [
        label.strip()
        for each in lists
        for label in each
        if isinstance(label, str) and label.strip()
    ]


def _place(region: dict[str, Any]) -> str:
    """A text that is the same for all entries of one region: its id and its shape, without
    labels.
    """
    value = region.get("value")
    shape = (
        sorted((k, v) for k, v in value.items() if not k.endswith("labels"))
        if isinstance(value, dict)
        else value
    )
    return f"{region.get('id')} {shape}"


def _kind_of(region: dict[str, Any]) -> str | None:
    """The shape of a region; that of one whose type says only that it has labels is seen from its
    value.
    """
    kind, value = region.get("type"), region.get("value")
    if kind != "labels":
        return kind if isinstance(kind, str) else None
    if not isinstance(value, dict):
        return None
    keys = {"points": "polygon", "radiusX": "ellipse", "width": "rectangle", "rle": "brush"}
    return next(
        (kind for key, kind in keys.items() if key in value), "keypoint" if "x" in value else None
    )


def _size(region: dict[str, Any]) -> Size | None:
    return stated_size(region.get("original_height"), region.get("original_width"))


def _box(kind: str, value: Any, size: Size | None) -> Box:
    """xyxy of a region: pixels of an image of `size`, or fractions where that is None. ValueError
    says what is wrong.
    """
    if not isinstance(value, dict):
        raise ValueError("has no value")
    h, w = size or (1, 1)
    x_gain, y_gain = w / 100, h / 100
    if kind in POLYGONS:
        points = value.get("points")
        pairs = (
            [list(map(number, p)) if isinstance(p, list) else [] for p in points]
            if isinstance(points, list)
            else []
        )
        if len(pairs) < 3 or any(len(pair) != 2 or None in pair for pair in pairs):
            raise ValueError(f"points {shown(str(points))} is no list of at least three [x, y]")
        _check_percent(around(pairs))
        return around((x * x_gain, y * y_gain) for x, y in pairs)
    degrees = number(value.get("rotation", 0))
    if degrees is None:
        raise ValueError(f"rotation {shown(str(value['rotation']))} is not a number")
    if degrees % 360 and size is None:
        raise ValueError(
            "is turned, and original_width and original_height, which that needs, are missing"
        )
    keys = ("x", "y", "radiusX", "radiusY") if kind in ELLIPSES else ("x", "y", "width", "height")
    numbers = [None if isinstance(value.get(key), str) else number(value.get(key)) for key in keys]
    if None in numbers:
        key = keys[numbers.index(None)]
        raise ValueError(f"{key} is {shown(str(value.get(key)))}, not a number")
    x, y, a, b = numbers
    if kind in ELLIPSES:
        _check_percent((x, y, x, y))
        return around_ellipse((x * x_gain, y * y_gain), (a * x_gain, b * y_gain), degrees)
    _check_percent((x, y, x, y) if degrees % 360 else (x, y, x + a, y + b))
    box = (x * x_gain, y * y_gain, (x + a) * x_gain, (y + b) * y_gain)
    return around_turned(box, degrees, about=box[:2])


def _check_percent(box: Box) -> None:
    if min(box) < -OVER_PERCENT or max(box) > 100 + OVER_PERCENT:
        corners = ", ".join(f"{value:g}" for value in box)
        raise ValueError(f"[{corners}] is not in percent of the image; are these pixels?")


KIND = ReaderKind(
    name="labelstudio",
    title="Label Studio",
    looks_for="*.json with a list of tasks",
    read_as="the JSON export (not JSON-MIN, not CSV)",
    detect=lambda folder: any(
        is_label_studio(folder, name) for name in folder.with_suffix(".json")
    ),
    open=LabelStudioReader,
    numbers=BoxNumbers("xywh", "percent"),
    many_in_file=True,
)
