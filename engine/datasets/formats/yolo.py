"""YOLO text: one file an image, rows `class x y w h` in fractions of the image, or `class x1 y1 x2
y2 ...` (a polygon, of which the enclosing box is taken). Labels lie beside the image or in
`labels/` where the image is in `images/`.

Class names and splits come from `data.yaml` (`yolo_yaml.py`), names else from `classes.txt` or
`obj.names`, splits from the lists of darknet and CVAT (`obj.data`, `train.txt`, `valid.txt`). A
path there that points nowhere is taken as the folder of that name, as some exporters mean it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from engine.datasets.formats.base import BoxNumbers, Row, SourceImage, number, shown
from engine.datasets.formats.folder import Folder, base_name, inside, spelling, without_suffix
from engine.datasets.formats.kinds import AnnotationReader, ReaderKind, ReadRequest
from engine.datasets.formats.others import recognised_labels
from engine.datasets.formats.writers import (
    FRACTION_DECIMALS,
    ImageFiles,
    Labelled,
    number_text,
    without_crowds,
    write,
)
from engine.datasets.formats.yolo_yaml import (
    NAME_FILES,
    SplitFolders,
    YoloSettings,
    class_names,
    find_settings,
    with_lists,
)
from engine.errors import DataError
from engine.types import SPLITS

NOT_LABELS = {
    *NAME_FILES,
    "train.txt",
    "val.txt",
    "valid.txt",
    "test.txt",
    "readme.txt",
    "license.txt",
    "requirements.txt",
}


class YoloReader(AnnotationReader):
    """See `formats.base.Reader`. `names` of the request count where the folder has none."""

    def __init__(self, request: ReadRequest) -> None:
        super().__init__(request)
        folder, chosen = request.folder, request.yolo is not None
        settings = request.yolo or find_settings(folder)
        _refuse_images_elsewhere(folder, settings)
        labels = label_files(folder)
        if other := recognised_labels(folder, labels):
            raise DataError(f"{folder.root}: annotations in a format that is not read. {other}")
        self._labels = set(labels)
        found = class_names(folder, settings, labels=self._labels, chosen=chosen)
        self.names = found or request.names
        if not self.names:
            raise DataError(
                f"{folder.root}: YOLO labels have class numbers only and no names were found. "
                f"{_settings_below(folder)}Add data.yaml with `names`, classes.txt with a name a "
                "line, or `names` in the dataset description."
            )
        self._more = settings.values_per_key_points
        use_settings = not (self._splits.given_by_list or request.ignore_splits)
        if use_settings:
            settings = with_lists(folder, settings, self._labels, request.findings)
        self._folders = SplitFolders(folder, settings, request.findings) if use_settings else None
        self.gives_splits = self._splits.given or bool(self._folders and self._folders.given)

    def __iter__(self) -> Iterator[SourceImage]:
        used: dict[str, str] = {}
        renamed = self._renamed()
        for name in self._folder.images:
            label = self._label_of(name)
            if label is None and name in renamed:
                label = renamed[name]
                detail = f"no image has this name; {name} is the only one that fits"
                if self._findings.add("renamed_image", label, detail) != "fix":
                    used[label] = name
                    self._excuse(name)
                    continue
            if label is None:
                yield from self._unlabelled(name, "has no label file")
                self._excuse(name)
                continue
            if label in used:  # x.jpg and x.png
                self._findings.add(
                    "ambiguous_image", label, f"belongs to {used[label]} and to {name}"
                )
                self._excuse(name)
                continue
            used[label] = name
            rows = self._rows(label)
            split = self._split_of(name)
            if rows is not None:
                yield SourceImage(
                    name, rows, label, self._folder.path(name), fractions=True, split=split
                )
        for label in sorted(self._labels - used.keys()):
            self._findings.add(
                "missing_image", label, "no image belongs to this label file" + self._hint(label)
            )
        self._splits.report_unused()
        if self._folders:
            self._folders.report_unused()
        label_of = {image: label for label, image in used.items()}
        self._report_elsewhere(label_of, self._labels, self._looks_right)

    def _excuse(self, image: str) -> None:
        """Lists may name this image, which is not used, and said to be so."""
        self._splits.excuse(image)
        if self._folders:
            self._folders.excuse(image)

    def _looks_right(self, file: str) -> bool:
        """Whether a text begins with a row of YOLO's: a whole number and fractions. Positions of
        cameras and depths are numbers too.
        """
        words = self._folder.head(file).decode("utf-8-sig", "replace").split("\n")[0].split()
        values = [number(word) for word in words]
        return (
            file.endswith(".txt")
            and None not in values
            and len(values) >= 5
            and (len(values) == 5 or len(values) % 2 == 1)
            and values[0] == int(values[0]) >= 0
            and all(0 <= value <= 1 + 1e-3 for value in values[1:])
        )

    def _label_of(self, image: str) -> str | None:
        return next((label for label in label_names(image) if label in self._labels), None)

    def _renamed(self) -> dict[str, str]:
        """Images without label -> the one label file in their place that has their name as another
        tool writes it (`spelling`) and no image of its own.
        """
        labels, images = defaultdict(list), defaultdict(list)
        found = {image: self._label_of(image) for image in self._folder.images}
        for label in self._labels.difference(found.values()):
            if not label.endswith(".txt"):
                continue
            labels[_spelling(label)].append(label)
        for image, label in found.items() if labels else ():
            for candidate in set(label_names(image)) if label is None else ():
                images[_spelling(candidate)].append(image)
        return {
            images[key][0]: files[0]
            for key, files in labels.items()
            if len(files) == len(images[key]) == 1
        }

    def _split_of(self, image: str) -> str:
        return (self._folders.of(image) if self._folders else "") or self._splits.of(image)

    def _hint(self, label: str) -> str:
        """Why not, if anything there says it."""
        bare = without_suffix(label)
        if not label.endswith(".txt"):
            return "; write its suffix as .txt"
        alike = self._folder.images_with_stem(base_name(bare))
        alike = [image for image in alike if self._labels.isdisjoint(label_names(image))]
        if alike:
            return f"; there is {alike[0]}: in another folder"
        for image in self._folder.images_with_stem(base_name(bare)):
            return f"; {image} has its labels in {self._label_of(image)}"
        return self._folder.looks_like(bare + ".jpg") or self._folder.unread_image(bare)

    def _rows(self, label: str) -> tuple[Row, ...] | None:
        try:
            lines = self._folder.text(label).splitlines()
        except ValueError as error:
            self._findings.add("unreadable_annotation", label, str(error))
            return None
        rows = (
            self._row(label, number, text) for number, text in enumerate(lines, 1) if text.strip()
        )
        return tuple(row for row in rows if row is not None)

    def _row(self, label: str, line: int, text: str) -> Row | None:
        first, *rest = text.split()
        index, values = number(first), [number(word) for word in rest]
        if self._more and len(values) == 4 + self._more:
            values = values[:4]
        problem = ""
        if index is None or index != int(index):
            problem = f"{shown(first)} is no class number"
        elif None in values:
            problem = f"{shown(rest[values.index(None)])} is not a number"
        elif len(values) != 4 and (len(values) < 6 or len(values) % 2):
            problem = (
                f"{len(values)} values after the class, expected 4 (x y w h) or the corners of a "
                "polygon"
            )
        elif max(map(abs, values)) > 2:
            problem = f"{shown(text)} is not in fractions of the image; are these pixels?"
        if problem:
            self._findings.add("bad_entry", label, problem, line)
            return None
        known = 0 <= index < len(self.names)
        # A number without name stays visible: `unknown_class` decides about it like about any other
        # name.
        return Row(
            self.names[int(index)] if known else f"class {int(index)}",
            _box(values),
            line=line,
            outline=len(values) != 4,
        )


def _spelling(label: str) -> tuple[str, str]:
    folder, _, name = label.rpartition("/")
    return folder, spelling(without_suffix(name))


def _settings_below(folder: Folder) -> str:
    """A sentence about a data.yaml that lies deeper in the folder, where it is not looked for."""
    below = next(
        (
            name
            for name in folder.with_suffix(".yaml", ".yml")
            if without_suffix(base_name(name)) == "data"
        ),
        None,
    )
    return (
        f"There is {below}: give that, data={folder.root / below}, or the folder around it. "
        if below
        else ""
    )


def _refuse_images_elsewhere(folder: Folder, settings: YoloSettings) -> None:
    """A dataset folder that holds nothing but a data.yaml which points out of it: say how that is
    meant to be used.
    """
    path = settings.path
    if not folder.images and path and inside(path) is None:
        file = folder.root / settings.file
        raise DataError(
            f"{folder.root}: holds no images; its {settings.file} says `path: {path}`, which "
            f"leaves the folder and is only followed where the file itself is given: data={file}"
        )


def _box(values: list[float]) -> tuple[float, float, float, float]:
    """xyxy fractions of a row's numbers."""
    if len(values) == 4:
        x, y, w, h = values
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])


