"""What a validation says about its errors, as plain values and images: `errors.json`.

split, images, boxes, ap50     what was validated
confidence                     at which errors are counted; costs are of AP, of all detections
error_types                    type, count, cost: see `error_types.py`
by_class, by_size              the same for one class, and for small, medium and large boxes
slices                         see `slices.compare_slices`
hardest, label_errors          single images, some of them with a picture
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from engine.datasets.label_errors import LabelError
from engine.error_analysis.error_types import MISSED, NO_ERROR, TYPES, ErrorTable, find_errors
from engine.error_analysis.images import ImageLosses, image_losses, label_errors
from engine.error_analysis.pictures import draw_side_by_side, window_around
from engine.error_analysis.properties import measure_images
from engine.error_analysis.slices import (
    compare_slices,
    slices_of_columns,
    slices_of_properties,
)
from engine.metrics.coco import AREAS
from engine.metrics.image_matches import Sample
from engine.types import ImageRecord

FOLDER = "errors"  # of the pictures, beside the report
MOST_HARDEST = 50
MOST_LABEL_ERRORS = 100
PICTURES = 12  # of hardest images, and of label errors
AREA_LIMITS = (0.0, 32.0**2, 96.0**2, np.inf)  # px^2, of small, medium and large boxes


def error_report(
    samples: Sequence[Sample],
    names: Sequence[str],
    confidence: float | None,
    map50_area: Mapping[str, float | None],
    records: Sequence[ImageRecord] = (),
    split: str = "",
    folder: Path | None = None,
) -> dict[str, Any]:
    """The content of errors.json.

    samples: truth and detections of every image. confidence: where the mean F1 is best; None where
    there is nothing to find. map50_area: mean AP50 of small, medium and large boxes. records: of
    the same images, for their columns and groups. folder: where the pictures go; None: none.
    """
    confidence = 0.25 if confidence is None else confidence
    table = find_errors(samples, names)
    known = {key_of(record): record for record in records}
    mine = [known.get(key) for key in table.images]
    slices = [
        *slices_of_properties(measure_images([sample.file for sample in samples])),
        *slices_of_columns(columns_of(mine)),
    ]
    groups = [group_of(record, key) for record, key in zip(mine, table.images, strict=True)]
    losses = image_losses(table, confidence)
    pictures = _Pictures(samples, names, confidence, folder)
    ap50, costs = table.ap50(), table.costs()
    values = {
        "split": split,
        "images": len(samples),
        "boxes": len(table.truth_class),
        "ap50": None if np.isnan(ap50).all() else float(np.nanmean(ap50)),
        "confidence": confidence,
        "error_types": [
            {"type": kind, "count": count, "cost": costs[kind]}
            for kind, count in table.counts(confidence).items()
        ],
        "by_class": _by_class(table, ap50, confidence),
        "by_size": _by_size(table, map50_area, confidence),
        "slices": compare_slices(table, slices, groups, confidence),
        "hardest": _hardest(samples, losses, pictures),
        "label_errors": _label_errors(label_errors(samples, names), table, samples, pictures),
    }
    return rounded(values)


def rounded(values: Any) -> Any:
    """The same with six digits after the point: more say nothing, and differ between machines."""
    if isinstance(values, float):
        return round(values, 6)
    if isinstance(values, Mapping):
        return {key: rounded(value) for key, value in values.items()}
    return [rounded(value) for value in values] if isinstance(values, list) else values


def key_of(record: ImageRecord) -> str:
    """What a sample of this image is called in `ErrorTable.images`."""
    return f"{record.sha256 or record.file} {record.name or record.file.name}"


def columns_of(records: Sequence[ImageRecord | None]) -> dict[str, list[str]]:
    """Column -> the value of each image: the columns of the dataset's table, and the folder and
    group of each image.
    """
    names = dict.fromkeys(name for record in records if record for name in record.meta)
    columns = {
        name: [record.meta.get(name, "") if record else "" for record in records] for name in names
    }
    folders = [PurePosixPath(record.name).parent.as_posix() if record else "" for record in records]
    columns.setdefault("folder", folders)
    columns.setdefault("group", [record.group if record else "" for record in records])
    return columns


def group_of(record: ImageRecord | None, key: str) -> str:
    """The group in which an image is drawn: its own where it has none."""
    return f"group {record.group}" if record and record.group else f"image {key}"


def _by_class(table: ErrorTable, ap50: np.ndarray, confidence: float) -> list[dict[str, Any]]:
    """Of each class with boxes. An error belongs to the class that the model named, a missed box to
    its own; a cost is what the class itself would gain.
    """
    fixed = {kind: table.fixed_ap50(kind) for kind in TYPES}
    missed = table.missed(confidence)
    shown = (table.scores >= confidence) & (table.error != NO_ERROR)
    size = len(table.names), len(TYPES)
    counts = np.zeros(size, np.int64)
    np.add.at(counts, (table.classes[shown], table.error[shown]), 1)
    counts[:, MISSED] = np.bincount(table.truth_class[missed], minlength=size[0])
    truths = table.truths()
    rows = []
    for c in np.flatnonzero(~np.isnan(ap50)).tolist():
        gain = {kind: float(values[c] - ap50[c]) for kind, values in fixed.items()}
        rows.append(
            {
                "class": table.names[c],
                "images": int((truths[:, c] > 0).sum()),
                "boxes": int(truths[:, c].sum()),
                "ap50": float(ap50[c]),
                "errors": dict(zip(TYPES, counts[c].tolist(), strict=True)),
                # of a class of which every box is missed nobody knows how well it would be found
                "costs": {k: 1.0 - float(ap50[c]) if np.isnan(v) else v for k, v in gain.items()},
            }
        )
    return sorted(rows, key=lambda row: row["ap50"])


def _by_size(
    table: ErrorTable, map50_area: Mapping[str, float | None], confidence: float
) -> list[dict[str, Any]]:
    """By COCO's sizes. An error has the size of the box it is about, where there is one, else its
    own.
    """
    truth_size = _size_of(table.truth_box)
    size = _size_of(table.box)
    about = (table.target >= 0) & (table.error != NO_ERROR)
    size[about] = truth_size[table.target[about]]
    shown = (table.scores >= confidence) & (table.error != NO_ERROR)
    missed = table.missed(confidence)
    found = table.found_by >= 0
    found[found] = table.scores[table.found_by[found]] >= confidence
    rows = []
    for number, name in enumerate(AREAS[1:]):
        errors = np.bincount(table.error[shown & (size == number)], minlength=len(TYPES))
        errors[MISSED] = (missed & (truth_size == number)).sum()
        boxes = int((truth_size == number).sum())
        rows.append(
            {
                "slice": name,
                "boxes": boxes,
                "ap50": map50_area.get(name),
                "recall": float(found[truth_size == number].mean()) if boxes else None,
                "errors": dict(zip(TYPES, errors.tolist(), strict=True)),
            }
        )
    return rows


def _size_of(boxes: np.ndarray) -> np.ndarray:
    """(n,) 0 small, 1 medium, 2 large, of (n, 4) xyxy px."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return np.searchsorted(AREA_LIMITS[1:3], area, side="right")


