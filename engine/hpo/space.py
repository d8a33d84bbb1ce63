"""What is searched: settings of training, each with a range or a list of choices, checked against
the settings' own limits.

    lr0: {low: 1e-4, high: 2e-2, log: true}
    imgsz: {low: 160, high: 320, step: 32}
    optimizer: {choices: [SGD, AdamW]}

Knows no search; `distribution` alone needs Optuna.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.config import DetectionTrainConfig, parse_value
from engine.errors import ConfigError, nearest
from engine.settings.base import load_yaml

Value = float | int | str | bool
KEYS = ("low", "high", "log", "step", "choices")
INTERVAL_CHECKED = 512  # values of an integer range that are tried one by one

# What the default space leaves out on purpose: flips and rotations, which are right or wrong by
# what the objects are; gains of the loss, as they hardly move AP; imgsz and the model, as they
# trade accuracy for time; lrf, as a short trial says little of it.
DEFAULT_SPACE: dict[str, dict[str, Any]] = {
    "lr0": {
        "low": 3e-4,
        "high": 3e-2,
        "log": True,
    },  # the one that matters most; holds the defaults of AdamW and of SGD
    "weight_decay": {
        "low": 1e-5,
        "high": 5e-3,
        "log": True,
    },  # small sets want more than large ones
    "momentum": {"low": 0.8, "high": 0.97},  # with lr0: their product is the length of a step
    "mosaic": {"low": 0.0, "high": 1.0},  # hurts where the images already have many small objects
    "mixup": {"low": 0.0, "high": 0.3},  # helps long trainings only, so its default is 0
    "scale": {
        "low": 0.1,
        "high": 0.9,
    },  # how far sizes differ between the camera of today and that of tomorrow
    "hsv_s": {
        "low": 0.0,
        "high": 0.9,
    },  # colour distinguishes classes in one dataset and misleads in another
    "hsv_v": {"low": 0.0, "high": 0.7},  # light, likewise
}

RUN_SETTINGS = {
    "data",
    "project",
    "name",
    "exist_ok",
    "resume",
    "extend",
    "trainer",
    "callbacks",
    "device",
    "workers",
    "verbose",
    "nproc",
    "cache",
    "plots",
    "save_period",
    "deterministic",
    "time_limit_minutes",
}
YARDSTICKS = {
    "epochs",
    "monitor",
    "monitor_mode",
    "val_period",
    "val_conf",
    "val_iou",
    "max_det",
    "single_cls",
}


@dataclass(frozen=True)
class Dimension:
    """One setting and its values: `choices`, or numbers from `low` to `high`."""

    name: str
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    choices: tuple[Value, ...] = ()
    whole: bool = False  # whole numbers only

    def holds(self, value: Any) -> bool:
        """Whether `value` is one that the search might propose (steps aside)."""
        if self.choices:
            return value in self.choices
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and self.low <= value <= self.high
        )

    def tried(self) -> tuple[Value, ...]:
        """The values that are checked before a search: all choices, both ends of a range, and what
        lies between where these are whole numbers (`INTERVAL_CHECKED` at most).
        """
        if self.choices:
            return self.choices
        if not self.whole:
            return self.low, self.high
        return (*range(self.low, self.high + 1, self.step or 1)[:INTERVAL_CHECKED], self.high)

    def distribution(self) -> Any:
        """As Optuna takes it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(
                int(self.low), int(self.high), log=self.log, step=int(self.step or 1)
            )
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def describe(self) -> str:
        """`0.0003 to 0.03, log`."""
        if self.choices:
            return " | ".join(map(str, self.choices))
        extra = ", log" if self.log else f", step {self.step:g}" if self.step else ""
        return f"{self.low:g} to {self.high:g}{extra}"


Space = tuple[Dimension, ...]


def load_space(path: str | Path, base: DetectionTrainConfig) -> Space:
    """The space of a YAML file.

    Raises:
        ConfigError: an unknown setting (the nearest is named), one that cannot be searched, values
            outside its limits.
    """
    return make_space(load_yaml(path), base, str(path))


def default_space(base: DetectionTrainConfig, fixed: Iterable[str] = ()) -> Space:
    """`DEFAULT_SPACE` without the settings that are `fixed`."""
    fixed = set(fixed)
    return make_space(
        {k: v for k, v in DEFAULT_SPACE.items() if k not in fixed}, base, "default space"
    )


def make_space(entries: Mapping[str, Any], base: DetectionTrainConfig, where: str) -> Space:
    """Check every entry; `base`: the other settings of a trial. Raises ConfigError, see
    `load_space`.
    """
    if not entries:
        raise ConfigError(
            f"{where}: nothing to search in it, for example `lr0: {{low: 1e-4, high: 2e-2, log: "
            f"true}}`"
        )
    properties = type(base).model_json_schema()["properties"]
    space = tuple(
        _dimension(str(name), entry, properties, base, where) for name, entry in entries.items()
    )
    _refuse_untaken(space, base, where)
    return space


def to_plain(space: Space) -> list[dict[str, Any]]:
    return [{**asdict(each), "choices": list(each.choices)} for each in space]


def from_plain(rows: Iterable[Mapping[str, Any]]) -> Space:
    return tuple(Dimension(**{**row, "choices": tuple(row["choices"])}) for row in rows)


