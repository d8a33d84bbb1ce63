"""Choose a detector's operating point after a validation, and report what it gives.

The computation is `engine.metrics.thresholds`; here are the models, splits and files.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from engine.config.goal import Goal, read_goal
from engine.detect.validator import DetectionValidator, validator_class_of, write_table
from engine.errors import DataError
from engine.files import write_text
from engine.metrics.operating_point import OperatingPoint
from engine.metrics.thresholds import choose, report, warnings_of

log = logging.getLogger("detectflow")


def point_of(validator: DetectionValidator, goal: Goal) -> OperatingPoint | None:
    """Thresholds and calibration from what a validator has just found, on its split. None: nothing
    true was found, or its metrics are not ours.
    """
    table = validator.match_table()
    if not table.images:
        return None
    return choose(table, goal, validator.image_groups(), validator.config.split)


def settle_point(
    validator: DetectionValidator, model: str | Path, data: str | Path
) -> OperatingPoint | None:
    """The operating point of the file that a validator has just measured, for the goal of its
    settings: the file's own where it has that goal, else chosen on the val images, which are looked
    at for it. None: nothing can be chosen.
    """
    config = validator.config
    goal = read_goal(config.goal)
    own = validator.operating_point
    if own is not None and own.goal == goal and len(own.thresholds) == len(validator.names):
        return own
    if config.split == "val":
        return point_of(validator, goal)
    settings = config.with_overrides({"split": "val", "plots": False})
    on_val = validator_class_of(model)(
        config=settings, device=validator.device, world=validator.world
    )
    try:
        on_val(model=model, data=data)
    except DataError as error:
        log.warning("no thresholds can be chosen: %s", error)
        return None
    return point_of(on_val, goal)


def report_point(
    validator: DetectionValidator, point: OperatingPoint | None, folder: Path
) -> dict[str, Any] | None:
    """Write into `folder` what the operating point gives on the images that a validator has just
    measured: `operating_point.json`, `operating_point.csv`, `reliability.png`. Returns the report;
    None: there is nothing to report.
    """
    table = validator.match_table()
    if point is None or not table.images or len(table.names) != len(point.thresholds):
        return None
    found = report(point, table, validator.config.split, validator.image_groups())
    found["warnings"] = warnings_of(point, table.names)
    if validator.config.split == point.chosen_on:
        found["warnings"].append(
            f"reported on the images that it was chosen on ({point.chosen_on}): new images will "
            "give less"
        )
    for warning in found["warnings"]:
        log.warning("operating point: %s", warning)
    text = json.dumps(_rounded(found), indent=1, ensure_ascii=False)
    write_text(folder / "operating_point.json", text + "\n")
    write_table(folder / "operating_point.csv", found["classes"])
    if validator.config.plots:
        from engine.plots import plot_reliability

        plot_reliability(found["calibration"], folder / "reliability.png")
    return found


def _rounded(value: Any) -> Any:
    """Six digits, as in all reports."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, 6) if isinstance(value, float) else value
