"""What COCO's matching made of every detection, as a small file from which AP follows for any
choice of the images.

A paired bootstrap draws images thousands of times; the matching does not depend on the draw, so it
is done once, here, and a draw costs one sorted sum. On the images as they are the result is COCO's
(`coco.py`), all areas, 100 detections.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import DataError
from engine.files import atomic_write
from engine.metrics.coco import MAX_DETECTIONS
from engine.metrics.curves import FALSE, TRUE, match_one
from engine.metrics.image_matches import Sample

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
FIELDS = ("names", "images", "truths", "image", "classes", "scores", "outcome")


@dataclass(frozen=True, eq=False)
class MatchTable:
    """Letters: S images, C classes, D detections (the 100 best of each class and image), T = 10 IoU
    thresholds.
    """

    names: tuple[str, ...]  # of the classes
    images: tuple[str, ...]  # names, in the order of evaluation
    truths: np.ndarray  # (S, C) int32 boxes to find, crowds left out
    image: np.ndarray  # (D,) int32 index into `images`
    classes: np.ndarray  # (D,) int32
    scores: np.ndarray  # (D,) float64
    outcome: np.ndarray  # (D, T) int8: 0 false, 1 true, 2 ignored (on a crowd)

    def ap(self, counts: np.ndarray | None = None) -> np.ndarray:
        """(C, T) average precision, NaN for classes without a box to find.

        counts: (S,) how often each image counts: 0 and 1 choose a subset, a bootstrap draw repeats
        some; None: all once.
        """
        counts = np.ones(len(self.images), np.int64) if counts is None else np.asarray(counts)
        if counts.shape != (len(self.images),) or (counts < 0).any():
            raise DataError(
                f"counts of shape {counts.shape}: expected a number >= 0 for each of "
                f"{len(self.images)} images."
            )
        totals = counts @ self.truths  # (C,)
        ap = np.full((len(self.names), len(IOU_THRESHOLDS)), np.nan)
        for c in np.flatnonzero(totals):
            mine = np.flatnonzero(self.classes == c)
            mine = mine[np.argsort(-self.scores[mine], kind="stable")]
            ap[c] = average_precision(self.outcome[mine], counts[self.image[mine]], totals[c])
        return ap

    def mean_ap(self, counts: np.ndarray | None = None, iou: float | None = None) -> float | None:
        """`metrics/mAP50-95` of the chosen images, or with `iou=0.5` mAP50; None where there is no
        box to find.
        """
        ap = self.ap(counts)
        if iou is not None:
            ap = ap[:, [int(np.abs(IOU_THRESHOLDS - iou).argmin())]]
        present = ap[~np.isnan(ap[:, 0])]
        return float(present.mean()) if len(present) else None

    def image_ap50(self) -> list[float | None]:
        """AP50 of each image by itself, the mean over the classes it has; None for an image without
        a box to find.
        """
        ends = np.searchsorted(self.image, np.arange(len(self.images) + 1))
        return [
            self._one(i, slice(ends[i], ends[i + 1])).mean_ap(iou=0.5)
            for i in range(len(self.images))
        ]

    def subset(self, images: Sequence[str], names: Sequence[str]) -> MatchTable:
        """The same matches of these images and classes, in this order.

        Raises:
            DataError: an image or class that the table does not have.
        """
        rows = _places(images, self.images, "image")
        columns = _places(names, self.names, "class")
        new_row, new_column = np.full(len(self.images), -1), np.full(len(self.names), -1)
        new_row[rows], new_column[columns] = np.arange(len(rows)), np.arange(len(columns))
        image, classes = new_row[self.image], new_column[self.classes]
        kept = np.flatnonzero((image >= 0) & (classes >= 0))
        kept = kept[np.argsort(image[kept], kind="stable")]
        return MatchTable(
            tuple(names),
            tuple(images),
            self.truths[np.ix_(rows, columns)],
            image[kept].astype(np.int32),
            classes[kept].astype(np.int32),
            self.scores[kept],
            self.outcome[kept],
        )

    def _one(self, i: int, rows: slice) -> MatchTable:
        return MatchTable(
            self.names,
            self.images[i : i + 1],
            self.truths[i : i + 1],
            np.zeros_like(self.image[rows]),
            self.classes[rows],
            self.scores[rows],
            self.outcome[rows],
        )

    def save(self, path: str | Path) -> Path:
        """Write a compressed .npz (a few bytes a detection); equal tables give equal bytes."""
        path = Path(path)
        arrays = {name: getattr(self, name) for name in FIELDS}
        arrays |= {name: np.array(arrays[name], np.str_) for name in ("names", "images")}
        with atomic_write(path) as stream:
            np.savez_compressed(stream, **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> MatchTable:
        """Read what `save` wrote. Raises DataError for a file that is missing, damaged, or
        something else.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                fields = {name: arrays[name] for name in FIELDS}
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            AttributeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise DataError(
                f"{path}: not a table of matches ({error}); `detectflow val` writes it as "
                "matches.npz."
            ) from None
        return cls(
            **{
                **fields,
                "names": tuple(fields["names"].tolist()),
                "images": tuple(fields["images"].tolist()),
            }
        )


