"""The two values of a run that change: what it computes with (`Components`) and how far it has come
(`RunState`).

Neither knows a trainer. `RunView` shows both under the names that callbacks and subclasses use:
`trainer.epoch` is `trainer.state.epoch`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.core.early_stopping import is_better
from engine.core.ema import ModelEMA
from engine.core.results import Row
from engine.core.schedule import Schedule
from engine.types import RunPaths


@dataclass
class Components:
    """What a run computes with, in the order in which it is made; None: not made yet, or off."""

    model: nn.Module | None = None
    train_loader: Any = None  # what `get_dataloader` gave for train
    scheduler: Schedule | None = None
    optimizer: torch.optim.Optimizer | None = None
    ema: ModelEMA | None = None  # None with ema=false
    scaler: torch.amp.GradScaler | None = None  # does nothing outside fp16
    validator: Any = None  # what `get_validator` gave; None: no validation
    ddp: nn.Module | None = None  # `model` as several processes train it

    @property
    def evaluated(self) -> nn.Module:
        """The weights to measure and to keep: averaged ones where there are."""
        return self.ema.module if self.ema is not None else self.model

    def without_sync(self, steps: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients before an optimizer step, not where they just add up."""
        if self.ddp is None or steps:
            return contextlib.nullcontext()
        return self.ddp.no_sync()