# Single images ------------------------------------------------------------------------------------


class _Pictures:
    """Numbers and writes the pictures of a report."""

    def __init__(
        self,
        samples: Sequence[Sample],
        names: Sequence[str],
        confidence: float,
        folder: Path | None,
    ) -> None:
        self._samples, self._names = samples, names
        self._confidence, self._folder = confidence, folder
        self._count = 0

    def draw(self, index: int, titles: Sequence[str], box: Sequence[float] = ()) -> str | None:
        """The name of a new picture of image `index`, of all of it or of what is around a box; None
        where there is none.
        """
        if self._folder is None:
            return None
        sample = self._samples[index]
        window = window_around(box, sample.file) if box else None
        name = f"{FOLDER}/{self._count + 1:03d}.jpg"
        drawn = draw_side_by_side(
            [sample], [self._confidence], self._names, self._folder / name, titles, window
        )
        self._count += drawn
        return name if drawn else None


def _hardest(
    samples: Sequence[Sample], losses: ImageLosses, pictures: _Pictures
) -> list[dict[str, Any]]:
    rows = []
    for rank, index in enumerate(losses.hardest(MOST_HARDEST)):
        missed, false_alarms = int(losses.missed[index]), int(losses.false_alarms[index])
        titles = (f"labels, {missed} missed", f"model, {false_alarms} false")
        rows.append(
            {
                "image": samples[index].name,
                "missed": missed,
                "false_alarms": false_alarms,
                "loss": round(float(losses.loss[index]), 4),
                "picture": pictures.draw(index, titles) if rank < PICTURES else None,
            }
        )
    return rows


def _label_errors(
    found: Sequence[LabelError],
    table: ErrorTable,
    samples: Sequence[Sample],
    pictures: _Pictures,
) -> list[dict[str, Any]]:
    place = {key: index for index, key in enumerate(table.images)}
    rows = []
    for rank, error in enumerate(found[:MOST_LABEL_ERRORS]):
        index = place[error.image]
        titles = (f"label: {error.labelled or 'none'}", f"model: {error.seen or 'nothing'}")
        drawn = pictures.draw(index, titles, error.box) if rank < PICTURES else None
        rows.append(
            {
                "image": samples[index].name,
                "class": error.labelled or error.seen,
                "kind": error.kind,
                "labelled": error.labelled or None,
                "seen": error.seen or None,
                "score": round(error.score, 4),
                "box": [round(value, 1) for value in error.box],
                "picture": drawn,
            }
        )
    return rows
