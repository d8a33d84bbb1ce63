"""What a `data.yaml` of YOLO tools says: `names`, and `train`, `val`, `test` as folders or lists of
images.

Found in the dataset folder, it is one of its annotation files: its paths lead nowhere outside.
Given as the dataset itself (`data=FOLDER/data.yaml`), it is a description of somebody's own: `path`
may then lead anywhere, see `yolo_places`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from engine.datasets.findings import Findings
from engine.datasets.formats.base import is_writable, number, shown, split_word
from engine.datasets.formats.folder import Folder, base_name, inside, tails
from engine.datasets.formats.given_splits import GivenSplits
from engine.datasets.formats.split_lists import (
    SplitList,
    find_split_lists,
    image_of,
    settled,
)
from engine.errors import DataError
from engine.settings.yaml_io import key_lines, read_yaml
from engine.types import SPLITS

NAME_FILES = (
    "classes.txt",
    "obj.names",
    "predefined_classes.txt",
)  # the last only where no other is there
KEYS = (
    "train",
    "val",
    "test",
    "names",
    "nc",
    "kpt_shape",
    "download",
)  # those that count, besides `path`
AS_WRITTEN = (
    "path",
    "train",
    "val",
    "test",
    "names",
)  # text, also where YAML would read a number: 0123, 12:30, 2026


_NAMES = re.compile(r"^names\s*:", re.MULTILINE)


@dataclass(frozen=True)
class YoloSettings:
    """The content of a data.yaml; {} where there is none."""

    content: Mapping[str, Any]
    file: str = "data.yaml"
    lines: Mapping[str, int] = field(default_factory=dict)  # of its values, by dotted path

    def at(self, key: str) -> str:
        """The file, and the line of `key` where it is known, as messages name places."""
        line = self.lines.get(key)
        return f"{self.file}, line {line}" if line else self.file

    def line_of(self, split: str, text: str) -> int | None:
        """The line where `text` is given as a folder or list of `split`, if known."""
        for key, value in self.content.items():
            if split_word(str(key)) == split:
                texts = value if isinstance(value, list) else [value]
                at = next(
                    (
                        index
                        for index, item in enumerate(texts)
                        if isinstance(item, str) and item.strip() == text
                    ),
                    None,
                )
                if at is not None:
                    return self.lines.get(f"{key}.{at}" if isinstance(value, list) else str(key))
        return None

    @property
    def path(self) -> str:
        """`path`, "" where there is none. DataError where it is no text."""
        path = self.content.get("path") or ""
        if not isinstance(path, str):
            raise DataError(
                f"{self.at('path')}: `path` is a {type(path).__name__}, expected the folder of "
                "the dataset"
            )
        return path

    @property
    def values_per_key_points(self) -> int:
        """How many numbers follow the box in a row: key points of poses, which are not used.

        Raises:
            DataError: `kpt_shape` is not [points, 2 or 3].
        """
        shape = self.content.get("kpt_shape")
        if shape is None:
            return 0
        if (
            not isinstance(shape, (list, tuple))
            or len(shape) != 2
            or not all(type(n) is int and n > 0 for n in shape)
        ):
            raise DataError(
                f"{self.at('kpt_shape')}: kpt_shape is {shown(str(shape))}, expected [number of "
                "points, 2 or 3]"
            )
        return shape[0] * shape[1]


def split_paths(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(split, path as written) of every folder and list that a data.yaml names."""
    pairs = ((split_word(str(key)), value) for key, value in content.items())
    texts = [
        (split, text)
        for split, value in pairs
        if split
        for text in (value if isinstance(value, list) else [value])
    ]
    return [
        (split, text.strip()) for split, text in texts if isinstance(text, str) and text.strip()
    ]


def yolo_places(
    file: Path, path: str, content: Mapping[str, Any]
) -> tuple[Path | None, list[Path]]:
    """(folder of the dataset that a given data.yaml means, or None; the folders that were tried).

    In this order: `path` as seen from the file, `path` as seen from the current folder, the file's
    own folder, since many exporters write a `path` of the machine they ran on. The first that holds
    one of the splits counts.
    """
    tried = [file.parent / path, Path.cwd() / path, file.parent] if path else [file.parent]
    tried = list(dict.fromkeys(Path(os.path.abspath(folder)) for folder in tried))
    texts = [text.replace("\\", "/") for _, text in split_paths(content)]
    if not texts:  # it has names only
        return next((folder for folder in tried if folder.is_dir()), None), tried
    for folder in tried:
        if any(_is_there(folder, text) for text in texts):
            return folder, tried
    own = tried[-1]
    meant = [text.lstrip("./") for text in texts]  # "../train/images" of some exporters
    if any(text and _is_there(own, text) for text in meant) or (
        not path and not any(_leads_out(own, t) for t in texts)
    ):
        return own, tried
    return None, tried


def _is_there(folder: Path, text: str) -> bool:
    """Whether a path leads to something inside the folder."""
    place = os.path.abspath(folder / text)
    return Path(place).is_relative_to(folder) and os.path.exists(place)


