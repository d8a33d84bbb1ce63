"""What distinguishes one network of the family from another: depth, width, the widest layer, the
backbone. Plain data.

A scale is named (`yolov8n`), or written down in a YAML file with the same keys, so that any size
between can be tried.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, nearest
from engine.settings.base import load_yaml

BASE_CHANNELS = (64, 128, 256, 512, 1024)  # P1 .. P5
STRIDES = (8, 16, 32)  # of the three maps the head reads


@dataclass(frozen=True)
class ModelSpec:
    """One network. `depth` scales the repeats of blocks, `width` the channels, up to `max_channels`
    before scaling.
    """

    name: str
    depth: float
    width: float
    max_channels: int
    backbone: str = ""  # of torchvision or timm, under our neck and head; empty: the family's own

    def channels(self, level: int) -> int:
        """Channels of P1 .. P5: ceil(min(C, max) * width / 8) * 8."""
        return math.ceil(min(BASE_CHANNELS[level - 1], self.max_channels) * self.width / 8) * 8

    def repeats(self, n: int) -> int:
        """Bottlenecks of a block that has `n` at depth 1."""
        return max(round(n * self.depth), 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that travels with the weights; `find_spec` reads it back."""
        return asdict(self)


SCALES = {
    spec.name: spec
    for spec in (
        ModelSpec("yolov8n", 0.33, 0.25, 1024),
        ModelSpec("yolov8s", 0.33, 0.50, 1024),
        ModelSpec("yolov8m", 0.67, 0.75, 768),
        ModelSpec("yolov8l", 1.00, 1.00, 512),
        ModelSpec("yolov8x", 1.00, 1.25, 512),
    )
}


def find_spec(cfg: str | dict[str, Any] | ModelSpec) -> ModelSpec:
    """The network that `cfg` names: a scale (`yolov8n`, or `yolov8n.yaml` without such a file), a
    .yaml file with `depth`, `width`, `max_channels`, or `ModelSpec.to_dict()`.

    Raises:
        ConfigError: an unknown name (the nearest is named), a file that lacks a key or has a value
            out of range.
    """
    if isinstance(cfg, ModelSpec):
        return cfg
    if isinstance(cfg, dict):
        return _from_mapping(cfg, "model")
    if cfg in SCALES:
        return SCALES[cfg]
    if Path(cfg).suffix in {".yaml", ".yml"}:
        if Path(cfg).name == cfg and Path(cfg).stem in SCALES and not Path(cfg).exists():
            return SCALES[Path(cfg).stem]  # yolov8n.yaml is a name, where there is no such file
        return _from_mapping({"name": Path(cfg).stem, **load_yaml(cfg)}, cfg)
    raise ConfigError(
        f"model='{cfg}' is not known.{nearest(cfg, SCALES)} Give {', '.join(SCALES)}, a model "
        ".yaml, or a checkpoint (.pt, .safetensors)"
    )


def _from_mapping(values: dict[str, Any], where: str) -> ModelSpec:
    known = ModelSpec.__dataclass_fields__
    if {"backbone", "head"} <= values.keys():
        raise ConfigError(
            f"{where}: lists a network layer by layer, as model files of Ultralytics do. The "
            f"networks of that family are here by name: {', '.join(SCALES)}; another size of them "
            "is a .yaml with name, depth, width, max_channels"
        )
    for key in values:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key '{key}'.{nearest(key, known)} A model has {', '.join(known)}"
            )
    missing = [key for key in known if key not in values and key != "backbone"]
    if missing:
        raise ConfigError(
            f"{where}: {', '.join(missing)} missing; for example depth: 0.33, width: 0.25, "
            "max_channels: 1024"
        )
    for key in ("depth", "width", "max_channels"):
        if (
            isinstance(values[key], bool)
            or not isinstance(values[key], (int, float))
            or not 0 < values[key] <= 4096
        ):
            raise ConfigError(f"{where}: {key} must be a positive number, got {values[key]!r}")
    return ModelSpec(
        str(values["name"]),
        float(values["depth"]),
        float(values["width"]),
        int(values["max_channels"]),
        str(values.get("backbone", "")),
    )
