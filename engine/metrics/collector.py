"""Collects the detections of a validation run, image by image, over any number of processes, and
scores them.

The result does not depend on the order of images or of merged shards: samples are sorted before
they are scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.metrics import reported
from engine.metrics.coco import AREAS, CocoScores, coco_scores, mean_of_present
from engine.metrics.confusion import confusion_matrix
from engine.metrics.curves import Curves, Matches, image_counts, make_curves, match
from engine.metrics.image_matches import Sample, make_sample
from engine.metrics.match_table import MatchTable, make_table
from engine.types import Detections, ImageRecord

_BOXED = ("gt_boxes", "gt_classes", "gt_crowd", "boxes", "scores", "classes")


@dataclass(frozen=True, eq=False)
class DetectionScores:
    """What a validation run says. None: no ground truth to say it about (that area, that class, any
    at all).
    """

    map: float | None  # AP, mean over IoU .50 to .95 and classes
    map50: float | None
    map75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    map50_area: Mapping[str, float | None]  # small, medium, large
    ar1: float | None  # average recall with at most 1, 10, 100 detections per image and class
    ar10: float | None
    ar100: float | None
    ar_small: float | None  # average recall by area, at most 100 detections
    ar_medium: float | None
    ar_large: float | None
    precision: float | None  # mean over classes at `confidence`, IoU .50
    recall: float | None
    f1: float | None
    confidence: float | None  # where the mean F1 is best
    images: int
    instances: int  # boxes to find, crowds left out
    names: tuple[str, ...]
    per_class: list[
        dict[str, Any]
    ]  # name, images, instances, precision, recall, f1, ap50, ap75, ap; ap, ar by area
    per_image: list[dict[str, Any]]  # name, file, n_gt, n_pred, tp, fp, fn at `confidence`, IoU .50
    curves: Curves
    confusion: np.ndarray  # (C + 1, C + 1) int64, rows true, columns predicted, background last

    def to_dict(self) -> dict[str, float | None]:
        """The metrics under their keys (`reported.METRICS`), fit for JSON."""
        return {metric.key: getattr(self, metric.field) for metric in reported.METRICS}

    @property
    def fitness(self) -> float:
        """AP50-95; 0 where there is none, so that a run without ground truth never looks better
        than another.
        """
        return self.map or 0.0

    def report(self) -> dict[str, Any]:
        """Everything but the curves and the images, fit for JSON."""
        return {
            **self.to_dict(),
            "images": self.images,
            "instances": self.instances,
            "per_class": self.per_class,
            "confusion": {
                "labels": [*self.names, "background"],
                "rows": "true",
                "counts": self.confusion.tolist(),
            },
        }


class DetectionMetrics:
    """Feed it every image once, in any order: `update`, `update`, ..., `compute`.

    An image seen again (a sampler that pads the last batch, two shards that overlap) counts once,
    the first time.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._samples: dict[tuple[str, str], Sample] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def update(self, detections: Detections, record: ImageRecord) -> None:
        """Add one image. Raises DataError for classes outside `names` or values that are not
        finite.
        """
        sample = make_sample(detections, record, len(self.names))
        self._samples.setdefault(sample.key, sample)

    def state(self) -> dict[str, np.ndarray]:
        """Everything collected, as plain arrays that travel between processes."""
        return pack(list(self._samples.values()))

    def merge(self, state: Mapping[str, np.ndarray]) -> None:
        """Add what another process collected for the same names."""
        for sample in unpack(state):
            self._samples.setdefault(sample.key, sample)

    def compute(self) -> DetectionScores:
        """Score what was collected so far."""
        samples = self.samples()
        coco = coco_scores(samples, len(self.names))
        matches = match(samples, len(self.names))
        curves = make_curves(matches, coco.precision50)
        return self._scores(samples, coco, matches, curves)

    def match_table(self) -> MatchTable:
        """What AP of any choice of the images follows from; its images are in the order of
        `DetectionScores.per_image`.
        """
        return make_table(self.samples(), self.names)

    def samples(self) -> list[Sample]:
        """Truth and detections of every image, in the order of `DetectionScores.per_image`."""
        return [self._samples[key] for key in sorted(self._samples)]

    def _scores(
        self, samples: list[Sample], coco: CocoScores, matches: Matches, curves: Curves
    ) -> DetectionScores:
        best = float(curves.confidence[curves.best])
        at_best = {k: getattr(curves, k)[:, curves.best] for k in ("precision", "recall", "f1")}
        instances = matches.truths.sum(0)
        counts = image_counts(matches, best)
        columns = {
            **at_best,
            "ap50": coco.ap50,
            "ap75": coco.ap75,
            "ap": coco.ap,
            "ar": coco.ar[-1],
        }
        for values, what in ((coco.ap_area, "ap"), (coco.ar_area, "ar")):
            columns |= {
                f"{what}_{area}": row
                for area, row in zip(AREAS, values, strict=True)
                if area != "all"
            }
        present = (matches.truths > 0).sum(0)
        mean = mean_of_present
        ap, ar = (
            dict(zip(AREAS, map(mean, values), strict=True))
            for values in (coco.ap_area, coco.ar_area)
        )
        return DetectionScores(
            map=mean(coco.ap),
            map50=mean(coco.ap50),
            map75=mean(coco.ap75),
            map_small=ap["small"],
            map_medium=ap["medium"],
            map_large=ap["large"],
            map50_area={
                area: mean(row) for area, row in zip(AREAS, coco.ap50_area) if area != "all"
            },
            ar1=mean(coco.ar[0]),
            ar10=mean(coco.ar[1]),
            ar100=mean(coco.ar[2]),
            ar_small=ar["small"],
            ar_medium=ar["medium"],
            ar_large=ar["large"],
            **{k: mean(v) for k, v in at_best.items()},
            confidence=best if instances.any() else None,
            images=len(samples),
            instances=int(instances.sum()),
            names=self.names,
            per_class=[
                {"name": name, "images": int(present[c]), "instances": int(instances[c])}
                | {k: None if np.isnan(v[c]) else float(v[c]) for k, v in columns.items()}
                for c, name in enumerate(self.names)
            ],
            per_image=[
                {"name": s.name, "file": s.file}
                | dict(zip(("n_gt", "n_pred", "tp", "fp", "fn"), row, strict=True))
                for s, row in zip(samples, counts.tolist(), strict=True)
            ],
            curves=curves,
            confusion=confusion_matrix(samples, len(self.names)),
        )


