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
    for file in folder.with_suffix(".json"):
        head = folder.head(file).decode("utf-8-sig", "replace").lstrip()
        if head.startswith("{") and '"categories"' in head and '"label"' in head:
            return f"{file} looks like Datumaro's JSON: {DATUM.format('datumaro')}."
        if is_create_ml(head):
            return f"{file} looks like CreateML's JSON: {AGAIN}."
    for file in folder.with_suffix(".csv"):
        first = folder.head(file).decode("utf-8-sig", "replace").partition("\n")[0]
        columns = {word.strip().strip('"').lower() for word in first.split(",")}
        if {"imageid", "labelname"} <= columns:
            return f"{file} looks like Open Images' CSV: {DATUM.format('open_images')}."
        if {"xmin", "ymin", "xmax", "ymax"} <= columns:
            return f"{file} looks like the CSV of TensorFlow's tools: {AGAIN}."
    for file in folder.with_suffix(".txt"):
        words = folder.head(file).decode("utf-8", "replace").partition("\n")[0].split()
        is_row = len(words) in {15, 16} and number(words[0]) is None
        if is_row and all(number(word) is not None for word in words[1:]):
            return f"{file} looks like KITTI's labels: {DATUM.format('kitti')}."
    names = {base_name(file) for file in folder.files}
    if "tfrecord" in {name.rpartition(".")[2] for name in names}:
        return f"There are .tfrecord files: {AGAIN}."
    return ""


def is_create_ml(head: str) -> bool:
    """Whether a JSON file begins like one of CreateML's: a list of images with coordinates."""
    return head.startswith("[") and '"coordinates"' in head and '"annotations"' in head
