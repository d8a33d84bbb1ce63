"""Two models on the same images: which images and boxes one of them gains and which it loses, each
at its own best confidence, and what the types of errors cost each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.error_analysis.error_types import NO_ERROR, TYPES, ErrorTable, find_errors
from engine.error_analysis.images import ImageLosses, image_losses
from engine.error_analysis.pictures import draw_side_by_side
from engine.error_analysis.report import rounded
from engine.errors import DataError
from engine.metrics.curves import make_curves, match
from engine.metrics.image_matches import Sample

FOLDER = "images"  # of the pictures, beside the report
MOST = 50  # images that are listed on each side
PICTURES = 8  # on each side
LEAST_CHANGE = 0.01  # of an image's loss: less is rounding, of another format or machine


def pair_report(
    a: Sequence[Sample],
    b: Sequence[Sample],
    names: Sequence[str],
    models: tuple[str, str],
    folder: Path | None = None,
) -> dict[str, Any]:
    """What model `b` gains and loses against `a`, as plain values.

    a, b: the same images, in the same order, as each model saw them. models: their names. folder:
    where the pictures go; None: none.

        confidences  of a and b: where the mean F1 of each is best
        error_types  type, and count and cost of each model
        classes      boxes found by both, gained, lost, and found by neither; false alarms of a
                     and b
        gained, lost images with a smaller and a greater loss, the greatest difference first

    Raises:
        DataError: other images.
    """
    if [sample.key for sample in a] != [sample.key for sample in b]:
        raise DataError("two models on other images: measure both on the same ones.")
    sides = a, b
    confidences = [best_confidence(samples, len(names)) for samples in sides]
    tables = [find_errors(samples, names) for samples in sides]
    losses = [image_losses(*each) for each in zip(tables, confidences, strict=True)]
    costs = [table.costs() for table in tables]
    counts = [table.counts(least) for table, least in zip(tables, confidences, strict=True)]
    found = [
        (table.found_by >= 0) & (_score_of(table.scores, table.found_by) >= least)
        for table, least in zip(tables, confidences, strict=True)
    ]
    change = losses[1].loss - losses[0].loss
    order = np.argsort(change, kind="stable")
    better = [int(i) for i in order if change[i] < -LEAST_CHANGE]
    worse = [int(i) for i in order[::-1] if change[i] > LEAST_CHANGE]
    about = _Drawn(sides, confidences, names, models, losses, folder)
    values = {
        "a": models[0],
        "b": models[1],
        "images": len(a),
        "boxes": len(found[0]),
        "confidences": dict(zip("ab", confidences, strict=True)),
        "error_types": [
            {
                "type": kind,
                **{
                    side: {"count": counts[i][kind], "cost": costs[i][kind]}
                    for i, side in enumerate("ab")
                },
            }
            for kind in TYPES
        ],
        "classes": _classes(tables, found, confidences),
        "images_gained": len(better),
        "images_lost": len(worse),
        "gained": [about.row(i, rank, "gained") for rank, i in enumerate(better[:MOST])],
        "lost": [about.row(i, rank, "lost") for rank, i in enumerate(worse[:MOST])],
    }
    return rounded(values)


def of_classes(
    samples: Sequence[Sample], names: Sequence[str], kept: Sequence[str], images: Sequence[str]
) -> list[Sample]:
    """The samples of these images, named by their keys, with the boxes of the classes `kept`, whose
    order counts from here on.
    """
    place = np.array([kept.index(name) if name in kept else -1 for name in names], np.int64)
    known = {" ".join(sample.key): sample for sample in samples}
    found = []
    for image in images:
        sample = known[image]
        gt, mine = place[sample.gt_classes], place[sample.classes]
        found.append(
            replace(
                sample,
                gt_boxes=sample.gt_boxes[gt >= 0],
                gt_classes=gt[gt >= 0],
                gt_crowd=sample.gt_crowd[gt >= 0],
                boxes=sample.boxes[mine >= 0],
                scores=sample.scores[mine >= 0],
                classes=mine[mine >= 0],
            )
        )
    return found


def best_confidence(samples: Sequence[Sample], num_classes: int) -> float:
    """Where the mean F1 is best."""
    curves = make_curves(match(samples, num_classes), np.zeros((num_classes, 101)))
    return float(curves.confidence[curves.best])


def summary(report: Mapping[str, Any]) -> str:
    """Two lines for the console."""
    gained, lost = (sum(row[key] for row in report["classes"]) for key in ("gained", "lost"))
    of_boxes = f"{gained} of {report['boxes']} boxes gained, {lost} lost"
    of_images = f"{report['images_gained']} of {report['images']} images better"
    changes = [
        f"{row['type']} {100 * row['a']['cost']:.1f} -> {100 * row['b']['cost']:.1f}"
        for row in report["error_types"]
        if row["a"]["cost"] is not None and row["b"]["cost"] is not None
    ]
    lines = [f"{of_images}, {report['images_lost']} worse; {of_boxes}"]
    if changes:
        lines.append(f"Points of AP50 that errors cost: {', '.join(changes)}")
    return "\n".join(lines)


class _Drawn:
    """Rows of images, with their pictures."""

    def __init__(
        self,
        sides: tuple[Sequence[Sample], Sequence[Sample]],
        confidences: Sequence[float],
        names: Sequence[str],
        models: tuple[str, str],
        losses: Sequence[ImageLosses],
        folder: Path | None,
    ) -> None:
        self._sides, self._confidences, self._names = sides, confidences, names
        self._models, self._losses, self._folder = models, losses, folder

    def row(self, index: int, rank: int, what: str) -> dict[str, Any]:
        values = [
            {
                "missed": int(losses.missed[index]),
                "false_alarms": int(losses.false_alarms[index]),
                "loss": round(float(losses.loss[index]), 4),
            }
            for losses in self._losses
        ]
        picture = None
        if self._folder is not None and rank < PICTURES:
            picture = f"{FOLDER}/{what}-{rank + 1:02d}.jpg"
            titles = [
                f"{name}: {each['missed']} missed, {each['false_alarms']} false"
                for name, each in zip(self._models, values, strict=True)
            ]
            if not draw_side_by_side(
                [side[index] for side in self._sides],
                self._confidences,
                self._names,
                self._folder / picture,
                ["labels", *titles],
            ):
                picture = None
        return {
            "image": self._sides[0][index].name,
            "a": values[0],
            "b": values[1],
            "picture": picture,
        }


def _score_of(scores: np.ndarray, found_by: np.ndarray) -> np.ndarray:
    """(G,) the score of what found each box; 0 for those that nothing found."""
    values = np.zeros(len(found_by))
    values[found_by >= 0] = scores[found_by[found_by >= 0]]
    return values


def _classes(
    tables: Sequence[ErrorTable], found: Sequence[np.ndarray], confidences: Sequence[float]
) -> list[dict[str, Any]]:
    """Of each class with boxes or false alarms, the greatest net loss first."""
    names, truth_class = tables[0].names, tables[0].truth_class
    kinds = {
        "both": found[0] & found[1],
        "gained": ~found[0] & found[1],
        "lost": found[0] & ~found[1],
        "neither": ~found[0] & ~found[1],
    }
    counts = {k: np.bincount(truth_class[v], minlength=len(names)) for k, v in kinds.items()}
    alarms = {}
    for side, table, least in zip("ab", tables, confidences, strict=True):
        wrong = (table.scores >= least) & (table.error != NO_ERROR)
        alarms[side] = np.bincount(table.classes[wrong], minlength=len(names))
    rows: list[dict[str, Any]] = []
    for c, name in enumerate(names):
        boxes = {k: int(v[c]) for k, v in counts.items()}
        false = {side: int(v[c]) for side, v in alarms.items()}
        total = sum(boxes.values())
        if total or any(false.values()):
            rows.append({"class": name, "boxes": total, **boxes, "false_alarms": false})
    return sorted(rows, key=lambda row: row["gained"] - row["lost"])
