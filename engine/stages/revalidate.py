"""The registered champion on the prepared data of today. Not a stage of dvc.yaml: its result
depends on the registry.

A model does not get worse, the world does: the file that production runs is measured on images that
came since. Nothing is decided here; aliases are stage register's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.errors import DataError
from engine.stages.layout import Layout, metric_value, read_json, read_table


@dataclass(frozen=True)
class Remeasured:
    """What was found. `before` is the value it was promoted or registered with, None where it is
    unknown.
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


def measure(params: Params, root: Path, reference: str) -> Remeasured:
    """Validate the registered model `reference` on `data/prepared`, and record the metrics.

    Raises:
        ConfigError, WorkspaceError: see `engine.registry.fetch.fetch`. DataError: its classes are
            not those of the data.
    """
    from engine.detect import DetectionValidator
    from engine.registry.fetch import fetch, record_validation
    from engine.tracking import run_metadata

    layout, split = Layout(root), params.validate_.split
    dataset = read_json(layout.prepared / "dataset.json", "prepare")
    model = fetch(reference, root)
    if model.tags.get("class_hash") not in {None, "", str(dataset.get("class_hash", ""))}:
        raise DataError(
            f"{model} knows other classes than {layout.prepared} (class hash "
            f"{model.tags['class_hash']} and {dataset.get('class_hash')}). Name the dataset it "
            "belongs to, or a model of these classes."
        )
    digest = run_metadata.split_digest(root, split)
    with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
        folder = Path(scratch)
        measured = DetectionValidator(config=params.validate_, save_dir=folder)(
            model=model.onnx, data=layout.prepared
        )
        metrics = {
            key: value
            for key, value in ((k, metric_value(v)) for k, v in measured.items())
            if value is not None
        }
        tags = {
            "dataset": str(dataset.get("name", "")),
            "data_digest": str(dataset.get("digest", "")),
            "split_digest": digest,
        }
        run_id = record_validation(
            model,
            run_metadata.metrics_of(metrics, split),
            tags,
            params.register_.experiment,
            folder,
            root,
        )
        per_class = read_table(folder / "per_class.csv")
    before = model.tags.get("value")
    return Remeasured(
        model=model.name,
        version=model.version,
        metric=params.register_.metric,
        split=split,
        now=metrics.get(params.register_.metric),
        before=float(before) if before else None,
        same_images=digest == model.tags.get("split_digest"),
        metrics=metrics,
        per_class=per_class,
        run_id=run_id,
    )