def label_names(image: str) -> list[str]:
    """Where the label file of an image may lie: in labels/ for images/ (the innermost first), or
    beside the image.
    """
    parts = without_suffix(image).split("/")
    places = [i for i in range(len(parts) - 2, -1, -1) if parts[i].lower() == "images"]
    return ["/".join([*parts[:i], "labels", *parts[i + 1 :]]) + ".txt" for i in places] + [
        "/".join(parts) + ".txt"
    ]


def label_files(folder: Folder) -> list[str]:
    """Text files that hold labels: those of the folders called labels, else those beside images
    that begin with a number.
    """
    everything = folder.with_suffix(".txt")
    shown_by = {
        base_name(without_suffix(name)) for name in folder.images
    }  # an image may be called train.jpg
    in_labels = [name for name in everything if "labels" in name.lower().split("/")[:-1]]
    inside_labels = [
        name
        for name in in_labels
        if not _is_other(name) or base_name(without_suffix(name)) in shown_by
    ]
    if inside_labels:
        return inside_labels
    texts = [name for name in everything if not _is_other(name)]
    stems = {without_suffix(name) for name in folder.images}
    if not any(without_suffix(name) in stems for name in texts):
        return []
    folders = {name.rpartition("/")[0] for name in folder.images}
    beside = [name for name in texts if name.rpartition("/")[0] in folders]
    return [
        name
        for name in beside
        if without_suffix(name) in stems or _begins_with_number(folder, name)
    ]


