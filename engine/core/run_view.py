"""What callbacks, subclasses and scripts read of a run and call on it. `trainer.epoch` is
`trainer.state.epoch`, `trainer.model` is `trainer.components.model`: no attribute of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.core.checkpoint import load_checkpoint
from engine.core.ema import ModelEMA
from engine.core.events import Callback, Callbacks
from engine.core.old_names import OldName
from engine.core.results import Row
from engine.core.run_state import Components, RunState
from engine.core.schedule import Schedule
from engine.core.task import TrainingTask
from engine.errors import ConfigError, nearest
from engine.types import RunPaths


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


class RunView(TrainingTask):
    """A task that is run: what it is, what it is made of, how far it has come."""

    callbacks: Callbacks
    paths: RunPaths
    components: Components
    state: RunState

    # From `on_pretrain_routine_end` on; None before.
    data: Any = Forwarded("components")  # what `get_dataset` gave
    model: nn.Module | None = Forwarded("components")  # the network being trained
    ema: ModelEMA | None = Forwarded("components")  # its average; None with ema=false
    optimizer: torch.optim.Optimizer | None = Forwarded("components")  # of `build_optimizer`
    scheduler: Schedule | None = Forwarded("components")  # of `build_scheduler`
    scaler: torch.amp.GradScaler | None = Forwarded("components")  # does nothing outside fp16
    train_loader: Any = Forwarded("components")  # what `get_dataloader` gave for train
    validator: Any = Forwarded("components")  # what `get_validator` gave

    batch_size: int = Forwarded("state")  # samples per step over all ranks
    epoch: int = Forwarded("state")  # the one under way, from 0
    start_epoch: int = Forwarded("state")  # the first one that this process trains
    batch_index: int = Forwarded("state")  # of the epoch, from 0
    tloss: Tensor | None = Forwarded("state")  # mean of `loss_items` over the epoch so far
    metrics: Row = Forwarded("state")  # the epoch's row of results.csv; at the end the final ones
    fitness: float | None = Forwarded("state")  # the epoch's `monitor`; None: not validated
    best_fitness: float | None = Forwarded("state")  # of `best_epoch`
    best_epoch: int = Forwarded("state")  # from 1, as in results.csv; 0: none yet
    rows: list[Row] = Forwarded("state")  # the rows of results.csv
    stop: bool = Forwarded("state")  # a callback may set it: the run ends after this epoch
    stop_reason: str = Forwarded("state")  # done, stopped, interrupted or exception
    updated: dict[str, Any] = Forwarded("state")  # what `update_params` changed
    epoch_steps: int = Forwarded("state")  # optimizer steps of the epoch so far
    started_s: float = Forwarded("state")  # by the clock
    trained_s: float = Forwarded("state")  # seconds until the newest epoch was trained

    record = OldName("`label_loss_items`, `validate` or the validator's `get_stats` make the row")
    decide_stop = OldName("a callback at `on_fit_epoch_end` that sets `trainer.stop`")
    figure_names = OldName("`metric_names` or `declared_metrics` of the validator's class")

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

    def best_model(self) -> nn.Module:
        """The best weights in a model, in eval mode, on the CPU."""
        checkpoint = load_checkpoint(self.best)
        model = self.make_model(cfg=self.args.model, weights=checkpoint)
        model.load_state_dict(checkpoint.weights)
        return model.eval()

    def add_callback(self, event: str, callback: Callback, may_fail: bool = False) -> None:
        """Call `callback(trainer)` at `event`, after those already there."""
        self.callbacks.add(event, callback, may_fail)

    def set_callback(self, event: str, callback: Callback) -> None:
        """Replace the callbacks of `event`."""
        self.callbacks.set(event, callback)

    def update_params(self, **changes: Any) -> None:
        """Change settings while the run goes on, for example `lr0`; what is meant to be repeated
        after a resume belongs into a callback at `on_train_epoch_start`. Fires `on_params_update`.

        Raises:
            ConfigError: a wrong value, or a setting the run has used already.
        """
        for key in changes:
            if key not in self.live_params:
                raise ConfigError(
                    f"'{key}' cannot change during a run.{nearest(key, self.live_params)} "
                    f"These can: {', '.join(sorted(self.live_params))}"
                )
        self.args = self.args.with_overrides(changes, "update_params")
        self.updated |= changes
        self.apply_params()
        self.callbacks.run("on_params_update", self)
