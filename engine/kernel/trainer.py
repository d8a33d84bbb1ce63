"""The training loop of anything: a run is epochs of batches, checkpoints, validations, and events at every moment.

Knows no boxes, no orchestrator and no tracker. What differs between tasks is overridden; what happens now and then is a
callback. One epoch:

    train batches -> save last -> on_train_epoch_end -> validate -> results.csv, best -> on_model_save -> on_fit_epoch_end

`last.pt` is written once an epoch, before validation; what validation adds lies in its sidecar. A kill in between costs
that validation, which is repeated with the same result.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.config.train import TrainConfig
from engine.errors import ConfigError, TrainingError, nearest
from engine.kernel import optim, state
from engine.kernel.checkpoint import load_checkpoint, read_sidecar, save_checkpoint, write_sidecar
from engine.kernel.device import select_device
from engine.kernel.distributed import World, joined, synchronise_norms, world_from_environment
from engine.kernel.ema import ModelEMA, planned_tau
from engine.kernel.events import TRAIN_EVENTS, Callback, Callbacks
from engine.kernel.progress import EpochProgress, say_epoch
from engine.kernel.randomness import deterministic, seed_everything
from engine.kernel.results import Row, write_results
from engine.kernel.run_directory import choose_run_directory, continued_config, create_run_directory
from engine.kernel.schedule import Schedule
from engine.kernel.task import TrainingTask

log = logging.getLogger("detectflow")

NOMINAL_BATCH = 64
STEPS_TO_SPARE = 4000  # below so many iterations accumulating to the nominal batch starves the optimizer
SCALER_PATIENCE = 50  # fp16 steps in a row that may overflow while the scaler looks for its scale


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind."""

    save_dir: Path
    best: Path
    last: Path
    best_sha256: str
    metrics: dict[str, float]  # of the best model, validated alone
    best_epoch: int
    epochs: int  # epochs trained
    stop_reason: str
    data_digest: str = ""