def _is_other(file: str) -> bool:
    return base_name(file).lower() in NOT_LABELS


def _begins_with_number(folder: Folder, file: str) -> bool:
    try:
        words = folder.text(file).split(maxsplit=1)
    except ValueError:
        return False
    return bool(words) and number(words[0]) is not None


class YoloWriter:
    """images/<split>/, labels/<split>/ and data.yaml."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.lost: Counter[str] = Counter()
        self._folder, self._files = folder, ImageFiles(folder)
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
        for row in without_crowds(image.rows, self.lost):
            self.lost["the mark `difficult`"] += row.difficult
            x1, y1, x2, y2 = row.box
            fractions = ((x1 + x2) / 2 / w, (y1 + y2) / 2 / h, (x2 - x1) / w, (y2 - y1) / h)
            lines.append(
                " ".join(
                    [
                        str(self._number[row.name]),
                        *(number_text(fraction, FRACTION_DECIMALS) for fraction in fractions),
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


KIND = ReaderKind(
    name="yolo",
    title="YOLO",
    looks_for="data.yaml, labels/*.txt, or *.txt beside images",
    read_as=(
        "one text file an image, rows `class x y w h` or polygons; `data.yaml` or `classes.txt`"
    ),
    detect=lambda folder: bool(label_files(folder) or find_settings(folder).content),
    open=YoloReader,
    write=YoloWriter,
    numbers=BoxNumbers("cxcywh", "fraction"),
)
