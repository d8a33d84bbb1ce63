"""The operating point of a detector: from which score on a detection of each class is reported, and
how scores are calibrated. It travels in the metadata of the model's files; how it is chosen and
what it gives is `thresholds.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.config.goal import Goal, read_goal
from engine.errors import ConfigError, DataError
from engine.metrics.score_maps import Calibration, ScoreMap

KEY = "operating_point"  # in the metadata of weights and of exported files


@dataclass(frozen=True)
class OperatingPoint:
    """What travels with a model. Of each of C classes in the model's order: the threshold, whether
    it is the class's own, and whether it reaches the goal on the images it was chosen on.
    """

    goal: Goal
    chosen_on: str  # the split
    overall: float  # threshold of all classes together
    thresholds: tuple[float, ...]
    own: tuple[bool, ...]
    reached: tuple[bool, ...]
    calibration: Calibration

    def limits(self, conf: float | None = None) -> np.ndarray:
        """(C,) float64 scores of the network above which a detection is reported: at the
        thresholds, or at one calibrated score for all classes.
        """
        wanted = self.thresholds if conf is None else (conf,) * len(self.thresholds)
        pairs = zip(self.calibration.maps, wanted, strict=True)
        return np.array([float(score_map.inverse(np.float64(t))) for score_map, t in pairs])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        calibration = self.calibration
        return {
            "goal": self.goal.setting,
            "chosen_on": self.chosen_on,
            "overall": self.overall,
            "thresholds": list(self.thresholds),
            "own": list(self.own),
            "reached": list(self.reached),
            "calibration": {
                "method": calibration.method,
                "maps": [
                    {"x": list(each.x), "y": list(each.y), "slope": each.slope}
                    for each in calibration.maps
                ],
                "own": list(calibration.own),
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], classes: int) -> OperatingPoint:
        """What `to_dict` gave. DataError: it is damaged, or of another number of classes."""
        try:
            calibration = values["calibration"]
            maps = tuple(
                ScoreMap(tuple(each["x"]), tuple(each["y"]), float(each["slope"]))
                for each in calibration["maps"]
            )
            found = cls(
                read_goal(values["goal"]),
                str(values["chosen_on"]),
                float(values["overall"]),
                tuple(map(float, values["thresholds"])),
                tuple(values["own"]),
                tuple(values["reached"]),
                Calibration(str(calibration["method"]), maps, tuple(calibration["own"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise DataError(f"no operating point: {error!r}") from None
        lengths = {len(found.thresholds), len(found.own), len(found.reached), len(maps)}
        if lengths != {classes}:
            raise DataError(
                f"the operating point is of {len(found.thresholds)} classes, the model of {classes}"
            )
        if not all(
            len(each.x) == len(each.y) > 0
            and each.slope > 0
            and (np.diff(each.x) > 0).all()
            and (np.diff(each.y) > 0).all()
            for each in maps
        ):
            raise DataError("the operating point has a calibration that does not increase")
        return found
