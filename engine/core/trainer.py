"""The training loop of anything: a run is epochs of batches, checkpoints, validations, and events
at every moment.

Knows no boxes, no orchestrator and no tracker. What differs between tasks is overridden; what
happens now and then is a callback. One epoch:

    train batches -> save last -> on_train_epoch_end -> validate -> results.csv, best ->
    on_model_save -> on_fit_epoch_end

`last.pt` is written once an epoch, before validation; what validation adds lies in its sidecar. A
kill in between costs that validation, which is repeated with the same result.
"""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.config.train import TrainConfig
from engine.core import amp, autobatch, distributed, early_stopping, optim, setup, train_state
from engine.core.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_sidecar,
    save_checkpoint,
    write_sidecar,
)
from engine.core.distributed import World, select_device
from engine.core.ema import ModelEMA
from engine.core.events import TRAIN_EVENTS, Callback, Callbacks
from engine.core.peer_failure import terminable
from engine.core.plugins import add_own_code
from engine.core.progress import EpochProgress
from engine.core.randomness import deterministic, seed_everything, seed_of, undisturbed
from engine.core.results import Row, TrainResult, json_row, plain_figures
from engine.core.run_directory import choose_run_directory, claim_run_directory, continued_config
from engine.core.run_lock import RunLock
from engine.core.schedule import Schedule
from engine.core.task import TrainingTask
from engine.errors import ConfigError, TrainingError, nearest

log = logging.getLogger("detectflow")


