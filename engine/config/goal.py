"""What the thresholds of a detector are chosen for: the setting `validate.goal`.

Values only; `engine.metrics.thresholds` finds the thresholds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import ConfigError, nearest

MAX_F1 = "max_f1"
COSTS = ("miss", "false_alarm")
FORMS = "max_f1, precision>=0.95, recall>=0.9 or {miss: 10, false_alarm: 1}"
_BOUND = re.compile(r"(precision|recall)\s*>=\s*(\S+)")


@dataclass(frozen=True)
class Goal:
    """max_f1: the best balance of precision and recall. precision, recall: at least `least` of it,
    and as much as possible of the other. cost: the lowest sum of what misses and false alarms cost.
    """

    kind: Literal["max_f1", "precision", "recall", "cost"] = MAX_F1
    least: float = 0.0  # of precision or recall
    miss: float = 0.0  # what an object costs that is not found
    false_alarm: float = 0.0  # what a detection costs that is wrong

    @property
    def setting(self) -> str | dict[str, float]:
        """As it is written in params.yaml."""
        if self.kind == "cost":
            return {"miss": self.miss, "false_alarm": self.false_alarm}
        return MAX_F1 if self.kind == MAX_F1 else f"{self.kind}>={self.least:g}"

    def __str__(self) -> str:
        if self.kind == "cost":
            return f"lowest cost (miss {self.miss:g}, false alarm {self.false_alarm:g})"
        return str(self.setting)


def read_goal(setting: Any) -> Goal:
    """The goal that a setting names.

    Raises:
        ConfigError: no such goal, a bound outside (0, 1], costs that are missing or negative.
    """
    if isinstance(setting, Mapping):
        return _costs(setting)
    text = str(setting).strip()
    if text == MAX_F1:
        return Goal()
    found = _BOUND.fullmatch(text)
    if found is None:
        known = (MAX_F1, "precision>=0.95", "recall>=0.9")
        raise ConfigError(f"goal '{text}' is none.{nearest(text, known)} Write one of: {FORMS}")
    kind, number = found.groups()
    try:
        least = float(number)
    except ValueError:
        raise ConfigError(
            f"goal '{text}': '{number}' is no number; for example {kind}>=0.9"
        ) from None
    if not 0 < least <= 1:
        hint = f"; write {kind}>={least / 100:g} for {least:g} %" if 1 < least <= 100 else ""
        raise ConfigError(
            f"goal '{text}': a {kind} lies above 0 and is at most 1, not {number}{hint}"
        )
    return Goal(kind, least=least)


def _costs(setting: Mapping[str, Any]) -> Goal:
    for key in setting:
        if key not in COSTS:
            raise ConfigError(
                f"goal: there is no cost '{key}'.{nearest(str(key), COSTS)} There are: "
                f"{', '.join(COSTS)}"
            )
    for key in COSTS:
        value = setting.get(key)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not (number and 0 < value < float("inf")):
            raise ConfigError(
                f"goal: the cost of a {key.replace('_', ' ')} must be a number above 0, got "
                f"{value!r}; for example {{miss: 10, false_alarm: 1}}"
            )
    return Goal("cost", miss=float(setting["miss"]), false_alarm=float(setting["false_alarm"]))
