"""Images side by side: the labels, and what one or two models found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine.data.images import read_image
from engine.errors import DataError
from engine.metrics.image_matches import Sample
from engine.plots.images import plot_images

CELL_PX = 420  # the longer side of each image
CONTEXT = 2.5  # of a window around a box: so many times the box
LEAST_WINDOW = 0.25  # of the image's longer side

Window = tuple[int, int, int, int]  # xyxy px


def draw_side_by_side(
    samples: Sequence[Sample],
    confidences: Sequence[float],
    names: Sequence[str],
    path: Path,
    titles: Sequence[str],
    window: Window | None = None,
) -> bool:
    """Write one image as a row: its labels, then the detections of each model (a sample of the same
    image) from its confidence up. False where the image file has gone.

    titles: one more than samples. window: the part of the image that is shown.
    """
    first = samples[0]
    try:
        image = read_image(first.file)
    except DataError:
        return False
    height, width = image.shape[:2]
    x1, y1, x2, y2 = window or (0, 0, width, height)
    real = ~first.gt_crowd
    labels = (first.gt_boxes[real], first.gt_classes[real], None)
    found = [
        tuple(
            each[sample.scores >= least] for each in (sample.boxes, sample.classes, sample.scores)
        )
        for sample, least in zip(samples, confidences, strict=True)
    ]
    columns = []
    for boxes, classes, scores in (labels, *found):
        inside = (boxes[:, :2] < (x2, y2)).all(1) & (boxes[:, 2:] > (x1, y1)).all(1)
        moved = boxes[inside] - np.array([x1, y1, x1, y1])
        columns.append((moved, classes[inside], None if scores is None else scores[inside]))
    count = len(columns)
    plot_images(
        [np.ascontiguousarray(image[y1:y2, x1:x2, ::-1])] * count,
        *([column[i] for column in columns] for i in range(3)),
        names,
        path,
        titles=titles,
        columns=count,
        cell_px=CELL_PX,
    )
    return True


def window_around(box: Sequence[float], sample_file: str | Path) -> Window | None:
    """The part of an image that shows a box with what is around it; None where the file has
    gone.
    """
    try:
        height, width = read_image(sample_file).shape[:2]
    except DataError:
        return None
    x1, y1, x2, y2 = box
    side = max(CONTEXT * max(x2 - x1, y2 - y1), LEAST_WINDOW * max(height, width))
    limits = []
    for centre, size in (((x1 + x2) / 2, width), ((y1 + y2) / 2, height)):
        begin = min(max(centre - side / 2, 0), max(size - side, 0))
        limits.append((round(begin), max(round(min(begin + side, size)), round(begin) + 1)))
    (left, right), (top, bottom) = limits
    return left, top, right, bottom
