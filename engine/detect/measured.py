"""What a validation and a training return to Python: the metrics by name, and the same under the
names that people know, `metrics.box.map`, `metrics.box.maps`, `metrics.results_dict`.

A view of `DetectionScores`; nothing is computed here. What the images say nothing about is None,
within arrays nan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.core.results import TrainResult
from engine.detect.class_names import ClassNames
from engine.detect.familiar import not_here, public_names
from engine.errors import DataError
from engine.metrics import DetectionScores
from engine.metrics.reported import PRIMARY

METRIC_WAYS = {
    "seg": "this project detects boxes; it has no masks",
    "pose": "this project detects boxes; it has no keypoints",
    "top1": "this project detects boxes; it does not classify images",
    "top5": "this project detects boxes; it does not classify images",
    "curves_results": "curves are `metrics.scores.curves`",
}


class BoxMetrics:
    """Numbers of one validation: `map` (AP50-95), `map50`, `map75`, `mp` and `mr` (mean precision
    and recall where the mean F1 is best), `maps` by class.
    """

    def __init__(self, scores: DetectionScores):
        self.scores = scores

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "scores":
            raise AttributeError(name)
        raise not_here("metrics.box", name, METRIC_WAYS, public_names(BoxMetrics))

    def __repr__(self) -> str:
        return f"BoxMetrics(map={self.map}, map50={self.map50}, mp={self.mp}, mr={self.mr})"

    @property
    def map(self) -> float | None:
        """AP, mean over IoU .50 to .95 and classes."""
        return self.scores.map

    @property
    def map50(self) -> float | None:
        """AP at IoU .50."""
        return self.scores.map50

    @property
    def map75(self) -> float | None:
        """AP at IoU .75."""
        return self.scores.map75

    @property
    def mp(self) -> float | None:
        """Mean precision."""
        return self.scores.precision

    @property
    def mr(self) -> float | None:
        """Mean recall."""
        return self.scores.recall

    @property
    def maps(self) -> np.ndarray:
        """(C,) AP of every class, by its number; nan where the images have none of it."""
        return self._column("ap")

    @property
    def ap_class_index(self) -> np.ndarray:
        """Numbers of the classes that the images have, to which the rows of `p`, `r`, `f1`, `ap`,
        `ap50` belong.
        """
        rows = enumerate(self.scores.per_class)
        return np.array([number for number, row in rows if row["instances"]], np.int64)

    @property
    def p(self) -> np.ndarray:
        """Precision by class."""
        return self._of_present("precision")

    @property
    def r(self) -> np.ndarray:
        """Recall by class."""
        return self._of_present("recall")

    @property
    def f1(self) -> np.ndarray:
        """F1 by class."""
        return self._of_present("f1")

    @property
    def ap(self) -> np.ndarray:
        """AP50-95 by class."""
        return self._of_present("ap")

    @property
    def ap50(self) -> np.ndarray:
        """AP50 by class."""
        return self._of_present("ap50")

    @property
    def fitness(self) -> float:
        """What models are compared by: AP50-95."""
        return self.scores.fitness

    def mean_results(self) -> list[float | None]:
        """[mp, mr, map50, map]."""
        return [self.mp, self.mr, self.map50, self.map]

    def class_result(self, i: int) -> tuple[float, float, float, float]:
        """(precision, recall, AP50, AP50-95) of the i-th class that the images have."""
        return tuple(float(values[i]) for values in (self.p, self.r, self.ap50, self.ap))

    def _column(self, name: str) -> np.ndarray:
        values = [row[name] for row in self.scores.per_class]
        return np.array([np.nan if value is None else value for value in values], np.float64)

    def _of_present(self, name: str) -> np.ndarray:
        return self._column(name)[self.ap_class_index]


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of `DetectionScores.confusion` as people know them: `matrix[predicted, true]`, the
    background last.
    """

    matrix: np.ndarray  # (C + 1, C + 1) int64
    names: ClassNames


class _Measured:
    """The known names, for a class that has `scores` and `_metrics()`."""

    scores: DetectionScores | None

    @property
    def box(self) -> BoxMetrics:
        """The numbers of the boxes."""
        return BoxMetrics(self._scores)

    @property
    def results_dict(self) -> dict[str, float | None]:
        """Metrics by name, with the fitness."""
        return {**self._metrics(), "fitness": self.fitness}

    @property
    def fitness(self) -> float:
        """What models are compared by: AP50-95; 0 where there is none."""
        return self._metrics().get(PRIMARY) or 0.0

    @property
    def names(self) -> ClassNames:
        """Class names by number."""
        return ClassNames(self._scores.names)

    @property
    def maps(self) -> np.ndarray:
        """(C,) AP of every class."""
        return self.box.maps

    @property
    def ap_class_index(self) -> np.ndarray:
        """Numbers of the classes that the images have."""
        return self.box.ap_class_index

    @property
    def confusion_matrix(self) -> ConfusionMatrix:
        """Which classes were taken for which."""
        return ConfusionMatrix(self._scores.confusion.T.copy(), self.names)

    def mean_results(self) -> list[float | None]:
        """[precision, recall, AP50, AP50-95]."""
        return self.box.mean_results()

    def class_result(self, i: int) -> tuple[float, float, float, float]:
        """(precision, recall, AP50, AP50-95) of the i-th class that the images have."""
        return self.box.class_result(i)

    def summary(self) -> list[dict[str, Any]]:
        """A dictionary per class: name, images, instances, precision, recall, AP and more."""
        return [dict(row) for row in self._scores.per_class]

    def to_df(self) -> Any:
        """`summary` as a pandas DataFrame. DataError: no pandas."""
        try:
            import pandas
        except ImportError:
            raise DataError("to_df() needs pandas: pip install pandas, or use summary()") from None
        return pandas.DataFrame(self.summary())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("scores", "speed_ms", "metrics"):
            raise AttributeError(name)
        raise not_here("metrics", name, METRIC_WAYS, public_names(type(self)))

    def _metrics(self) -> Mapping[str, float | None]:
        raise NotImplementedError

    @property
    def _scores(self) -> DetectionScores:
        if self.scores is None:
            raise DataError(
                "this validation has metrics by name only, as its trainer or validator class "
                "decides itself what is measured: metrics['metrics/mAP50-95'], results_dict"
            )
        return self.scores


class ValidationMetrics(_Measured, dict):
    """Metrics by name, `metrics["metrics/mAP50"]`, and as `metrics.box.map50`.

    scores: everything else that the validation found, see `engine.metrics`. speed: milliseconds per
    image. save_dir: where tables and plots are; None: nothing was written.
    """

    def __init__(
        self,
        metrics: Mapping[str, float | None],
        scores: DetectionScores | None = None,
        speed: Mapping[str, float] | None = None,
        save_dir: Path | None = None,
    ):
        super().__init__(metrics)
        self.scores, self.save_dir = scores, save_dir
        self.speed = dict(speed or {})

    def __reduce__(self) -> Any:
        return type(self), (dict(self), self.scores, self.speed, self.save_dir)

    def _metrics(self) -> Mapping[str, float | None]:
        return dict(self)


@dataclass(frozen=True)
class DetectionResult(_Measured, TrainResult):
    """What a training of a detector leaves behind; its metrics are those of the best weights."""

    scores: DetectionScores | None = field(default=None, repr=False, compare=False)
    speed: dict[str, float] = field(default_factory=dict, repr=False, compare=False)

    def _metrics(self) -> Mapping[str, float | None]:
        return self.metrics
