"""The two values of a run that change: what it computes with (`Components`) and how far it has come
(`RunState`).

Neither knows a trainer; `engine.core.run_view` shows both under the names that callbacks use.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.core.early_stopping import is_better
from engine.core.ema import ModelEMA
from engine.core.results import Row, numbered_from_one
from engine.core.schedule import Schedule

FIRST_EPOCH = "first_epoch"  # in a checkpoint: the number that its rows give the first epoch


def first_epoch(saved: Mapping[str, Any]) -> int:
    """Whether rows and best epoch of a checkpoint, and the row beside it, count from 1; those of
    earlier versions do from 0.
    """
    return int(saved.get(FIRST_EPOCH, 0))


@dataclass
class Components:
    """What a run computes with, in the order in which it is made; None: not made yet, or off."""

    data: Any = None  # what `get_dataset` gave
    model: nn.Module | None = None
    train_loader: Any = None  # what `get_dataloader` gave for train
    scheduler: Schedule | None = None
    optimizer: torch.optim.Optimizer | None = None
    ema: ModelEMA | None = None  # None with ema=false
    scaler: torch.amp.GradScaler | None = None  # does nothing outside fp16
    validator: Any = None  # what `get_validator` gave; None: no validation
    ddp: nn.Module | None = None  # `model` as several processes train it
    loss: Any = None  # where a task keeps its loss function

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
    epoch: int = 0  # the one under way, from 0
    start_epoch: int = 0  # the first one that this process trains
    batch_index: int = 0  # of the epoch, from 0
    tloss: Tensor | None = None  # mean of the loss items over the epoch so far
    metrics: Row = field(default_factory=dict)  # the epoch's row; at the end the final metrics
    fitness: float | None = None  # the epoch's `monitor`; None where it was not validated
    best_fitness: float | None = None
    best_epoch: int = 0  # from 1, as in `rows`; 0: none yet
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
            FIRST_EPOCH: 1,
            "tloss": self.tloss.cpu() if self.tloss is not None else None,
            "elapsed_s": self.trained_s,
            "params": dict(self.updated),
        }

    def load_state_dict(self, saved: dict[str, Any], device: torch.device) -> None:
        """Inverse of `state_dict`; the clock goes on from there."""
        self.epoch, self.start_epoch = saved["epoch"], saved["epoch"] + 1
        self.best_fitness = saved["best_fitness"]
        self.best_epoch = saved["best_epoch"] + 1 - first_epoch(saved)
        self.rows, self.tloss = numbered_from_one(saved["rows"]), saved["tloss"]
        if self.tloss is not None:
            self.tloss = self.tloss.to(device)
        self.trained_s, self.updated = saved["elapsed_s"], dict(saved["params"])
        self.started_s = time.monotonic() - self.trained_s