def _leads_out(folder: Path, text: str) -> bool:
    return (
        not Path(os.path.abspath(folder / text)).is_relative_to(folder) and (folder / text).exists()
    )


def find_settings(folder: Folder) -> YoloSettings:
    """The content of data.yaml, or of the one YAML file that lists names.

    Raises:
        DataError: it is no YAML, or says something twice; or several files list names.
    """
    found: dict[str, YoloSettings] = {}
    for file in folder.with_suffix(".yaml", ".yml"):
        if "/" in file:
            continue
        text = ""
        try:
            text = folder.text(file)
            content = read_yaml(text, AS_WRITTEN)
        except (ValueError, yaml.YAMLError) as error:
            if PurePosixPath(file).stem == "data" or _NAMES.search(text):
                raise DataError(f"{folder.root / file}: not valid YAML: {error}") from None
            continue
        if isinstance(content, dict) and "names" in content:
            found[file] = YoloSettings(content, file, key_lines(text))
    if len(found) > 1 and "data.yaml" not in found:
        raise DataError(
            f"{folder.root}: {' and '.join(found)} both list class names; call the right one "
            f"data.yaml, or give it as the dataset: data={folder.root / next(iter(found))}"
        )
    return found.get("data.yaml") or next(iter(found.values()), YoloSettings({}))


def class_names(
    folder: Folder, settings: YoloSettings, *, labels: Collection[str] = (), chosen: bool = False
) -> tuple[str, ...]:
    """Class names by number: from data.yaml, else from files of names; () where there are none.

    labels: files that hold labels: an image may be called classes.jpg. chosen: the data.yaml was
    given as the dataset: what other files say does not matter.

    Raises:
        DataError: names that cannot be used, or two files that call one number differently.
    """
    listed = {} if chosen and "names" in settings.content else _name_files(folder, labels)
    if "names" in settings.content:
        names = _names_of_yaml(folder, settings)
        _refuse_contradiction({settings.file: list(names), **listed}, folder)
        return names
    _refuse_contradiction(listed, folder)
    file = max(listed, key=lambda name: len(listed[name]), default=None)  # the others end earlier
    return _checked_names(folder, file, listed[file]) if file else ()


def _name_files(folder: Folder, labels: Collection[str]) -> dict[str, list[str]]:
    """Every file of names that is not empty -> its names; some tools write one into each folder."""
    files = [
        name
        for name in folder.files
        if (base_name(name) in NAME_FILES or name.endswith(".names")) and name not in labels
    ]
    found = {}
    for file in [name for name in files if base_name(name) not in NAME_FILES[2:]] or files:
        try:
            text = folder.text(file)
        except ValueError as error:
            raise DataError(f"{folder.root / file}: {error}") from None
        if text.strip():  # an empty line between two names has a number too
            found[file] = [line.strip() for line in text.rstrip().splitlines()]
    return found


def _refuse_contradiction(listed: Mapping[str, list[str]], folder: Folder) -> None:
    """DataError where one number has two names; a list may end before another."""
    by_number: dict[int, tuple[str, str]] = {}
    for file, names in listed.items():
        for index, name in enumerate(names):
            first, other = by_number.setdefault(index, (file, name))
            if other != name:
                yaml = next(
                    (folder.root / file for file in listed if file.endswith((".yaml", ".yml"))),
                    None,
                )
                choice = (
                    f", or give the one that counts: data={yaml}"
                    if yaml
                    else " and number the labels alike"
                )
                raise DataError(
                    f"{folder.root}: class {index} is {shown(other)} in {first} and {shown(name)} "
                    f"in {file}; correct one of them{choice}"
                )


def _names_of_yaml(folder: Folder, settings: YoloSettings) -> tuple[str, ...]:
    names, place = settings.content["names"], settings.at("names")
    if isinstance(names, dict):
        numbers = sorted(key for key in names if isinstance(key, int))
        if numbers != list(range(len(names))):
            raise DataError(
                f"{folder.root}: `names` of {place} must be numbered 0 to {len(names) - 1}, found "
                f"{list(names)}"
            )
        names = [names[key] for key in numbers]
    if (
        not isinstance(names, list)
        or not names
        or any(isinstance(name, (bool, list, dict)) or name is None for name in names)
    ):
        raise DataError(
            f"{folder.root}: `names` of {place} is no list of names (write words like no, on, "
            "null in quotes)"
        )
    found = _checked_names(folder, place, [str(name).strip() for name in names])
    count = settings.content.get("nc", len(found))
    if number(count) != len(found):
        said = shown(str(count)) if isinstance(count, str) else count
        raise DataError(
            f"{folder.root}: {settings.at('nc')} says nc: {said} and lists {len(found)} names; "
            "correct one"
        )
    return found


def _checked_names(folder: Folder, place: str, names: list[str]) -> tuple[str, ...]:
    double = sorted({name for name in names if names.count(name) > 1})
    if double or "" in names:
        what = ", ".join(filter(None, double)) or f"one is empty (number {names.index('')})"
        raise DataError(f"{folder.root / place}: class names must be there once: {what}")
    if not all(map(is_writable, names)):
        raise DataError(
            f"{folder.root / place}: a class name holds half of a surrogate pair; write the "
            "character itself"
        )
    return tuple(names)


