"""Stage validate: the metrics of the best weights on the deciding split, the plots that explain
them, and the thresholds for the goal of the settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import Params, ValidateConfig
from engine.stages.layout import (
    Attached,
    Layout,
    Progress,
    metric_value,
    publish_folder,
    read_report,
    write_json,
)

if TYPE_CHECKING:
    from engine.detect.validator import DetectionValidator


def run(
    params: Params, root: Path, progress: Progress | None = None, callbacks: Sequence[Attached] = ()
) -> dict[str, Any]:
    """Write `reports/validate/`.

    Raises:
        WorkspaceError: no weights or no prepared dataset yet. EngineError: the weights do not fit
            the data.
    """
    from engine.detect.choose_point import settle_point
    from engine.detect.report_point import report_point
    from engine.detect.validator import validator_class_of
    from engine.metrics.operating_point import KEY

    layout = Layout(root)
    trained = read_report(layout, "train")
    with publish_folder(layout.reports / "validate") as folder:
        validator_class = validator_class_of(layout.best)
        validator = validator_class(config=params.validate_, save_dir=folder)
        for event, function in callbacks:
            validator.add_callback(event, function, may_fail=True)
        metrics = validator(model=layout.best, data=layout.prepared)
        origin = {"split": params.validate_.split, "weights_sha256": trained["weights_sha256"]}
        measured = {key: metric_value(value) for key, value in metrics.items()}
        point = settle_point(validator, layout.best, layout.prepared)
        report_point(validator, point, folder)
        chosen = {
            "weights_sha256": trained["weights_sha256"],
            KEY: point.to_dict() if point is not None else None,
        }
        write_json(folder / layout.thresholds.name, chosen)
        write_json(folder / "metrics.json", measured)
        write_json(folder / "origin.json", origin)
        _write_errors(validator, layout, params.validate_, folder)
    return {**origin, **measured}


def _write_errors(
    validator: DetectionValidator, layout: Layout, settings: ValidateConfig, folder: Path
) -> None:
    """errors.json and its images: where the detector fails."""
    from engine.data.manifest import load_prepared
    from engine.error_analysis.report import error_report

    if validator.scores is None:  # a validator of the user's own that measures something else
        return
    report = error_report(
        validator.samples(),
        validator.names,
        validator.scores.confidence,
        validator.scores.map50_area,
        load_prepared(layout.prepared).records(settings.split),
        settings.split,
        folder if settings.plots else None,
    )
    write_json(folder / "errors.json", report)
