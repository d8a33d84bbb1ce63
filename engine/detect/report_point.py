"""Report what a detector's operating point gives on the images that were just validated.

The computation is `engine.metrics.threshold_report`; here are the files.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from engine.config import ValidateConfig
from engine.detect.validator import DetectionValidator, write_table
from engine.files import write_text
from engine.metrics.operating_point import OperatingPoint
from engine.metrics.threshold_report import report, warnings_of

log = logging.getLogger("detectflow")

LEAST_CONF = ValidateConfig().conf  # below which a detection is none, whatever the threshold
SHOWN = 5  # classes that a warning names


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
    conf = validator.config.conf
    unseen = [name for name, least in zip(table.names, point.limits(), strict=True) if least < conf]
    if unseen and conf > LEAST_CONF:
        found["warnings"].append(
            f"nothing was measured below conf={conf:g}, and the thresholds of "
            f"{', '.join(unseen[:SHOWN])}{', ...' if len(unseen) > SHOWN else ''} lie below it: "
            "their precision and recall are those of that conf"
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
