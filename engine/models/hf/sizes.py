"""Which input sizes a detector of `transformers` takes, from its configuration alone: known before
a network is built or data are read.

Two rules of these networks' own code. A backbone of patches, cut into windows, needs whole windows.
A decoder whose queries are the best cells of the feature maps needs a cell for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError
from engine.models.family import check_input_size
from engine.types import Size

STRIDE = 32  # of a backbone of convolutions
LW_DETR, RF_DETR = "lw_detr", "rf_detr"  # backbones of patches, queries from one map or a few
QUERIES = 300  # where a configuration does not say
LARGEST_PX = 4096  # beyond it no smallest size is looked for

Config = Mapping[str, Any]  # the content of config.json


def step_px(config: Config) -> int:
    """Input sides are multiples of it."""
    patch = _patch(config)
    return patch * _windows(config) if patch is not None else STRIDE


def smallest_px(config: Config) -> int:
    """The smallest side of a square input."""
    step = step_px(config)
    sides = range(step, LARGEST_PX, step)
    return next((side for side in sides if has_enough_cells(config, (side, side))), step)


def check(config: Config, size: Size) -> None:
    """ConfigError with near sizes that fit, where the network cannot take `size`."""
    least, square = smallest_px(config), size[0] == size[1]
    check_input_size(size, step_px(config), least if square else 1)
    if not square and config.get("model_type") == RF_DETR and _windows(config) > 1:
        # The library cuts the windows (h, w) and joins them (w, h).
        near = " or ".join(str(max(side, least)) for side in sorted(set(size)))
        raise ConfigError(
            f"imgsz={list(size)}: this network takes squares only: try {near}. Images are fitted "
            "into the square, nothing is cut off"
        )
    if not has_enough_cells(config, size):
        raise ConfigError(
            f"imgsz={list(size)} is too small for this network: its feature maps have fewer cells "
            f"than it has queries ({_queries(config)}); {least}x{least} is the "
            "smallest square"
        )


def has_enough_cells(config: Config, size: Size) -> bool:
    """Whether there is a cell for each query, where queries are the best cells."""
    strides = _query_strides(config)
    if not strides:
        return True
    cells = sum(int(-(-size[0] // s) * -(-size[1] // s)) for s in strides)
    return cells >= _queries(config)


def _queries(config: Config) -> int:
    return config.get("num_queries") or QUERIES


def _query_strides(config: Config) -> list[float]:
    """Strides of the maps whose cells become queries; none where queries are learnt."""
    if config.get("feat_strides"):  # D-FINE, RT-DETR, DEIMv2
        return list(config["feat_strides"])
    patch = _patch(config)
    if patch is None or config.get("model_type") not in (LW_DETR, RF_DETR):
        return []
    return [patch / scale for scale in config.get("projector_scale_factors") or [1.0]]


def _patch(config: Config) -> int | None:
    """Side of a patch, pixels; None: no backbone of patches."""
    patch = _backbone(config).get("patch_size", config.get("patch_size"))
    return patch if isinstance(patch, int) else None


def _windows(config: Config) -> int:
    """Windows along one side of an image."""
    windows = _backbone(config).get("num_windows", config.get("num_windows")) or 1
    # LW-DETR says how many there are, RF-DETR how many along a side.
    return round(windows**0.5) if config.get("model_type") == LW_DETR else windows


def _backbone(config: Config) -> Config:
    return config.get("backbone_config") or {}
