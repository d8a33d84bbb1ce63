"""The registered champion on the prepared data of today. Not a stage of dvc.yaml: its result
depends on the registry.

A model does not get worse, the world does: the file that production runs is measured on images that
came since, as a comparison measures it, with the same cache, on the classes that it and the data
know. What it was decided on is kept image by image with its version, so that images which were
there before are told from new ones. Nothing is decided here; aliases are stage register's.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import Params
from engine.errors import DataError
from engine.stages.layout import Layout, read_json

IOU = {"metrics/mAP50-95": None, "metrics/mAP50": 0.5}  # of the metrics that may decide


@dataclass(frozen=True)
class Before:
    """What the version was decided on, over the classes that can be compared. None: not known."""

    value: float | None
    images: int | None = None
    same: int = 0  # images of then that are in today's split
    on_same: float | None = None  # the value of then on these
    now_on_same: float | None = None  # the value of today on them


@dataclass(frozen=True)
class Remeasured:
    """What was found. `before` is the value that the version was decided or registered with, None
    where it is unknown.
    """

    model: str
    version: str
    metric: str
    split: str
    now: float | None
    before: float | None
    same_images: bool  # whether `before` was measured on the very same images
    metrics: Mapping[str, float]  # "metrics/mAP50" -> value
    per_class: tuple[Mapping[str, Any], ...]  # rows of per_class.csv
    run_id: str
    images: int = 0  # of the split today
    interval: tuple[float, float] | None = None  # 95 %, of `now`
    earlier: Before = Before(None)
    unknown_classes: tuple[str, ...] = ()  # of the data, that the model does not know

    def worse_by(self, tolerance: float) -> list[str]:
        """In what it is worse by more than `tolerance`, as sentences; empty where it is not."""
        found, same = [], self.earlier
        if same.on_same is not None and same.now_on_same is not None:
            if same.on_same - same.now_on_same > tolerance:
                found.append(
                    f"worse on the same {same.same} images: {same.now_on_same:.4f}, "
                    f"{same.on_same:.4f} then (labels, settings or libraries have changed)"
                )
        drop = None if self.now is None or self.before is None else self.before - self.now
        if drop is not None and drop > tolerance and not (found and self.same_images):
            where = "the same images" if self.same_images else "other images"
            found.append(f"{self.now:.4f} today, {self.before:.4f} before, on {where}")
        return found


def measure(params: Params, root: Path, reference: str) -> Remeasured:
    """Measure the registered model `reference` on `data/prepared`, and record the metrics.

    Raises:
        ConfigError, WorkspaceError: see `engine.registry.fetch.fetch`. DataError: no images, or it
            knows none of the classes of the data.
    """
    from engine.comparison.measure import key_of
    from engine.comparison.measure import measure as measure_model
    from engine.comparison.models import find_model
    from engine.data.manifest import load_prepared
    from engine.detect.validator import write_table
    from engine.metrics.paired import AP, AP50, compare
    from engine.project.environment import state_root
    from engine.registry.fetch import fetch, record_validation
    from engine.tracking import run_metadata

    layout, split, metric = Layout(root), params.validate_.split, params.register_.metric
    dataset = read_json(layout.prepared / "dataset.json", "prepare")
    fetched = fetch(reference, root)
    data = load_prepared(layout.prepared)
    model = find_model(f"models:/{fetched.name}/{fetched.version}", root)
    measured = measure_model(model, data, params.validate_, cache=state_root(root))
    known = [name for name in data.names if name in measured.names]
    if not known:
        raise DataError(
            f"{fetched} knows none of the classes of {layout.prepared}. Name the dataset it "
            "belongs to, or a model of these classes."
        )
    table = measured.table.subset(measured.table.images, known)
    groups = {key_of(record): record.group for record in data.records(split)}
    paired = compare(None, table, groups)
    metrics, rows = metrics_of(table)
    digest = run_metadata.split_digest(root, split)
    with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
        folder = Path(scratch)
        table.save(folder / "matches.npz")
        write_table(folder / "per_class.csv", rows)
        tags = {
            "dataset": str(dataset.get("name", "")),
            "data_digest": str(dataset.get("digest", "")),
            "split_digest": digest,
        }
        run_id = record_validation(
            fetched,
            run_metadata.metrics_of(metrics, split),
            tags,
            params.register_.experiment,
            folder,
            root,
        )
    mean = paired.mean[AP if metric == "metrics/mAP50-95" else AP50]
    earlier, same = _earlier(fetched, table, metric, digest, root)
    return Remeasured(
        model=fetched.name,
        version=fetched.version,
        metric=metric,
        split=split,
        now=metrics.get(metric),
        before=earlier.value,
        same_images=same,
        metrics=metrics,
        per_class=tuple(rows),
        run_id=run_id,
        images=len(table.images),
        interval=None if mean.low is None or mean.high is None else (mean.low, mean.high),
        earlier=earlier,
        unknown_classes=tuple(name for name in data.names if name not in known),
    )


def metrics_of(table: Any) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Metrics of a table of matches, without those that cannot be measured, and the rows of
    per_class.csv; precision, recall and F1 at the confidence of the best mean F1, IoU .50.
    """
    from engine.metrics.curves import Matches, make_curves

    matches = Matches(table.image, table.classes, table.scores, table.outcome[:, 0], table.truths)
    curves = make_curves(matches, np.zeros((len(table.names), 101)))
    at = {
        "precision": curves.precision[:, curves.best],
        "recall": curves.recall[:, curves.best],
        "f1": curves.f1[:, curves.best],
    }
    ap = table.ap()  # (C, T)
    columns = {**at, "ap50": ap[:, 0], "ap75": ap[:, 5], "ap": ap.mean(1)}
    rows = [
        {
            "name": name,
            "images": int((table.truths[:, c] > 0).sum()),
            "instances": int(table.truths[:, c].sum()),
            **{key: _number(values[c]) for key, values in columns.items()},
        }
        for c, name in enumerate(table.names)
    ]
    names = {"ap": "mAP50-95", "ap50": "mAP50", "ap75": "mAP75"}
    names |= {"precision": "precision", "recall": "recall"}
    present = ~np.isnan(ap[:, 0])
    if not present.any():
        return {}, rows
    metrics = {
        f"metrics/{name}": float(columns[key][present].mean()) for key, name in names.items()
    }
    metrics["metrics/mAP50-95"] = float(ap[present].mean())  # as `MatchTable.mean_ap` adds it up
    return metrics | {"metrics/confidence": float(curves.confidence[curves.best])}, rows


