"""COCO JSON: `images`, `annotations` with `bbox` [x, y, w, h] in pixels, `categories`. Crowd boxes stay crowd boxes.

A dataset may have one file for each split (instances_train2017.json) or one for all. Image files are looked up by the end
of their path, so `file_name` may be relative to the JSON file, to an images folder or to the dataset.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from engine.parts.data.checks import Findings
from engine.parts.data.formats.base import Row, SourceImage, number, shown, split_of_path, split_word, stated_size
from engine.parts.data.formats.folder import Folder, base_name
from engine.parts.data.formats.splits import GivenSplits

SECTIONS = ("images", "annotations", "categories")


class CocoReader:
    """See `formats.base.Reader`. The JSON files are read whole, one after the other; images are not."""

    def __init__(self, folder: Folder, splits: GivenSplits, findings: Findings, *, ignore_splits: bool = False) -> None:
        self._folder, self._splits, self._findings = folder, splits, findings
        self._files: list[tuple[str, dict[str, Any]]] = []
        self._owner: dict[str, str] = {}
        names: dict[str, None] = {}
        for file in coco_files(folder):
            content = self._load(file)
            if content is not None:
                self._files.append((file, content))
                names.update(dict.fromkeys(self._categories(file, content).values()))
        self.names = tuple(names)
        self.total = sum(len(content["images"]) for _, content in self._files)
        self._by_file = not splits.given_by_list and not ignore_splits and any(split_of_json(name) for name, _ in self._files)
        self.gives_splits = self._by_file or splits.given

    def _load(self, file: str) -> dict[str, Any] | None:
        """The content of a JSON file with the three sections, None where it is none."""
        try:
            content = json.loads(self._folder.text(file))
        except RecursionError:
            problem = "JSON nested too deep"
        except ValueError as error:
            problem = f"not valid JSON: {error}"
        else:
            if isinstance(content, dict) and not any(section in content for section in SECTIONS[:2]):
                return None  # some other JSON file
            problem = _wrong_section(content)
        if problem:
            self._findings.add("unreadable_annotation", file, problem)
            return None
        return content

    def _categories(self, file: str, content: dict[str, Any], findings: Findings | None = None) -> dict[Any, str]:
        """Category id -> name, in the order of the ids. Only a call with `findings` reports."""
        found: dict[Any, str] = {}
        for item in content["categories"]:
            key, name = item.get("id"), item.get("name")
            if not is_id(key) or not isinstance(name, str) or not name.strip():
                if findings is not None:
                    findings.add("bad_entry", file, f"category {shown(str(key))} without a number as id or without name")
            elif key in found or name.strip() in found.values():
                if findings is not None:
                    findings.add("duplicate_entry", file, f"category {key} '{name}': its id or name is taken")
            else:
                found[key] = name.strip()
        return dict(sorted(found.items()))

    def __iter__(self) -> Iterator[SourceImage]:
        for file, content in self._files:
            categories = self._categories(file, content, self._findings)
            rows = self._rows(file, content, categories)
            for item in self._images(file, content):
                image = self._image(file, item, tuple(rows.get(item["id"], ())))
                if image is not None:
                    yield image
        for name in self._folder.images:
            if name not in self._owner and self._findings.add("unlabelled_image", name, "is in no JSON file") == "warn":
                yield SourceImage(name, (), name, self._folder.path(name), split=self._splits.of(name))
        self._splits.report_unused()

    def _images(self, file: str, content: dict[str, Any]) -> list[dict[str, Any]]:
        """The image entries that have an id of their own and a name."""
        found: dict[Any, dict[str, Any]] = {}
        for position, item in enumerate(content["images"]):
            if not is_id(item.get("id")) or not isinstance(item.get("file_name"), str) or not item["file_name"].strip():
                self._findings.add("bad_entry", file, f"images[{position}] has no number as id or no file_name")
            elif item["id"] in found:
                self._findings.add("duplicate_entry", file, f"image id {item['id']} is there twice")
            else:
                found[item["id"]] = item
        return list(found.values())

    def _rows(self, file: str, content: dict[str, Any], categories: dict[Any, str]) -> dict[Any, list[Row]]:
        """Image id -> its boxes, in the order of the file."""
        known = {item.get("id") for item in content["images"] if is_id(item.get("id"))}
        seen: set[Any] = set()
        rows: dict[Any, list[Row]] = defaultdict(list)
        for position, item in enumerate(content["annotations"]):
            key = item.get("id")
            ref = f"annotation {key}" if is_id(key) else f"annotations[{position}]"
            box = item.get("bbox")
            values = [number(v) for v in box] if isinstance(box, list) and len(box) == 4 else [None]
            image, category = item.get("image_id"), item.get("category_id")
            if is_id(key) and key in seen:
                self._findings.add("duplicate_entry", file, f"{ref} is there twice")
            elif not is_id(image) or image not in known:
                self._findings.add("bad_entry", file, f"{ref}: image_id {shown(str(image))} is not among the images")
            elif None in values or any(isinstance(v, str) for v in box):
                self._findings.add("bad_entry", file, f"{ref}: bbox {shown(str(box))} is not [x, y, width, height]")
            else:
                x, y, w, h = values
                # An id without category stays visible: `unknown_class` decides about it like about any other name.
                name = categories.get(category, f"category_id {category}") if is_id(category) else "no category_id"
                rows[image].append(Row(name, (x, y, x + w, y + h), crowd=item.get("iscrowd") in (1, True), ref=ref))
            seen.add(key if is_id(key) else None)
        return rows

    def _image(self, file: str, item: dict[str, Any], rows: tuple[Row, ...]) -> SourceImage | None:
        text = item["file_name"]
        name = self._folder.find_image(self._findings, file, text, what="file_name", prefer=lambda names: self._near(file, names))
        if name is None:
            self._splits.of(base_name(text))  # found wanting, and said so: a list that names it is not wrong as well
            return None
        if name in self._owner:
            self._findings.add("duplicate_entry", file, f"image {item['id']} is {name}, which {self._owner[name]} has too")
            return None
        self._owner[name] = file
        split = split_of_json(file) if self._by_file else self._splits.of(name)
        size = stated_size(item.get("height"), item.get("width"))
        return SourceImage(name, rows, file, self._folder.path(name), size=size, states_size=True, split=split)

    def _near(self, file: str, names: list[str]) -> list[str]:
        """Of several images with that name, those beside the JSON file, else those in its split's folder, else all."""
        folder = PurePosixPath(file).parent
        beside = [name for name in names if PurePosixPath(name).is_relative_to(folder)] if str(folder) != "." else []
        split = split_of_json(file)
        return beside or [name for name in names if split and split_of_path(name) == split] or names