class BaseTrainer(TrainingTask):
    """Train one model. Override `get_model`, `get_dataloader`, `get_validator`, `criterion`, and
    what else differs.

    Args:
        overrides: settings by name, checked against `config_class`.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError, WorkspaceError: see `engine.errors`.
    """

    config_class: type[TrainConfig] = TrainConfig

    def __init__(self, overrides: dict[str, Any] | None = None, config: TrainConfig | None = None):
        if config is not None and not isinstance(config, self.config_class):
            wanted = self.config_class.__name__
            raise ConfigError(
                f"config is a {type(config).__name__}, not a {wanted}; settings by name are given "
                "as overrides="
            )
        self.args = (
            config if config is not None else self.config_class.build(overrides, "overrides")
        )
        self.callbacks = Callbacks(TRAIN_EVENTS)
        self.world: World = distributed.world_from_environment()
        self.device = select_device(self.args.device, self.world)
        self.paths = choose_run_directory(self.args)
        # images per step over all ranks; found where -1 is asked, halved where too many
        self.batch_size = self.args.batch
        self._lock = RunLock()
        self.meter = autobatch.meter_of(self.device)
        self._asked = self.args  # before anything automatic is decided
        self.updated: dict[str, Any] = {}  # what `update_params` changed
        self.data: Any = None  # what `get_dataset` gave
        # the network being trained, from `on_pretrain_routine_end` on
        self.model: nn.Module | None = None
        self.ema: ModelEMA | None = None  # the average of its weights; None with ema=false
        self.optimizer: torch.optim.Optimizer | None = None
        self.scheduler: Schedule | None = None
        self.train_loader: Any = None  # what `get_dataloader` gave for train
        self.validator: Any = None  # what `get_validator` gave
        self.epoch = self.start_epoch = 0  # from 0
        self.batch: Any = None  # the batch under way
        self.batch_index = 0  # of the epoch, from 0
        self.loss: Tensor | None = None  # of the batch, a scalar
        # of the batch, one per name in `loss_names`, detached
        self.loss_items: Tensor | None = None
        self.tloss: Tensor | None = None  # mean of `loss_items` over the epoch so far
        self.metrics: dict[
            str, float
        ] = {}  # the epoch's line of results.csv; at the end the final figures
        self.fitness: float | None = None  # the epoch's `monitor`; None where it was not validated
        self.best_fitness: float | None = None
        self.best_epoch = -1  # from 0; -1: none yet
        self.rows: list[Row] = []  # the lines of results.csv
        self.stop_reason = ""  # done, stopped, interrupted or exception; empty before `train`
        self.stop = False  # a callback may set it: the run ends cleanly after this epoch
        self._ddp: nn.Module | None = None
        self.scaler = amp.make_scaler(False, self.device)
        self.epoch_steps = 0  # optimizer steps of the epoch so far
        self._since_step = self._skipped_steps = 0
        self._step_names: list[str] = []  # images since the last optimizer step
        # by the clock; seconds until the newest epoch was trained
        self.started_s = self.trained_s = 0.0

    # What a user calls ----------------------------------------------------------------------------

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

    def train(self) -> TrainResult:
        """Run to the end; `teardown` fires whatever happens.

        Raises:
            KeyboardInterrupt: Ctrl-C. Terminated: SIGTERM, unless the program has a handler of its
                own; exit code 143."""
        self.started_s = time.monotonic()
        failed = True
        with terminable(self.world.size > 1), self._lock:
            try:
                with (
                    distributed.joined(self.world, self.device),
                    deterministic(self.args.deterministic),
                ):
                    self._setup()
                    autobatch.fit_or_halve(self, self._asked, self._fit, self._start_over)
                    result = self._finish()
                failed = False
                return result
            except BaseException as error:
                self.stop_reason = (
                    "interrupted" if isinstance(error, KeyboardInterrupt) else "exception"
                )
                raise
            finally:
                self.callbacks.run_all("teardown", self, failed)

    # What a task may override, too ----------------------------------------------------------------

    def optimizer_step(self) -> None:
        """Unscale, check, clip, step, average. Gradients are checked before the weights change.

        fp16 gradients may overflow while the scaler looks for its scale: such a step is none, no
        event and no average counts it. (The pace is a function of the iteration and counts no
        steps.)"""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.args.clip_norm or float("inf"))
        self._skipped_steps = 0 if torch.isfinite(norm) else self._skipped_steps + 1
        if not self._skipped_steps:
            self.callbacks.run("optimizer_step", self)
            self.scaler.step(self.optimizer)
            self.callbacks.run("on_before_zero_grad", self)
            if self.ema is not None:
                self.ema.update(self.model)
        elif not self.scaler.is_enabled() or self._skipped_steps >= amp.SCALER_PATIENCE_STEPS:
            raise amp.gradient_not_finite(self, self._step_names)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def validate(self) -> dict[str, float]:
        """Metrics of the current (averaged) weights."""
        if self.validator is None:
            return {}
        return self.validator(trainer=self)

    def save_model(self) -> None:
        """Write `last`, all state of the run. Called once an epoch by rank 0, before validation."""
        save_checkpoint(train_state.capture(self, resumable=True), self.last)

    # The run --------------------------------------------------------------------------------------

    def _setup(self) -> None:
        if self.world.is_main:
            self.paths = claim_run_directory(self.paths, self.args, self._lock)
        self.paths = self.world.broadcast(self.paths)
        if self.args.resume:
            self.args = continued_config(self.paths, self.args)
        add_own_code(self, self.args.trainer, self.args.callbacks)
        self.batch_size = self.args.batch
        self._asked = self.args
        distributed.check_shares(self.args.batch, self.args.nproc, self.world)
        if self.args.batch < 1:
            autobatch.check_can_be_found(self.meter)
        resumed = train_state.newest(self) if self.args.resume else None
        self.callbacks.run("on_pretrain_routine_start", self)
        seed_everything(self.args.seed)
        self.data = self.get_dataset(data=self.args.data)
        self._build(resumed)

    def _build(self, resumed: Checkpoint | None) -> None:
        setup.make_parts(self, resumed)
        if self.world.size > 1:
            self._ddp = nn.parallel.DistributedDataParallel(
                self.model,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                find_unused_parameters=self.find_unused_parameters,
            )
        self.callbacks.run("on_pretrain_routine_end", self)

    @property
    def resolved(self) -> TrainConfig:
        """The settings with everything automatic decided, also the batch: what args.yaml holds."""
        return self.args.with_overrides({"batch": self.batch_size})

    def _start_over(self) -> None:
        """As if nothing had been trained. What the first attempt made goes before its successor
        comes: memory is short.
        """
        self.args, self.updated = self._asked, {}
        self.model = self.ema = self.optimizer = self.scheduler = self.train_loader = (
            self.validator
        ) = None
        self.batch = self.loss = self.loss_items = self.tloss = self.fitness = self.best_fitness = (
            None
        )
        self.rows, self.metrics, self.best_epoch = [], {}, -1
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._build(resumed=None)

    def _fit(self) -> None:
        self.callbacks.run("on_train_start", self)
        if self.start_epoch > len(
            self.rows
        ):  # killed between an epoch's checkpoint and the end of what follows it
            self.epoch = self.start_epoch - 1
            self._complete_epoch()
        for epoch in range(self.start_epoch, self.args.epochs):
            if self.stop:
                break
            self.epoch = epoch
            self._train_epoch()
            self.trained_s = self.elapsed_s()
            if self.world.is_main:
                self.save_model()
            self._complete_epoch()
        self.stop_reason = "stopped" if self.epoch + 1 < self.args.epochs else "done"

    def _train_epoch(self) -> None:
        self.callbacks.run("on_train_epoch_start", self)
        self.model.train()
        optim.keep_frozen_norms(self.model)
        train_state.set_epoch(self.train_loader, self.epoch)
        if self.world.size > 1:
            seed_everything(seed_of(self.args.seed, self.epoch, self.world.rank))
        self._since_step, self._step_names, self.tloss, self.epoch_steps = 0, [], None, 0
        self.optimizer.zero_grad(set_to_none=True)
        count = len(self.train_loader)
        shown = self.args.verbose and self.world.is_main
        with EpochProgress(
            self.train_loader, self.epoch, self.args.epochs, self.loss_names, shown
        ) as progress:
            for self.batch_index, self.batch in enumerate(progress):
                self.callbacks.run("on_train_batch_start", self)
                self._train_batch(self.batch_index, is_last=self.batch_index + 1 == count)
                self.callbacks.run("on_train_batch_end", self)
                progress.show(self.tloss)
        setup.check_count(self, count, came=self.batch_index + 1 if self.tloss is not None else 0)
        self.tloss = self.world.sum(self.tloss) / self.world.size

    def _train_batch(self, index: int, is_last: bool) -> None:
        iteration = self.epoch * len(self.train_loader) + index
        optim.apply_schedule(self.optimizer, self.scheduler, iteration, self.args.lr0)
        self.batch = self.preprocess_batch(batch=self.batch)
        if self.epoch == 0 and index < 3 and self.world.is_main:
            self.plot_training_samples(batch=self.batch, index=index)
        self._since_step += 1
        step = is_last or self._since_step >= self.scheduler.accumulate_at(iteration)
        quiet = (
            self._ddp.no_sync() if self._ddp is not None and not step else contextlib.nullcontext()
        )
        with quiet:
            with amp.autocast(self.args.amp, self.device):
                preds = self.forward(model=self._ddp or self.model, batch=self.batch)
                self.loss, self.loss_items = self.checked_loss(
                    self.criterion(preds=preds, batch=self.batch)
                )
            if not torch.isfinite(self.loss):
                raise amp.loss_not_finite(self)
            if not self.loss.requires_grad:
                raise TrainingError(
                    f"the loss that {type(self).__name__}.criterion returned does not depend on "
                    "the model's parameters (no gradient leads back to them)"
                )
            self.scaler.scale(self.loss).backward()
        items = self.loss_items.detach().float()
        self.tloss = items if self.tloss is None else (self.tloss * index + items) / (index + 1)
        self._step_names += self.batch_names(self.batch)
        if step:
            self.optimizer_step()
            self._since_step, self._step_names, self.epoch_steps = 0, [], self.epoch_steps + 1

    def _complete_epoch(self) -> None:
        """What follows an epoch's checkpoint. A resumed run repeats all of it or nothing, so it
        leaves no trace in the random numbers, and its events rather come twice than not at all.
        """
        with undisturbed():
            self.world.barrier()  # `last` exists for every rank
            self.callbacks.run("on_train_epoch_end", self)
            self._evaluate_epoch()
        if self.world.is_main:
            write_sidecar(
                self.last,
                {**read_sidecar(self.last), "row": json_row(self.metrics), "stop": self.stop},
            )

    def _evaluate_epoch(self) -> None:
        a, row = self.args, {"epoch": self.epoch}
        row["time_s"] = round(self.trained_s, 1)
        row |= self.label_loss_items(items=self.tloss)
        due = (self.epoch + 1) % a.val_period == 0 or self.epoch + 1 == a.epochs
        measured = self.world.broadcast(plain_figures(self.validate(), "validation") if due else {})
        row |= measured
        row |= {f"lr/{group['group']}": group["lr"] for group in self.optimizer.param_groups}
        is_best = self.record(row)
        if self.world.is_main:
            train_state.write_epoch(self, is_best)
        self.world.barrier()
        self.callbacks.run("on_model_save", self) if self.world.is_main else None
        self.callbacks.run("on_fit_epoch_end", self)
        self.decide_stop()

    def record(self, row: Row) -> bool:
        """Take an epoch's figures in; whether it is the best so far."""
        self.metrics = row
        self.rows.append(row)
        self.fitness = early_stopping.fitness_of(row, self.args.monitor, self.validator is not None)
        is_best = early_stopping.is_better(self.fitness, self.best_fitness, self.args.monitor_mode)
        if is_best:
            self.best_fitness, self.best_epoch = self.fitness, int(row["epoch"])
        return is_best

    def decide_stop(self) -> None:
        why = early_stopping.reason_to_stop(
            self.args, self.epoch, self.best_epoch, self.elapsed_s()
        )
        if why and self.world.is_main:
            log.info("stopping: %s", why)
        self.stop = self.world.any(self.stop or bool(why))

    def _finish(self) -> TrainResult:
        final: dict[str, float] = {}
        if self.validator is not None and self.best.exists():
            weights = load_checkpoint(self.best, self.device).weights
            model = self.ema.module if self.ema is not None else self.model
            model.load_state_dict(weights)
            final = plain_figures(
                self.validator(model=model, trainer=self, final=True), "validation"
            )
            final = self.world.broadcast(final)
            self.metrics = final
        self.callbacks.run("on_final_eval_end", self)
        if self.world.is_main:
            self.plot_metrics()
        self.callbacks.run("on_train_end", self)
        return TrainResult(
            save_dir=self.save_dir,
            best=self.best,
            last=self.last,
            best_sha256=read_sidecar(self.best).get("sha256", ""),
            metrics=train_state.numbers(final),
            best_epoch=self.best_epoch if self.best_epoch >= 0 else self.epoch,
            epochs=len(self.rows),
            stop_reason=self.stop_reason,
            data_digest=self.data_digest(),
        )

    # Small questions ------------------------------------------------------------------------------

    def figure_names(self) -> tuple[str, ...] | None:
        """What `monitor` may be, where that is known before training; None: code of the user's own
        may add figures.
        """
        own = type(self)
        if (
            own.validate is not BaseTrainer.validate
            or own.label_loss_items is not BaseTrainer.label_loss_items
        ):
            return None
        if "validate" in vars(self) or self.callbacks.has_user_callbacks("on_val_end"):
            return None
        measured = early_stopping.declared_figures(self.validator)
        if measured is None:
            return None
        losses = [
            f"{kind}/{name}"
            for kind in ("val", "train")
            for name in self.loss_names
            if kind == "train" or self.validator
        ]
        return (
            *measured,
            *losses,
            *(f"lr/{group['group']}" for group in self.optimizer.param_groups),
        )

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s