def _earlier(fetched: Any, today: Any, metric: str, digest: str, root: Path) -> tuple[Before, bool]:
    """What the version was decided on, and whether these are today's images with today's boxes."""
    then = _table_of_decision(fetched, root)
    if then is None:  # from before these were kept: what stage validate had said when it was made
        value = fetched.tags.get("value")
        return Before(float(value) if value else None), digest == fetched.tags.get("split_digest")
    names = [name for name in today.names if name in then.names]
    if not names:
        return Before(None), False
    iou = IOU.get(metric)
    both = [image for image in then.images if image in set(today.images)]
    old, new = (each.subset(each.images, names) for each in (then, today))
    before = Before(old.mean_ap(iou=iou), len(then.images), len(both))
    if both:
        on_same = [each.subset(both, names).mean_ap(iou=iou) for each in (old, new)]
        before = Before(before.value, before.images, len(both), *on_same)
    return before, set(then.images) == set(today.images)


def _table_of_decision(fetched: Any, root: Path) -> Any | None:
    """What the version had found when it was last decided about; None where it was not kept."""
    from engine.metrics import MatchTable
    from engine.registry.fetch import decision_files

    with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
        for file in decision_files(fetched, ".npz", Path(scratch), root):
            with contextlib.suppress(DataError):
                return MatchTable.load(file)
    return None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)
