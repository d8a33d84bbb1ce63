"""Choose a detector's operating point after a validation.

The computation is `engine.metrics.thresholds`; here are the models and splits.
"""

from __future__ import annotations

import logging
from pathlib import Path

from engine.config.goal import Goal, read_goal
from engine.detect.validator import DetectionValidator, validator_class_of
from engine.errors import DataError
from engine.metrics.operating_point import OperatingPoint
from engine.metrics.thresholds import choose

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
