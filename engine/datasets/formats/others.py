"""Formats that are not read: named, with the way on, where no other annotations are found."""

from __future__ import annotations

import csv
import json
import re
from typing import Any

from engine.datasets.formats.base import number
from engine.datasets.formats.folder import IMAGE_SUFFIXES, Folder, base_name

DATUM = (
    "`datum convert -if {} -i FOLDER -f coco -o OUT -- --save-media` (pip install datumaro) makes "
    "COCO of it"
)
AGAIN = "export it once more as COCO, Pascal VOC or YOLO from the tool that made it"
AS_ROWS = (
    "write a text file beside each image, a line `class x y w h` for each box: number of the "
    "class, centre and size in fractions of the image; and classes.txt with a name a line"
)
LEAST_ALIKE = 3  # label files of the same kind, before a folder is one of theirs
MOST_READ = 200

_DELIMITERS = ",;\t"
_CORNERS = ({"xmin", "ymin", "xmax", "ymax"}, {"x1", "y1", "x2", "y2"})
_BOX_COLUMNS = ({"bbox"}, {"x", "y", "width", "height"}, {"x", "y", "w", "h"})
_endings = "|".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
_IMAGE = re.compile(rf".+\.(?:{_endings})", re.IGNORECASE)


def recognised(folder: Folder) -> str:
    """What the annotations look like and how to convert them, a sentence; "" where nothing does."""
    for suffix in (".json", ".csv", ".txt"):
        for file in folder.with_suffix(suffix):
            if said := recognised_file(folder, file):
                return said
    names = {base_name(file) for file in folder.files}
    if "tfrecord" in {name.rpartition(".")[2] for name in names}:
        return f"There are .tfrecord files: {AGAIN}."
    return ""


def recognised_labels(folder: Folder, files: list[str]) -> str:
    """The same of files that lie where YOLO has its labels, if the first few that say anything are
    all of another format.
    """
    said = []
    for file in files[:MOST_READ]:
        if folder.head(file).strip():
            said.append(recognised_file(folder, file))
            if not said[-1] or len(said) == LEAST_ALIKE:
                break
    return said[0] if said and all(said) else ""


def recognised_file(folder: Folder, file: str) -> str:
    """The same for one file."""
    head = folder.head(file).decode("utf-8-sig", "replace")
    suffix = file.rpartition(".")[2].lower()
    known = {"json": _json, "csv": _table, "txt": _text}.get(suffix)
    said = known(head) if known else ""
    return f"{file} looks like {said}." if said else ""


def _json(head: str) -> str:
    head = head.lstrip()
    if is_create_ml(head):
        return f"CreateML's JSON: {AGAIN}"
    if head.startswith("[") and '"labels"' in head and '"box2d"' in head:
        return f"the JSON of BDD100K or Scalabel: {AGAIN}"
    if head.startswith("[") and {"image_id", "category_id", "score"} <= _first_object(head).keys():
        return "COCO's results, what a model found: labels are in the file with `images` as well"
    if not head.startswith("{"):
        return ""
    if '"categories"' in head and '"label"' in head:
        return f"Datumaro's JSON: {DATUM.format('datumaro')}"
    if '"_via_img_metadata"' in head or (
        '"regions"' in head and ('"shape_attributes"' in head or '"file_attributes"' in head)
    ):
        return "VIA's (VGG Image Annotator): open it there and export the annotations as COCO"
    if '"objects"' in head and ('"classTitle"' in head or '"geometryType"' in head):
        return f"Supervisely's JSON: {AGAIN}"
    if '"tags"' in head and '"objects"' in head and '"size"' in head:  # one without objects
        return f"Supervisely's JSON: {AGAIN}"
    return ""


def _table(head: str) -> str:
    """What a CSV file is, by its columns, or by its first row where it has no names of them."""
    first = head.partition("\n")[0].strip()
    delimiter = max(_DELIMITERS, key=first.count)
    words = [word.strip().strip('"') for word in next(csv.reader([first], delimiter=delimiter), [])]
    columns = {word.lower() for word in words}
    if {"imageid", "labelname"} <= columns:
        return f"Open Images' CSV: {DATUM.format('open_images')}"
    if "region_shape_attributes" in columns:
        return "VIA's CSV (VGG Image Annotator): export the annotations as COCO there"
    if {"annotation_id", "annotator"} <= columns:
        return "Label Studio's CSV: export from Label Studio as JSON"
    if {"filename", "class", *_CORNERS[0]} <= columns:
        return f"the CSV of TensorFlow's tools: {AGAIN}, or {AS_ROWS}"
    if any(wanted <= columns for wanted in (*_CORNERS, *_BOX_COLUMNS)):
        return f"a table of boxes, as Kaggle has them: {AS_ROWS}"
    named = any(_IMAGE.fullmatch(word) for word in words)
    if named and sum(number(word) is not None for word in words) >= 4:
        return f"a table of boxes without names of columns: {AS_ROWS}"
    return ""


def _text(head: str) -> str:
    lines = [line.strip() for line in head.splitlines()[:20] if line.strip()]
    rows = [line for line in lines if not line.lower().startswith(("imagesource:", "gsd:"))]
    if not rows:
        return ""
    words = rows[0].split()
    if len(words) in {15, 16} and number(words[0]) is None and _are_numbers(words[1:]):
        return f"KITTI's labels: {DATUM.format('kitti')}"
    if len(words) in {9, 10} and number(words[8]) is None and _are_numbers(words[:8] + words[9:]):
        return (
            "DOTA's labels (turned boxes): write each row as `class x1 y1 x2 y2 x3 y3 x4 y4`, the "
            "number of the class and its corners in fractions of the image, which is YOLO's polygon"
        )
    cells = [word.strip() for word in rows[0].split(",")]
    if len(cells) in {9, 10} and _are_numbers(cells) and float(cells[0]) >= 1:
        return f"the tracks of MOT Challenge: {DATUM.format('mot_seq')}"
    if len(rows) > 2 and _IMAGE.fullmatch(rows[0]) and rows[1].isdecimal():
        if len(rows[2].split()) == 10 and _are_numbers(rows[2].split()):
            return f"WIDER Face's labels: {DATUM.format('wider_face')}"
    return ""


def _are_numbers(words: list[str]) -> bool:
    return all(number(word) is not None for word in words)


def is_create_ml(head: str) -> bool:
    """Whether a JSON file begins like one of CreateML's: a list of images with coordinates, of
    which the first may have none.
    """
    if not head.startswith("["):
        return False
    keys = set(_first_object(head))
    if keys:
        named = keys & {"image", "imagefilename"} and keys & {"annotations", "annotation"}
        return bool(named) and "data" not in keys
    return '"coordinates"' in head and ('"annotations"' in head or '"annotation"' in head)


def _first_object(head: str) -> dict[str, Any]:
    """The first object of a list, {} where it is longer than the head of its file."""
    try:
        found, _ = json.JSONDecoder().raw_decode(head[1:].lstrip())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
