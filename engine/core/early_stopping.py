"""Which epoch is best, and whether training should stop: plain functions of a run's metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from engine.config.train import TrainConfig
from engine.core.validator import BaseValidator
from engine.errors import ConfigError, nearest

log = logging.getLogger("detectflow")

FIRST_METRIC = ""  # as `monitor`: the first metric that validation returns
TRAINING_LOSS = "train/"  # likewise: the sum of the columns that begin so


def what_decides(config: TrainConfig, validator: Any) -> tuple[str, str]:
    """(monitor, max or min): the settings', but where nothing is validated and none but the default
    one was chosen the training loss.
    """
    default = type(config).model_fields["monitor"].default
    if validator is None and config.monitor in {FIRST_METRIC, default}:
        return TRAINING_LOSS, "min"
    return config.monitor, config.monitor_mode


def check_monitor(monitor: str, names: Iterable[str] | None) -> None:
    """Refuse a `monitor` that will not be measured before anything is trained.

    names: all that will be measured; None: not known before the first validation.

    Raises:
        ConfigError: no such metric; names what there is.
    """
    if names is not None and monitor not in (FIRST_METRIC, TRAINING_LOSS, *names):
        raise _not_measured(monitor, names)


def known_metrics(
    validator: Any, loss_names: Sequence[str], optimizer: torch.optim.Optimizer
) -> list[str] | None:
    """The columns of results.csv that `monitor` may name; None: the validator does not say what it
    will return, or more may come.
    """
    measured: Sequence[str] = ()
    if validator is not None:
        if not isinstance(validator, BaseValidator):
            return None
        if validator.callbacks.has_user_callbacks("on_val_end"):
            return None
        if (declared := validator.declared_metrics()) is None:
            return None
        measured = declared
    kinds = ("train",) if validator is None else ("val", "train")
    losses = [f"{kind}/{name}" for kind in kinds for name in loss_names]
    return [*measured, *losses, *(f"lr/{group['group']}" for group in optimizer.param_groups)]


def fitness_of(row: Mapping[str, Any], monitor: str, validates: bool) -> float | None:
    """The metric that decides; None for an epoch without validation, or where the data say nothing
    about it.

    Raises:
        ConfigError: no such metric; names what there is.
    """
    if monitor == FIRST_METRIC:
        monitor = next((key for key in row if key.startswith("metrics/")), FIRST_METRIC)
    if monitor == TRAINING_LOSS:
        losses = [row[key] for key in row if key.startswith(TRAINING_LOSS)]
        return float(sum(losses)) if losses and all(map(math.isfinite, losses)) else None
    if monitor in row:
        value = row[monitor]  # None: nothing to measure it on; nan: nothing would ever beat it
        return float(value) if value is not None and math.isfinite(value) else None
    if monitor == FIRST_METRIC:
        return None
    if validates and not any(key.startswith(("metrics/", "val/")) for key in row):
        return None
    raise _not_measured(monitor, row)


def _not_measured(monitor: str, names: Iterable[str]) -> ConfigError:
    return ConfigError(
        f"monitor='{monitor}' is not measured.{nearest(monitor, names)} There are: "
        f"{', '.join(names)}"
    )


def is_better(fitness: float | None, best: float | None, mode: str) -> bool:
    """Whether `fitness` beats `best`; the first one does, an equal one does not. mode: max or
    min.
    """
    if fitness is None or best is None:
        return fitness is not None
    return fitness > best if mode == "max" else fitness < best


def should_stop(
    config: TrainConfig,
    epoch: int,
    best_epoch: int,
    elapsed_s: float,
    say: bool = True,
    monitor: str | None = None,
) -> bool:
    """Whether training should end after `epoch`. Both from 1; best_epoch: 0, there is none yet.
    say: log why. monitor: what decides, where that is not the settings'.
    """
    monitor = config.monitor if monitor is None else monitor
    monitor = "the training loss" if monitor == TRAINING_LOSS else monitor
    if config.patience and best_epoch and epoch - best_epoch >= config.patience:
        if say:
            log.info(
                "stopping: %s has not improved for %s epochs (best: epoch %s)",
                monitor or "the first metric",
                config.patience,
                best_epoch,
            )
        return True
    if config.time_limit_minutes and elapsed_s > 60 * config.time_limit_minutes:
        if say:
            minutes = config.time_limit_minutes
            log.info("stopping: the time limit of %g minutes has passed", minutes)
        return True
    return False
