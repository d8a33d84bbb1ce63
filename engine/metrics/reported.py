"""Which metrics a validation reports, and which of them are headlines: shown wherever a model is
summed up in one line.

`METRICS` is the one table. results.csv (a column for each headline metric and epoch), the console,
the summary of a run, MLflow's and the registry's descriptions and `detectflow trace` read it
(`headlines.py` is how they are shown); a new metric is a line here. It imports nothing of the
computation, so that reading it costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

GROUP = "metrics/"  # of a metric's key in results.csv and in reports
PRIMARY = f"{GROUP}mAP50-95"  # compares models where one number has to do


@dataclass(frozen=True)
class Metric:
    """One reported metric."""

    name: str  # as people read it, "mAP50-95"
    field: str  # of `DetectionScores`
    headline: bool = False

    @property
    def key(self) -> str:
        """`metrics/mAP50-95`: in results.csv, in reports, as `monitor`."""
        return GROUP + self.name


METRICS: tuple[Metric, ...] = (
    Metric("precision", "precision", headline=True),
    Metric("recall", "recall", headline=True),
    Metric("mAP50", "map50", headline=True),
    Metric("mAP50-95", "map", headline=True),
    Metric("mAP75", "map75"),
    Metric("mAP-small", "map_small"),
    Metric("mAP-medium", "map_medium"),
    Metric("mAP-large", "map_large"),
    Metric("AR1", "ar1"),
    Metric("AR10", "ar10"),
    Metric("AR100", "ar100"),
    Metric("AR-small", "ar_small"),
    Metric("AR-medium", "ar_medium"),
    Metric("AR-large", "ar_large"),
    Metric("F1", "f1"),
    Metric("confidence", "confidence"),
)


def metric_keys() -> tuple[str, ...]:
    """The keys of all metrics, in the order of the table."""
    return tuple(metric.key for metric in METRICS)


def headline_keys() -> tuple[str, ...]:
    """The keys of the headline metrics: the columns of results.csv, in their order."""
    return tuple(metric.key for metric in METRICS if metric.headline)


# Metrics by which two models are compared image by image -> their name in a comparison.
DECIDING = {"metrics/mAP50-95": "AP50-95", "metrics/mAP50": "AP50"}