def _places(wanted: Sequence[str], present: Sequence[str], what: str) -> np.ndarray:
    places = {name: place for place, name in enumerate(present)}
    if len(places) < len(present):
        raise DataError(f"a table of matches in which two are called the same {what}.")
    missing = [name for name in wanted if name not in places]
    if missing:
        raise DataError(
            f"a table of matches without {what} '{missing[0]}' ({len(missing)} missing)."
        )
    return np.array([places[name] for name in wanted], np.intp)


def make_table(samples: Sequence[Sample], names: Sequence[str]) -> MatchTable:
    """Match every sample at every threshold, as COCO does."""
    truths = np.zeros((len(samples), len(names)), np.int32)
    parts = [(np.zeros(0, np.int32), np.zeros(0), np.zeros((0, len(IOU_THRESHOLDS)), np.int8))]
    for row, sample in zip(truths, samples, strict=True):
        np.add.at(row, sample.gt_classes[~sample.gt_crowd], 1)
        kept = limited(sample)
        parts.append((kept.classes.astype(np.int32), kept.scores, match_one(kept, IOU_THRESHOLDS)))
    image = np.repeat(np.arange(len(samples), dtype=np.int32), [len(part[1]) for part in parts[1:]])
    classes, scores, outcome = (np.concatenate(column) for column in zip(*parts, strict=True))
    return MatchTable(
        tuple(names), tuple(s.name for s in samples), truths, image, classes, scores, outcome
    )


def limited(sample: Sample) -> Sample:
    """The sample with the best 100 detections of each class, which is all that COCO counts."""
    most = MAX_DETECTIONS[-1]
    if len(sample.scores) <= most:
        return sample
    by_class = np.argsort(sample.classes, kind="stable")  # best first within each class
    ordered = sample.classes[by_class]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    kept = np.sort(by_class[rank < most])
    return Sample(
        sample.key,
        sample.file,
        sample.name,
        sample.gt_boxes,
        sample.gt_classes,
        sample.gt_crowd,
        sample.boxes[kept],
        sample.scores[kept],
        sample.classes[kept],
    )


def average_precision(outcome: np.ndarray, weights: np.ndarray, total: int) -> np.ndarray:
    """(T,) from outcome (D, T) of one class, best first, each counted `weights` (D,) times; `total`
    boxes to find.

    The mean over 101 recalls of the best precision at or beyond each; 0 where the recall is not
    reached.
    """
    if not len(outcome):
        return np.zeros(outcome.shape[1])
    tp, fp = (np.cumsum((outcome == kind) * weights[:, None], 0) for kind in (TRUE, FALSE))
    precision = tp / np.maximum(tp + fp, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.stack(
        [np.searchsorted(column, RECALLS, side="left") for column in (tp / total).T]
    )  # (T, 101)
    reached = at < len(outcome)
    values = np.take_along_axis(envelope.T, np.where(reached, at, 0), 1)
    return (values * reached).mean(1)