def pack(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Samples as plain arrays, for a file or another process."""
    state = {
        "key": np.array([s.key for s in samples], np.str_).reshape(-1, 2),
        "file": np.array([s.file for s in samples], np.str_),
        "n": np.array([(len(s.gt_classes), len(s.classes)) for s in samples], np.int64).reshape(
            -1, 2
        ),
    }
    for field in _BOXED:
        state[field] = np.concatenate([_EMPTY[field], *(getattr(s, field) for s in samples)])
    return state


def unpack(state: Mapping[str, np.ndarray]) -> list[Sample]:
    """The samples that `pack` was given."""
    ends = state["n"].cumsum(0)[:-1].T if len(state["n"]) else np.zeros((2, 0), np.int64)
    parts = {f: np.split(state[f], ends[0] if f.startswith("gt_") else ends[1]) for f in _BOXED}
    return [
        Sample(
            key=(sha256, name),
            file=str(state["file"][i]),
            name=name,
            **{f: parts[f][i] for f in _BOXED},
        )
        for i, (sha256, name) in enumerate(state["key"].tolist())
    ]


def coco_ap(
    predictions: Iterable[Detections], records: Iterable[ImageRecord], names: Sequence[str]
) -> DetectionScores:
    """Score lists at hand: predictions[i] belongs to records[i]."""
    metrics = DetectionMetrics(names)
    for detections, record in zip(predictions, records, strict=True):
        metrics.update(detections, record)
    return metrics.compute()


_EMPTY = {
    "gt_boxes": np.zeros((0, 4)),
    "gt_classes": np.zeros(0, np.int64),
    "gt_crowd": np.zeros(0, bool),
    "boxes": np.zeros((0, 4)),
    "scores": np.zeros(0),
    "classes": np.zeros(0, np.int64),
}
