"""Which epoch is best, and whether training should stop: plain functions of a run's figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.config.train import TrainConfig
from engine.errors import ConfigError, nearest


def fitness_of(row: Mapping[str, Any], monitor: str, validates: bool) -> float | None:
    """The figure that decides; None for an epoch without validation, or where the images say nothing about it.

    Raises:
        ConfigError: no such figure; names what there is.
    """
    if monitor in row:  # None: without ground truth nothing can be measured; nan would never be beaten again
        value = row[monitor]
        return float(value) if value is not None and math.isfinite(value) else None
    if validates and not any(key.startswith(("metrics/", "val/")) for key in row):
        return None
    raise ConfigError(f"monitor='{monitor}' is not measured.{nearest(monitor, row)} There are: {', '.join(row)}")


def is_better(fitness: float | None, best: float | None, mode: str) -> bool:
    """Whether `fitness` beats `best`; the first one does, an equal one does not. mode: max or min."""
    if fitness is None or best is None:
        return fitness is not None
    return fitness > best if mode == "max" else fitness < best


def reason_to_stop(config: TrainConfig, epoch: int, best_epoch: int, elapsed_s: float) -> str:
    """Why training should end after `epoch`, or an empty string. best_epoch: -1 where there is none yet."""
    if config.patience and best_epoch >= 0 and epoch - best_epoch >= config.patience:
        return f"{config.monitor} has not improved for {config.patience} epochs (best: epoch {best_epoch + 1})"
    if config.time_limit_minutes and elapsed_s > 60 * config.time_limit_minutes:
        return f"the time limit of {config.time_limit_minutes:g} minutes has passed"
    return ""
