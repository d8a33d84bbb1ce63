"""Formats that are not read: named, with the way on, where no other annotations are found."""

from __future__ import annotations

from engine.datasets.formats.base import number
from engine.datasets.formats.folder import Folder, base_name

DATUM = (
    "`datum convert -if {} -i FOLDER -f coco -o OUT -- --save-media` (pip install datumaro) makes "
    "COCO of it"
)
AGAIN = "export it once more as COCO, Pascal VOC or YOLO from the tool that made it"


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


def recognised_file(folder: Folder, file: str) -> str:
    """The same for one file."""
    head = folder.head(file).decode("utf-8-sig", "replace")
    first = head.partition("\n")[0]
    suffix = file.rpartition(".")[2].lower()
    if suffix == "json":
        head = head.lstrip()
        if head.startswith("{") and '"categories"' in head and '"label"' in head:
            return f"{file} looks like Datumaro's JSON: {DATUM.format('datumaro')}."
        if is_create_ml(head):
            return f"{file} looks like CreateML's JSON: {AGAIN}."
    elif suffix == "csv":
        columns = {word.strip().strip('"').lower() for word in first.split(",")}
        if {"imageid", "labelname"} <= columns:
            return f"{file} looks like Open Images' CSV: {DATUM.format('open_images')}."
        if {"xmin", "ymin", "xmax", "ymax"} <= columns:
            return f"{file} looks like the CSV of TensorFlow's tools: {AGAIN}."
    elif suffix == "txt":
        words = first.split()
        is_row = len(words) in {15, 16} and number(words[0]) is None
        if is_row and all(number(word) is not None for word in words[1:]):
            return f"{file} looks like KITTI's labels: {DATUM.format('kitti')}."
    return ""


def is_create_ml(head: str) -> bool:
    """Whether a JSON file begins like one of CreateML's: a list of images with coordinates."""
    return head.startswith("[") and '"coordinates"' in head and '"annotations"' in head