def _dimension(
    name: str, entry: Any, properties: Mapping[str, Any], base: DetectionTrainConfig, where: str
) -> Dimension:
    if name not in properties:
        raise ConfigError(
            f"{where}: unknown setting '{name}'.{type(base).instead_of(name)} `detectflow help "
            "train` lists them."
        )
    if name == "seed":
        raise ConfigError(
            f"{where}: `seed` cannot be searched: all trials share one seed. Remove it."
        )
    if name in YARDSTICKS:
        raise ConfigError(
            f"{where}: {name} decides by what trials are compared, so all need the same: "
            f"`detectflow tune {name}=...`"
        )
    if name in RUN_SETTINGS:
        raise ConfigError(
            f"{where}: {name} says where or how a run computes, not what it learns; remove the "
            "entry."
        )
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"{where}: {name}: expected {{low: ..., high: ...}} or {{choices: [...]}}, found "
            f"{entry!r}"
        )
    for key in entry:
        if key not in KEYS:
            raise ConfigError(
                f"{where}: {name}: unknown key '{key}'.{nearest(str(key), KEYS)} Keys: "
                f"{', '.join(KEYS)}"
            )
    if "choices" in entry:
        return _choices(name, entry, base, where)
    return _range(name, entry, properties[name], base, where)


def _choices(
    name: str, entry: Mapping[str, Any], base: DetectionTrainConfig, where: str
) -> Dimension:
    values, place = entry["choices"], f"{where}: {name}"
    if len(entry) > 1 or not isinstance(values, list) or len(values) < 2:
        raise ConfigError(
            f"{place}: choices is a list of at least two values and stands alone, found "
            f"{dict(entry)}"
        )
    kind = type(base).model_fields[name].annotation
    values = [parse_value(each, kind) if isinstance(each, str) else each for each in values]
    for value in values:
        if not isinstance(value, (str, int, float, bool)):
            raise ConfigError(
                f"{place}: a choice is a number, a word, true or false, found {value!r}"
            )
        base.with_overrides({name: value}, where)
    if len({(type(each), each) for each in values}) < len(values):
        raise ConfigError(f"{place}: a choice stands there twice: {values}")
    return Dimension(name, choices=tuple(values))


def _range(
    name: str,
    entry: Mapping[str, Any],
    schema: Mapping[str, Any],
    base: DetectionTrainConfig,
    where: str,
) -> Dimension:
    place = f"{where}: {name}"
    types = {part.get("type") for part in schema.get("anyOf", [schema])}
    if not types & {"integer", "number"}:
        raise ConfigError(f"{place}: is no number; give {{choices: [...]}}")
    if "low" not in entry or "high" not in entry:
        raise ConfigError(f"{place}: needs low and high, or choices; found {dict(entry)}")
    whole = "number" not in types
    numbers = {
        key: _number(entry[key], key, whole, place)
        for key in ("low", "high", "step")
        if entry.get(key) is not None
    }
    low, high, step, log = (
        numbers["low"],
        numbers["high"],
        numbers.get("step"),
        entry.get("log", False),
    )
    if not isinstance(log, bool):
        raise ConfigError(f"{place}: log is true or false, found {log!r}")
    if low >= high:
        raise ConfigError(f"{place}: low must be below high, found {low:g} and {high:g}")
    if log and low <= 0:
        raise ConfigError(f"{place}: a log range begins above 0, found low {low:g}")
    if step is not None and (log or step <= 0 or step > high - low):
        raise ConfigError(
            f"{place}: step is a positive number that fits between low and high, without log; "
            f"found {step:g}"
        )
    found = Dimension(name, low, high, log, step, whole=whole)
    for value in found.tried():
        base.with_overrides({name: value}, where)
    return found


def _refuse_untaken(space: Space, base: DetectionTrainConfig, where: str) -> None:
    """ConfigError where a network that is trained does not take the values of a dimension: every
    trial with them would fail.
    """
    from engine.detect.choose import named_network, refuse_settings

    models = next((each.choices for each in space if each.name == "model"), (base.model,))
    for model in models:
        config = base.with_overrides({"model": model}, where)
        network = named_network(_with_size(config, space))
        refused: dict[str, str] = {}
        for each in space:
            for value in each.tried():
                try:
                    refuse_settings(network, _with_size(config, space, {each.name: value}))
                except ConfigError as error:
                    refused.setdefault(each.name, str(error))
        if refused:
            reasons = "\n".join(f"  {name}: {reason}" for name, reason in refused.items())
            raise ConfigError(
                f"{where}: {', '.join(refused)} cannot be searched with model={model}:\n{reasons}"
            )


def _with_size(
    config: DetectionTrainConfig, space: Space, values: Mapping[str, Any] | None = None
) -> DetectionTrainConfig:
    """With a size that a trial may have: where it is searched, the one of the settings is none."""
    sizes = {each.name: each.tried()[0] for each in space if each.name == "imgsz"}
    return config.with_overrides({**sizes, **(values or {}), "model": config.model})


def _number(value: Any, key: str, whole: bool, place: str) -> float | int:
    """YAML reads 1e-4 as text."""
    value = parse_value(value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ConfigError(f"{place}: {key} is a {'whole ' if whole else ''}number, found {value!r}")
    return value
