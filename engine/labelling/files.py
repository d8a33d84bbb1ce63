"""Tasks as files that annotation tools import.

CVAT: `annotations.xml` ("CVAT for images 1.1") and `labels.json` for the task's raw labels. Label
Studio: `tasks.json`, with labels as annotations and the model's boxes as predictions, and
`interface.cfg` for the project's labelling interface. Beside them `tasks.csv` says why each image
is there. Images are copied into `images/` or listed in `images.txt`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from engine.datasets.formats.writers import PIXEL_DECIMALS, number_text
from engine.datasets.prepare import copy_names
from engine.errors import WorkspaceError
from engine.files import write_text
from engine.labelling.task import Task, TaskBox
from engine.types import ImageRecord, Size

IMAGES = "images"


@dataclass(frozen=True)
class Tool:
    """An annotation tool. `write` gets (folder, tasks, the name of each image, class names, the
    model's name).
    """

    name: str
    title: str
    main: str  # the file that is imported
    write: Callable[[Path, Sequence[Task], Sequence[str], Sequence[str], str], None]
    how: str  # what to do with the files


def write_tasks(
    folder: Path, tool: Tool, tasks: Sequence[Task], names: Sequence[str], model: str, copy: bool
) -> None:
    """Fill `folder`, an empty one.

    names: of the classes. model: the model's name, for people. copy: whether the images are copied.

    Raises:
        WorkspaceError: an image cannot be copied.
    """
    if copy:
        placed = _copied(folder, tasks)
    else:
        root = Path(os.path.commonpath([task.file.parent for task in tasks]))
        placed = [task.file.relative_to(root).as_posix() for task in tasks]
        write_text(folder / "images.txt", "".join(f"{task.file}\n" for task in tasks))
    tool.write(folder, tasks, placed, names, model)
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["image", "source", "why", "score", "detail", "sha256"])
    for task, name in zip(tasks, placed, strict=True):
        rows.writerow([name, task.name, task.why, task.score, task.detail, task.sha256])
    write_text(folder / "tasks.csv", table.getvalue())


def _copied(folder: Path, tasks: Sequence[Task]) -> list[str]:
    files = copy_names([_record(task) for task in tasks])
    (folder / IMAGES).mkdir()
    for task, name in zip(tasks, files, strict=True):
        try:
            shutil.copyfile(task.file, folder / IMAGES / name)
        except OSError as error:
            raise WorkspaceError(
                f"{task.file}: cannot be copied to {folder / IMAGES} ({error.strerror})"
            ) from error
    return files


def _record(task: Task) -> ImageRecord:
    boxes, classes = np.zeros((0, 4)), np.zeros(0, np.int64)
    return ImageRecord(task.file, task.sha256, task.size, boxes, classes, name=task.name)


# CVAT ---------------------------------------------------------------------------------------------


def _write_cvat(
    folder: Path, tasks: Sequence[Task], placed: Sequence[str], names: Sequence[str], model: str
) -> None:
    labels = "".join(f"<label><name>{escape(name)}</name></label>" for name in names)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<annotations>",
        "  <version>1.1</version>",
        f"  <meta><task><labels>{labels}</labels></task></meta>",
    ]
    for number, (task, name) in enumerate(zip(tasks, placed, strict=True)):
        height, width = task.size
        lines.append(
            f'  <image id="{number}" name={quoteattr(name)} width="{width}" height="{height}">'
        )
        lines += [_cvat_box(each) for each in (*task.labels, *task.suggested)]
        lines.append("  </image>")
    write_text(folder / "annotations.xml", "\n".join([*lines, "</annotations>", ""]))
    raw = [{"name": name, "attributes": []} for name in names]
    write_text(folder / "labels.json", json.dumps(raw, ensure_ascii=False, indent=1) + "\n")


def _cvat_box(each: TaskBox) -> str:
    corners = " ".join(
        f'{key}="{number_text(value, PIXEL_DECIMALS)}"'
        for key, value in zip(("xtl", "ytl", "xbr", "ybr"), each.box, strict=True)
    )
    source = "manual" if each.score is None else "auto"
    return (
        f'    <box label={quoteattr(each.name)} source="{source}" occluded="0" {corners} '
        'z_order="0"></box>'
    )


# Label Studio -------------------------------------------------------------------------------------


def _write_label_studio(
    folder: Path, tasks: Sequence[Task], placed: Sequence[str], names: Sequence[str], model: str
) -> None:
    values = []
    for task, name in zip(tasks, placed, strict=True):
        is_copy = (folder / IMAGES / name).is_file()
        path = f"{IMAGES}/{name}" if is_copy else name
        has_labels = task.why != "uncertain"
        labels = [{"result": _regions(task.labels, task.size)}] if has_labels else []
        scores = [each.score or 0.0 for each in task.found]
        predictions = {
            "model_version": model,
            "score": round(sum(scores) / len(scores), 4) if scores else 0.0,
            "result": _regions(task.found, task.size),
        }
        values.append(
            {
                "data": {
                    "image": f"/data/local-files/?d={quote(path)}",
                    "why": f"{task.why}: {task.detail}",
                },
                "annotations": labels,
                "predictions": [predictions],
            }
        )
    write_text(folder / "tasks.json", json.dumps(values, ensure_ascii=False, indent=1) + "\n")
    choices = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in names)
    write_text(
        folder / "interface.cfg",
        '<View>\n  <Text name="why" value="$why"/>\n  <Image name="image" value="$image"/>\n'
        f'  <RectangleLabels name="label" toName="image">\n{choices}\n'
        "  </RectangleLabels>\n</View>\n",
    )


def _regions(boxes: Sequence[TaskBox], size: Size) -> list[dict[str, Any]]:
    height, width = size
    regions = []
    for number, each in enumerate(boxes):
        x1, y1, x2, y2 = each.box
        region: dict[str, Any] = {
            "id": f"{'label' if each.score is None else 'model'}{number}",
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "x": 100 * x1 / width,
                "y": 100 * y1 / height,
                "width": 100 * (x2 - x1) / width,
                "height": 100 * (y2 - y1) / height,
                "rotation": 0,
                "rectanglelabels": [each.name],
            },
        }
        if each.score is not None:
            region["score"] = round(each.score, 4)
        regions.append(region)
    return regions


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "cvat",
            "CVAT",
            "annotations.xml",
            _write_cvat,
            "make a task with the labels of labels.json and the images, then Upload annotations, "
            "CVAT 1.1: annotations.xml",
        ),
        Tool(
            "label-studio",
            "Label Studio",
            "tasks.json",
            _write_label_studio,
            "make a project with the interface of interface.cfg, serve the images as local files "
            "(LOCAL_FILES_SERVING_ENABLED=true, LOCAL_FILES_DOCUMENT_ROOT={root}), then import "
            "tasks.json",
        ),
    )
}
