"""The types of errors that a detector makes, and the average precision that each of them costs.

Every false detection has one type, by the boxes it overlaps; the cost of a type is how far AP50
would rise if its errors alone were put right.
Source: Bolya, Foley, Hays and Hoffman, TIDE: A General Toolbox for Identifying Object Detection
Errors (ECCV 2020, 2008.08115); own implementation. Where more than one of its definitions fits, the
first of this list counts:

    duplicate       IoU >= .5 with a box of its class that a better detection has taken
    classification  IoU >= .5 with a box of another class
    localisation    .1 <= IoU < .5 with a box of its class
    both            .1 <= IoU < .5 with a box of another class
    background      IoU < .1 with every box
    missed          a box that no detection has found, and no error of classification or
                    localisation stands for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.metrics.curves import FALSE, IGNORED, MATCH_IOU, TRUE, assign
from engine.metrics.image_matches import Sample, overlaps
from engine.metrics.match_table import MatchTable, average_precision, limited

BACKGROUND_IOU = 0.1
TYPES = ("classification", "localisation", "both", "duplicate", "background", "missed")
FIXED_BY_PLACE = (TYPES.index("classification"), TYPES.index("localisation"))
MISSED = TYPES.index("missed")
NO_ERROR = -1


@dataclass(frozen=True, eq=False)
class ErrorTable:
    """Every box and every detection of a validation. Letters: S images, G boxes to find, D
    detections (the 100 best of each class and image), C classes.
    """

    names: tuple[str, ...]  # of the classes
    images: tuple[str, ...]  # keys, in the order of evaluation
    truth_image: np.ndarray  # (G,) int index into `images`
    truth_class: np.ndarray  # (G,)
    truth_box: np.ndarray  # (G, 4) xyxy px
    found_by: np.ndarray  # (G,) index of the detection that found the box, -1: none
    image: np.ndarray  # (D,) int index into `images`
    classes: np.ndarray  # (D,)
    scores: np.ndarray  # (D,)
    box: np.ndarray  # (D, 4) xyxy px
    outcome: np.ndarray  # (D,) TRUE, FALSE or IGNORED (on a crowd) at IoU .5
    error: np.ndarray  # (D,) index into TYPES, NO_ERROR where it is true or ignored
    target: np.ndarray  # (D,) the box that was found, taken twice, or meant; -1: none

    def truths(self) -> np.ndarray:
        """(S, C) boxes to find."""
        table = np.zeros((len(self.images), len(self.names)), np.int32)
        np.add.at(table, (self.truth_image, self.truth_class), 1)
        return table

    def matches(self) -> MatchTable:
        """The same as a table of matches at the one threshold .5."""
        return MatchTable(
            self.names,
            self.images,
            self.truths(),
            self.image.astype(np.int32),
            self.classes.astype(np.int32),
            self.scores,
            self.outcome[:, None],
        )

    def missed(self, confidence: float = 0.0) -> np.ndarray:
        """(G,) bool: the boxes missed by the detections from `confidence` up."""
        counted = self.scores >= confidence
        found = self.found_by >= 0
        found[found] = counted[self.found_by[found]]
        stands_for = counted & np.isin(self.error, FIXED_BY_PLACE)
        found[self.target[stands_for]] = True
        return ~found

    def counts(self, confidence: float, images: np.ndarray | None = None) -> dict[str, int]:
        """Type -> number of errors that a user of this confidence sees.

        images: (S,) bool, those that count; None: all.
        """
        images = np.ones(len(self.images), bool) if images is None else images
        wrong = (self.scores >= confidence) & (self.error != NO_ERROR) & images[self.image]
        numbers = np.bincount(self.error[wrong], minlength=len(TYPES))
        numbers[MISSED] = (self.missed(confidence) & images[self.truth_image]).sum()
        return dict(zip(TYPES, numbers.tolist(), strict=True))

    def ap50(self, images: np.ndarray | None = None) -> np.ndarray:
        """(C,) AP50, NaN for classes without a box; of the chosen images as in `counts`."""
        return self._ap50(self.classes, self.outcome, self._totals(images), images)

    def fixed_ap50(self, kind: str, images: np.ndarray | None = None) -> np.ndarray:
        """(C,) AP50 if the errors of one type were put right. NaN for classes without a box, or of
        which, for "missed", every box was missed: how well those would be found nobody knows.
        """
        totals, error = self._totals(images), TYPES.index(kind)
        if error == MISSED:
            mine = self.missed() & (True if images is None else images[self.truth_image])
            totals = totals - np.bincount(self.truth_class[mine], minlength=len(totals))
            return self._ap50(self.classes, self.outcome, totals, images)
        outcome, classes = self.outcome.copy(), self.classes.copy()
        rows = np.flatnonzero(self.error == error)
        outcome[rows] = IGNORED
        if error in FIXED_BY_PLACE:
            # What was meant is found now, by the best of all that found or meant it; the others
            # would be duplicates, and go.
            meant = np.unique(self.target[rows])
            before = self.found_by[meant]
            all_rows = np.concatenate([before[before >= 0], rows])
            outcome[all_rows] = IGNORED
            all_rows = all_rows[np.lexsort((all_rows, -self.scores[all_rows]))]
            _, first = np.unique(self.target[all_rows], return_index=True)
            best = all_rows[first]
            outcome[best] = TRUE
            classes[best] = self.truth_class[self.target[best]]
        return self._ap50(classes, outcome, totals, images)

    def costs(self, images: np.ndarray | None = None) -> dict[str, float | None]:
        """Type -> how far the mean AP50 would rise; None where there is no box to find."""
        now = _mean(self.ap50(images))
        if now is None:
            return dict.fromkeys(TYPES)
        fixed = {kind: _mean(self.fixed_ap50(kind, images)) for kind in TYPES}
        return {kind: (1.0 if value is None else value) - now for kind, value in fixed.items()}

    def _totals(self, images: np.ndarray | None) -> np.ndarray:
        kept = slice(None) if images is None else images[self.truth_image]
        return np.bincount(self.truth_class[kept], minlength=len(self.names))

    def _ap50(
        self,
        classes: np.ndarray,
        outcome: np.ndarray,
        totals: np.ndarray,
        images: np.ndarray | None,
    ) -> np.ndarray:
        rows = np.arange(len(classes)) if images is None else np.flatnonzero(images[self.image])
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        rows = rows[np.argsort(classes[rows], kind="stable")]
        ends = np.searchsorted(classes[rows], np.arange(len(totals) + 1))
        ap = np.full(len(totals), np.nan)
        for c in np.flatnonzero(totals > 0):
            mine = outcome[rows[ends[c] : ends[c + 1]], None]
            ap[c] = average_precision(mine, np.ones(len(mine), np.int64), int(totals[c]))[0]
        return ap


def find_errors(samples: Sequence[Sample], names: Sequence[str]) -> ErrorTable:
    """Match every image as COCO does at IoU .5, and give every false detection its type."""
    parts: dict[str, list[np.ndarray]] = {field: [values] for field, values in _EMPTY.items()}
    truths = detections = 0
    for index, sample in enumerate(samples):
        sample = limited(sample)
        real = ~sample.gt_crowd
        outcome, error, target, found_by = _one(sample)
        own = {
            "truth_image": np.full(real.sum(), index),
            "truth_class": sample.gt_classes[real],
            "truth_box": sample.gt_boxes[real],
            "found_by": np.where(found_by >= 0, found_by + detections, -1),
            "image": np.full(len(sample.scores), index),
            "classes": sample.classes,
            "scores": sample.scores,
            "box": sample.boxes,
            "outcome": outcome,
            "error": error,
            "target": np.where(target >= 0, target + truths, -1),
        }
        for field, values in own.items():
            parts[field].append(values)
        truths, detections = truths + int(real.sum()), detections + len(sample.scores)
    arrays = {field: np.concatenate(values) for field, values in parts.items()}
    return ErrorTable(tuple(names), tuple(" ".join(s.key) for s in samples), **arrays)


def _one(sample: Sample) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of one image: outcome, error and target of each detection (K,), and what found each box that
    is no crowd (n,).
    """
    real = ~sample.gt_crowd
    overlap, covered = overlaps(sample.boxes, sample.gt_boxes)
    same = sample.classes[:, None] == sample.gt_classes[None]
    on_crowd = (same[:, ~real] & (covered[:, ~real] >= MATCH_IOU)).any(1)
    overlap, same = overlap[:, real], same[:, real]
    target = assign(np.where(same, overlap, 0), MATCH_IOU)
    outcome = np.where(target >= 0, TRUE, np.where(on_crowd, IGNORED, FALSE)).astype(np.int8)
    found_by = np.full(overlap.shape[1], -1)
    found_by[target[outcome == TRUE]] = np.flatnonzero(outcome == TRUE)
    error = np.where(outcome == FALSE, TYPES.index("background"), NO_ERROR).astype(np.int8)
    if overlap.shape[1]:
        # From the weakest claim to the strongest: what comes later counts.
        for kind, is_same, least in (
            ("both", False, BACKGROUND_IOU),
            ("localisation", True, BACKGROUND_IOU),
            ("classification", False, MATCH_IOU),
            ("duplicate", True, MATCH_IOU),
        ):
            mine = np.where(same == is_same, overlap, -1.0)
            rows = np.flatnonzero((mine.max(1) >= least) & (outcome == FALSE))
            error[rows], target[rows] = TYPES.index(kind), mine[rows].argmax(1)
    return outcome, error, target, found_by


def _mean(values: np.ndarray) -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else None


_EMPTY: dict[str, np.ndarray] = {
    "truth_image": np.zeros(0, np.intp),
    "truth_class": np.zeros(0, np.intp),
    "truth_box": np.zeros((0, 4)),
    "found_by": np.zeros(0, np.intp),
    "image": np.zeros(0, np.intp),
    "classes": np.zeros(0, np.intp),
    "scores": np.zeros(0),
    "box": np.zeros((0, 4)),
    "outcome": np.zeros(0, np.int8),
    "error": np.zeros(0, np.int8),
    "target": np.zeros(0, np.intp),
}