@dataclass
class RunState:
    """How far a run has come: numbers, and the rows of results.csv."""

    batch_size: int  # samples per step over all ranks; -1 until it is found, halved where too many
    epoch: int = 0  # from 0
    start_epoch: int = 0  # the first one that this process trains
    batch_index: int = 0  # of the epoch, from 0
    tloss: Tensor | None = None  # mean of the loss items over the epoch so far
    metrics: Row = field(default_factory=dict)  # the epoch's row; at the end the final metrics
    fitness: float | None = None  # the epoch's `monitor`; None where it was not validated
    best_fitness: float | None = None
    best_epoch: int = -1  # from 0; -1: none yet
    rows: list[Row] = field(default_factory=list)
    stop: bool = False  # the run ends after this epoch
    stop_reason: str = ""  # done, stopped, interrupted or exception; empty before `train`
    updated: dict[str, Any] = field(default_factory=dict)  # what `update_params` changed
    started_s: float = 0.0  # by the clock
    trained_s: float = 0.0  # seconds until the newest epoch was trained
    epoch_steps: int = 0  # optimizer steps of the epoch so far
    batches_since_step: int = 0
    skipped_steps: int = 0  # in a row, by the scaler
    samples_since_step: list[str] = field(default_factory=list)  # names

    def elapsed_s(self) -> float:
        """Seconds of the run, those before an interruption included."""
        return time.monotonic() - self.started_s

    def from_the_start(self) -> RunState:
        """As if nothing had been trained. What goes on: the clock, and a wish to stop."""
        return RunState(self.batch_size, stop=self.stop, started_s=self.started_s)

    def begin_epoch(self) -> None:
        """Forget what belonged to the epoch before."""
        self.tloss, self.epoch_steps = None, 0
        self.batches_since_step, self.samples_since_step = 0, []

    def count_batch(self, items: Tensor, names: Iterable[str]) -> None:
        """Take the loss items of batch `batch_index` into the mean, before a possible step."""
        index, items = self.batch_index, items.detach().float()
        self.tloss = items if self.tloss is None else (self.tloss * index + items) / (index + 1)
        self.samples_since_step += names

    def count_step(self) -> None:
        """The gradients that added up are used."""
        self.epoch_steps += 1
        self.batches_since_step, self.samples_since_step = 0, []

    def record(self, row: Row, fitness: float | None, mode: str) -> bool:
        """Take an epoch's row in; whether it is the best so far. mode: max or min."""
        self.metrics, self.fitness = row, fitness
        self.rows.append(row)
        is_best = is_better(fitness, self.best_fitness, mode)
        if is_best:
            self.best_fitness, self.best_epoch = fitness, int(row["epoch"])
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors on the CPU and plain data."""
        return {
            "epoch": self.epoch,
            "best_fitness": self.best_fitness,
            "best_epoch": self.best_epoch,
            "rows": list(self.rows),
            "tloss": self.tloss.cpu() if self.tloss is not None else None,
            "elapsed_s": self.trained_s,
            "params": dict(self.updated),
        }

    def load_state_dict(self, saved: dict[str, Any], device: torch.device) -> None:
        """Inverse of `state_dict`; the clock goes on from there."""
        self.epoch, self.start_epoch = saved["epoch"], saved["epoch"] + 1
        self.best_fitness, self.best_epoch = saved["best_fitness"], saved["best_epoch"]
        self.rows, self.tloss = list(saved["rows"]), saved["tloss"]
        if self.tloss is not None:
            self.tloss = self.tloss.to(device)
        self.trained_s, self.updated = saved["elapsed_s"], dict(saved["params"])
        self.started_s = time.monotonic() - self.trained_s


class Forwarded:
    """An attribute that is one of the same name in the value `owner`, to read and to write."""

    def __init__(self, owner: str):
        self.owner = owner

    def __set_name__(self, _: type, name: str) -> None:
        self.name = name

    def __get__(self, run: Any, _: type | None = None) -> Any:
        return self if run is None else getattr(getattr(run, self.owner), self.name)

    def __set__(self, run: Any, value: Any) -> None:
        setattr(getattr(run, self.owner), self.name, value)


class RunView:
    """What callbacks and subclasses read of a run."""

    paths: RunPaths
    components: Components
    state: RunState

    model: nn.Module | None = Forwarded("components")  # from `on_pretrain_routine_end` on
    # the average of its weights; None with ema=false
    ema: ModelEMA | None = Forwarded("components")
    optimizer: torch.optim.Optimizer | None = Forwarded("components")
    scheduler: Schedule | None = Forwarded("components")
    scaler: torch.amp.GradScaler | None = Forwarded("components")
    train_loader: Any = Forwarded("components")  # what `get_dataloader` gave for train
    validator: Any = Forwarded("components")  # what `get_validator` gave

    # samples per step over all ranks; found where -1 is asked, halved where too many
    batch_size: int = Forwarded("state")
    epoch: int = Forwarded("state")  # from 0
    start_epoch: int = Forwarded("state")  # the first one that this process trains
    batch_index: int = Forwarded("state")  # of the epoch, from 0
    tloss: Tensor | None = Forwarded("state")  # mean of `loss_items` over the epoch so far
    metrics: Row = Forwarded("state")  # the epoch's row of results.csv; at the end the final ones
    fitness: float | None = Forwarded("state")  # the epoch's `monitor`; None: not validated
    best_fitness: float | None = Forwarded("state")
    best_epoch: int = Forwarded("state")  # from 0; -1: none yet
    rows: list[Row] = Forwarded("state")  # the rows of results.csv
    stop: bool = Forwarded("state")  # a callback may set it: the run ends after this epoch
    stop_reason: str = Forwarded("state")  # done, stopped, interrupted or exception
    updated: dict[str, Any] = Forwarded("state")  # what `update_params` changed
    epoch_steps: int = Forwarded("state")  # optimizer steps of the epoch so far
    started_s: float = Forwarded("state")  # by the clock
    trained_s: float = Forwarded("state")  # seconds until the newest epoch was trained

    @property
    def last(self) -> Path:
        """Checkpoint of the newest epoch."""
        return self.paths.last

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch by `monitor`."""
        return self.paths.best

    @property
    def save_dir(self) -> Path:
        """The run directory."""
        return self.paths.root

    def elapsed_s(self) -> float:
        """Seconds of the run, those before an interruption included."""
        return self.state.elapsed_s()