class BaseTrainer(TrainingTask):
    """Train one model. Override `get_model`, `get_dataloader`, `get_validator`, `criterion`, and what else differs.

    Args:
        overrides: settings by name, checked against `config_class`.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError, WorkspaceError: see `engine.errors`.
    """

    config_class: type[TrainConfig] = TrainConfig

    def __init__(self, overrides: dict[str, Any] | None = None, config: TrainConfig | None = None):
        self.args = config if config is not None else self.config_class.build(overrides, "overrides")
        self.callbacks = Callbacks(TRAIN_EVENTS)
        self.world: World = world_from_environment()
        self.device = select_device(self.args.device, self.world)
        self.paths = choose_run_directory(self.args)
        self.data: Any = None
        self.model: nn.Module | None = None
        self.ema: ModelEMA | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.scheduler: Schedule | None = None
        self.train_loader: Any = None
        self.validator: Any = None
        self.epoch = self.start_epoch = 0
        self.batch: Any = None
        self.batch_index = 0
        self.loss: Tensor | None = None
        self.loss_items: Tensor | None = None
        self.tloss: Tensor | None = None
        self.metrics: dict[str, float] = {}
        self.fitness: float | None = None
        self.best_fitness: float | None = None
        self.best_epoch = -1
        self.rows: list[Row] = []
        self.stop_reason = ""
        self.stop = False  # a callback may set it: the run ends cleanly after this epoch
        self._ddp: nn.Module | None = None
        self.scaler = torch.amp.GradScaler("cuda", enabled=False)
        self._since_step = self._skipped_steps = 0
        self.started_s = 0.0

    # What a user calls ------------------------------------------------------------------------------------------

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
        model = self.get_model(cfg=self.args.model, weights=None)
        model.load_state_dict(checkpoint.weights)
        return model.eval()

    def add_callback(self, event: str, callback: Callback, may_fail: bool = False) -> None:
        """Call `callback(trainer)` at `event`, after those already there."""
        self.callbacks.add(event, callback, may_fail)

    def set_callback(self, event: str, callback: Callback) -> None:
        """Replace the callbacks of `event`."""
        self.callbacks.set(event, callback)

    def train(self) -> TrainResult:
        """Run to the end; `teardown` fires whatever happens."""
        self.stop_reason = "exception"
        self.started_s = time.monotonic()
        try:
            with joined(self.world, self.device), deterministic(self.args.deterministic):
                self._setup()
                self._fit()
                result = self._finish()
            return result
        except KeyboardInterrupt:
            self.stop_reason = "interrupted"
            raise
        finally:
            self.callbacks.run("teardown", self)

    # What a task may override, too --------------------------------------------------------------------------------

    def optimizer_step(self) -> None:
        """Unscale, check, clip, step, average. Gradients are checked before the weights change."""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.args.clip_norm or float("inf"))
        if not torch.isfinite(norm):
            self._overflow(norm)
        else:
            self._skipped_steps = 0
        self.callbacks.run("optimizer_step", self)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.callbacks.run("on_before_zero_grad", self)
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model)

    def validate(self) -> dict[str, float]:
        """Metrics of the current (averaged) weights."""
        if self.validator is None:
            return {}
        return dict(self.validator(trainer=self))

    def save_model(self, path: Path, summary: dict[str, Any] | None = None, resumable: bool = True) -> str:
        """Write a checkpoint; returns its SHA-256."""
        return save_checkpoint(state.capture(self, resumable), path, summary)

    # The run ----------------------------------------------------------------------------------------------------

    def _setup(self) -> None:
        if self.args.resume:
            self.args = continued_config(self.paths, self.args)
        self._check_shares()
        resumed = load_checkpoint(self.last) if self.args.resume and self.last.exists() else None
        self.callbacks.run("on_pretrain_routine_start", self)
        seed_everything(self.args.seed)
        self.data = self.get_dataset(self.args.data)
        start = load_checkpoint(self.args.model) if resumed is None and self.args.model.endswith(".pt") else None
        self.model = self.get_model(cfg=self.args.model, weights=start).to(self.device)
        try:
            optim.freeze_parameters(self.model, self.args.freeze)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if self.args.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if self.world.size > 1:  # before the optimizer takes hold of the parameters
            self.model = synchronise_norms(self.model, self.device)
        per_rank = self.args.batch // self.world.size
        self.train_loader = self.get_dataloader(self.data["train"], per_rank, mode="train", rank=self.world.rank)
        if len(self.train_loader) == 0:
            raise TrainingError("there are no training batches: the training split is empty")
        self._plan(len(self.train_loader))
        self.validator = self.get_validator()
        if self.world.is_main:
            create_run_directory(self.paths, self.args)
        if resumed is not None:
            state.restore(self, resumed)
            log.info("resuming after epoch %d of %d", self.start_epoch, self.args.epochs)
        if self.world.size > 1:
            self._ddp = nn.parallel.DistributedDataParallel(
                self.model, device_ids=[self.device.index] if self.device.type == "cuda" else None
            )
        self.callbacks.run("on_pretrain_routine_end", self)

    def _check_shares(self) -> None:
        batch, size = self.args.batch, self.world.size
        if batch < 1:
            raise ConfigError("batch=-1 finds a size that fits a GPU's memory, which is not built yet: give a number of images")
        if batch % size:
            raise ConfigError(f"batch={batch} images cannot be shared by {size} processes; use a multiple of {size}")
        if self.args.nproc > 1 and size == 1:
            raise ConfigError(f"nproc={self.args.nproc}: start it by torchrun --nproc-per-node {self.args.nproc} -m engine ...")

    def _plan(self, per_epoch: int) -> None:
        """Everything automatic is decided here, and written into `args` as if it had been asked for."""
        a, total = self.args, self.args.epochs * per_epoch
        optimizer = optim.choose_optimizer(a.optimizer, total)
        nominal = a.nbs if a.nbs is not None else (NOMINAL_BATCH if total >= STEPS_TO_SPARE else a.batch)
        accumulate = max(round(nominal / a.batch), 1)
        lr = a.lr0 if a.lr0 is not None else self.default_lr(optimizer)
        self.scheduler = self.build_scheduler(per_epoch, optimizer, accumulate)
        decay = a.weight_decay * a.batch * accumulate / nominal
        self.optimizer = self.build_optimizer(self.model, optimizer, lr, a.momentum, decay)
        tau = a.ema_tau_steps if a.ema_tau_steps is not None else planned_tau(self.scheduler.optimizer_steps(per_epoch))
        if a.ema:
            self.ema = ModelEMA(self.model, a.ema_decay, tau)
        chosen = {"optimizer": optimizer, "nbs": nominal, "lr0": lr, "ema_tau_steps": tau,
                  "warmup_epochs": self.scheduler.warmup / per_epoch}  # fmt: skip
        self.args = a.with_overrides({**a.model_dump(), **chosen})
        if a.amp and self.device.type == "cuda" and not torch.cuda.is_bf16_supported():
            self.scaler = torch.amp.GradScaler("cuda")

    def _fit(self) -> None:
        self.callbacks.run("on_train_start", self)
        if self.start_epoch > len(self.rows):  # killed between an epoch's checkpoint and the end of its validation
            self.epoch = self.start_epoch - 1
            self._evaluate_epoch()
        for epoch in range(self.start_epoch, self.args.epochs):
            if self.stop:
                break
            self.epoch = epoch
            self._train_epoch()
            if self.world.is_main:
                self.save_model(self.last)
            self.world.barrier()  # `last` exists for every rank
            self.callbacks.run("on_train_epoch_end", self)
            self._evaluate_epoch()
        self.stop_reason = "stopped" if self.epoch + 1 < self.args.epochs else "done"

    def _train_epoch(self) -> None:
        self.callbacks.run("on_train_epoch_start", self)
        self.model.train()
        optim.keep_frozen_norms(self.model)
        state.tell_epoch(self.train_loader, self.epoch)
        self._since_step, self.tloss = 0, None
        self.optimizer.zero_grad(set_to_none=True)
        count = len(self.train_loader)
        shown = self.args.verbose and self.world.is_main
        with EpochProgress(self.train_loader, self.epoch, self.args.epochs, self.loss_names, shown) as progress:
            for self.batch_index, self.batch in enumerate(progress):
                self.callbacks.run("on_train_batch_start", self)
                self._train_batch(self.batch_index, is_last=self.batch_index + 1 == count)
                self.callbacks.run("on_train_batch_end", self)
                progress.show(self.tloss)

    def _train_batch(self, index: int, is_last: bool) -> None:
        iteration = self.epoch * len(self.train_loader) + index
        optim.set_pace(self.optimizer, self.scheduler, iteration, self.args.lr0)
        if self.epoch == 0 and index < 3 and self.world.is_main:
            self.plot_training_samples(self.batch, index)
        self.batch = self.preprocess_batch(self.batch)
        self._since_step += 1
        step = is_last or self._since_step >= self.scheduler.accumulate_at(iteration)
        quiet = self._ddp.no_sync() if self._ddp is not None and not step else contextlib.nullcontext()
        with quiet:
            with self._autocast():
                preds = self.forward(self._ddp or self.model, self.batch)
                self.loss, self.loss_items = self.criterion(preds, self.batch)
            self._check_loss(index)
            self.scaler.scale(self.loss).backward()
        items = self.loss_items.detach().float()
        self.tloss = items if self.tloss is None else (self.tloss * index + items) / (index + 1)
        if step:
            self.optimizer_step()
            self._since_step = 0

    def _evaluate_epoch(self) -> None:
        a, row = self.args, {"epoch": self.epoch}
        row["time_s"] = round(self.elapsed_s(), 1)
        row |= self.label_loss_items(self._mean_over_ranks(self.tloss))
        due = (self.epoch + 1) % a.val_period == 0 or self.epoch + 1 == a.epochs
        measured = self.world.broadcast(self.validate() if due else {})
        row |= measured
        row |= {f"lr/{group['group']}": group["lr"] for group in self.optimizer.param_groups}
        is_best = self.record(row)
        self._write_epoch(is_best)
        self.world.barrier()
        self.callbacks.run("on_model_save", self) if self.world.is_main else None
        self.callbacks.run("on_fit_epoch_end", self)
        self.decide_stop()

    def record(self, row: Row) -> bool:
        """Take an epoch's figures in; whether it is the best so far."""
        self.metrics = row
        self.rows.append(row)
        self.fitness = self._fitness_of(row)
        is_best = self.fitness is not None and self.is_better(self.fitness)
        if is_best:
            self.best_fitness, self.best_epoch = self.fitness, int(row["epoch"])
        return is_best

    def _write_epoch(self, is_best: bool) -> None:
        if not self.world.is_main:
            return
        write_results(self.paths.results_csv, self.rows)
        if is_best or not self.best.exists():
            self.save_model(self.best, {"epoch": self.epoch, "metrics": state.numbers(self.metrics)}, resumable=False)
        if self.args.save_period and (self.epoch + 1) % self.args.save_period == 0:
            self.save_model(self.paths.weights / f"epoch{self.epoch + 1}.pt", {"epoch": self.epoch}, resumable=False)
        # The epoch is complete: a resumed run need not validate it again.
        write_sidecar(self.last, {**read_sidecar(self.last), "row": self.metrics})
        if self.args.verbose:
            say_epoch(self.metrics, self.epoch, self.args.epochs, is_best)

    def decide_stop(self) -> None:
        a, stop = self.args, self.stop
        if a.patience and self.best_epoch >= 0 and self.epoch - self.best_epoch >= a.patience:
            log.info("stopping: %s has not improved for %d epochs (best: epoch %d)", a.monitor, a.patience, self.best_epoch + 1)
            stop = True
        if a.time_limit_minutes and self.elapsed_s() > 60 * a.time_limit_minutes:
            log.info("stopping: the time limit of %g minutes has passed", a.time_limit_minutes)
            stop = True
        self.stop = self.world.broadcast(stop)

    def _finish(self) -> TrainResult:
        final: dict[str, float] = {}
        if self.validator is not None and self.best.exists():
            weights = load_checkpoint(self.best, self.device).weights
            model = (self.ema.module if self.ema is not None else self.model)
            model.load_state_dict(weights)
            final = self.world.broadcast(dict(self.validator(model=model, trainer=self, final=True)))
            self.metrics = final
        self.callbacks.run("on_final_eval_end", self)
        if self.world.is_main:
            self.plot_metrics()
        self.callbacks.run("on_train_end", self)
        return TrainResult(
            save_dir=self.save_dir, best=self.best, last=self.last, best_sha256=read_sidecar(self.best).get("sha256", ""),
            metrics=state.numbers(final), best_epoch=self.best_epoch, epochs=len(self.rows), stop_reason=self.stop_reason,
            data_digest=self.data_digest(),
        )  # fmt: skip

    # Small questions --------------------------------------------------------------------------------------------

    def _autocast(self) -> Any:
        if not (self.args.amp and self.device.type == "cuda"):
            return contextlib.nullcontext()
        kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.autocast("cuda", dtype=kind)

    def _check_loss(self, index: int) -> None:
        if torch.isfinite(self.loss):
            return
        terms = ", ".join(f"{name} {float(v):.4g}" for name, v in zip(self.loss_names, self.loss_items, strict=True))
        names = ", ".join(self.batch_names(self.batch)[:8]) or "unknown"
        raise TrainingError(
            f"the loss is not finite at epoch {self.epoch + 1}, batch {index + 1}: {terms}. Images: {names}. "
            f"The weights were not changed by it. Lower lr0 (now {self.args.lr0:g}) or look at these images; {self._kept()}"
        )

    def _overflow(self, norm: Tensor) -> None:
        self._skipped_steps += 1
        if self.scaler.is_enabled() and self._skipped_steps < SCALER_PATIENCE:
            return  # the scaler skips this step and lowers its scale
        raise TrainingError(
            f"the gradient is not finite ({float(norm)}) at epoch {self.epoch + 1}; the optimizer did not step. "
            f"Lower lr0 (now {self.args.lr0:g}) or clip_norm (now {self.args.clip_norm:g}); {self._kept()}"
        )

    def _kept(self) -> str:
        return f"the last good checkpoint is {self.last}" if self.last.exists() else "there is no checkpoint yet"

    def _fitness_of(self, row: Row) -> float | None:
        if row.get(self.args.monitor) is not None:
            return float(row[self.args.monitor])
        if self.validator is not None and not any(key.startswith(("metrics/", "val/")) for key in row):
            return None  # an epoch without validation
        hint = nearest(self.args.monitor, row)
        raise ConfigError(f"monitor='{self.args.monitor}' is not measured.{hint} There are: {', '.join(row)}")

    def is_better(self, fitness: float) -> bool:
        if self.best_fitness is None:
            return True
        return fitness > self.best_fitness if self.args.monitor_mode == "max" else fitness < self.best_fitness

    def _mean_over_ranks(self, items: Tensor | None) -> Tensor | None:
        return items if items is None else self.world.sum(items) / self.world.size

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_s