def with_lists(
    folder: Folder, settings: YoloSettings, labels: Collection[str], findings: Findings
) -> YoloSettings:
    """The settings, with the lists of images that darknet, CVAT ("YOLO 1.1") and scripts put into a
    dataset, where a data.yaml says nothing of splits: those that a `*.data` file names, else all
    that `find_split_lists` finds. One list alone is no split, and a finding.

    labels: files that hold labels.
    """
    if split_paths(settings.content):
        return settings
    named = _lists_of_darknet(folder, findings)
    lists: Mapping[str, str | list[str]] = named
    if len(named) < 2:
        found = find_split_lists(folder, findings, labels)
        by_file = {each.file: each for each in found}
        for split, file in named.items():
            if file not in by_file:
                images = {image_of(folder, line) for line in _lines(folder, file)}
                found.append(SplitList(file, split, frozenset(images - {None})))
        lists = settled(found, findings, of=len(folder.images))
    return replace(settings, content={**settings.content, **lists}) if len(lists) > 1 else settings


def _lines(folder: Folder, file: str) -> list[str]:
    try:
        return [line for line in folder.list_text(file).splitlines() if line.strip()]
    except ValueError:  # who reads it as a list says so
        return []


def _lists_of_darknet(folder: Folder, findings: Findings) -> dict[str, str]:
    """Split -> list, of all `*.data` files; a finding for each that is not there."""
    found: dict[str, str] = {}
    for file in folder.with_suffix(".data"):
        for number_of_line, line in enumerate(_lines(folder, file), 1):
            key, equals, value = (part.strip() for part in line.partition("="))
            split = split_word(key)
            # as seen from darknet's folder: data/train.txt
            there = [tail for tail in tails(value.replace("\\", "/")) if tail in folder]
            if equals and split and there:
                found.setdefault(split, there[-1])
            elif equals and split:
                detail = f"{key}: {shown(value)} is not there"
                findings.add("split_path", file, detail, number_of_line)
    return found


def _within(text: str) -> str | None:
    """`inside`, and "" for the folder itself: `.`"""
    return "" if text.strip().replace("\\", "/").rstrip("/") == "." else inside(text)


class SplitFolders:
    """`train`, `val` and `test` of a data.yaml: folders, or lists of images. A later split has what
    an earlier one has too.
    """

    def __init__(self, folder: Folder, settings: YoloSettings, findings: Findings) -> None:
        self._folder, self._settings, self._findings = folder, settings, findings
        self._prefixes: dict[str, str] = {}  # folder with a final / -> split
        lists: dict[str, list[str]] = {}
        base = settings.path
        for split, text in sorted(
            split_paths(settings.content), key=lambda pair: SPLITS.index(pair[0])
        ):
            self._add(split, text, base, lists)
        self._lists = GivenSplits(folder, lists, findings) if lists else None
        self.given = bool(self._prefixes or self._lists)

    def _add(self, split: str, text: str, base: str, lists: dict[str, list[str]]) -> None:
        inner = _within(text)
        if (
            inner is None
            and Path(text).is_absolute()
            and _is_there(Path(os.path.abspath(self._folder.root)), text)
        ):
            inner = _within(os.path.relpath(text, os.path.abspath(self._folder.root)))
        for candidate in (_within(f"{base}/{text}") if inside(base) else None, inner):
            if candidate is None:
                continue
            if candidate in self._folder:
                lists.setdefault(split, []).append(candidate)
                return
            prefix = candidate + "/" if candidate else ""
            if self._holds_images(prefix):
                self._put(split, prefix, text)
                return
        detail = f"{split}: {shown(text)} is no folder with images in the dataset folder"
        self._findings.add(
            "split_path", self._settings.file, detail, self._settings.line_of(split, text)
        )
        # "../train/images" of some exporters: the folder of that name inside the dataset.
        end = text.replace("\\", "/").lstrip("./").rstrip("/")
        if end and self._holds_images(end + "/"):
            self._put(split, end + "/", text)

    def _holds_images(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._folder.images)

    def _put(self, split: str, prefix: str, text: str) -> None:
        earlier = self._prefixes.get(prefix, split)
        if earlier != split:
            detail = f"{split} is the same folder as {earlier}: {shown(prefix.rstrip('/') or '.')}"
            if (
                self._findings.add(
                    "split_leak", self._settings.file, detail, self._settings.line_of(split, text)
                )
                == "warn"
            ):
                return
        self._prefixes[prefix] = split

    def of(self, image: str) -> str:
        found = [prefix for prefix in self._prefixes if image.startswith(prefix)]
        if found:
            self.excuse(image)
            return self._prefixes[max(found, key=len)]
        return self._lists.of(image) if self._lists else ""

    def excuse(self, image: str) -> None:
        """See `GivenSplits.excuse`."""
        if self._lists:
            self._lists.excuse(image)

    def report_unused(self) -> None:
        """See `GivenSplits.report_unused`."""
        if self._lists:
            self._lists.report_unused()