def coco_files(folder: Folder) -> list[str]:
    """The JSON files; of COCO's own set only instances_*.json, the others describe the same images for other tasks."""
    files = folder.with_suffix(".json")
    return [name for name in files if base_name(name).startswith("instances_")] or files


def is_id(value: Any) -> bool:
    """Whether a JSON value can be an id: a whole number, and not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)


def split_of_json(file: str) -> str:
    """`"annotations/instances_val2017.json"` -> "val"; `"test/_annotations.coco.json"` -> "test"."""
    words = PurePosixPath(file).stem.replace("-", "_").replace(".", "_").split("_")
    return next((split for split in map(split_word, words) if split), "") or split_of_path(file)


def is_coco(folder: Folder, file: str) -> bool:
    """Whether a JSON file begins like COCO's; broken ones count, so that the reader can say what is wrong."""
    try:
        text = folder.text(file)
    except ValueError:
        return False
    return not text.lstrip().startswith("[") and '"images"' in text and '"annotations"' in text


def _wrong_section(content: Any) -> str:
    if not isinstance(content, dict):
        return f"holds a {type(content).__name__}, COCO has an object with {', '.join(SECTIONS)}"
    for section in SECTIONS:
        if not isinstance(content.get(section), list) or not all(isinstance(item, dict) for item in content[section]):
            return f"'{section}' is missing or no list of objects"
    return ""
