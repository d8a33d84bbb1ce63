"""The training loop of anything: epochs of batches, checkpoints, validations, and an event at every
moment.

    train()
      on_pretrain_routine_start   configuration final; then data, model, loader, optimizer, average
      on_pretrain_routine_end
      on_train_start
      for each epoch:
        on_train_epoch_start
        for each batch:           learning rate of the iteration
          on_train_batch_start
          forward, loss, check finite, backward
          optimizer_step          clip, check finite; where enough gradients have added up
          on_before_zero_grad     the weights have changed; then the average
          on_train_batch_end
        save last.pt              the only checkpoint to resume from, before validation
        on_train_epoch_end
        validate                  on_val_start, on_val_batch_start, on_val_batch_end, on_val_end
        results.csv, best.pt
        on_model_save, on_fit_epoch_end
      validate best.pt            on_val_... as above; what it found is added to the file
      on_final_eval_end, on_train_end
      teardown                    always

What validation adds to an epoch lies in the sidecar of `last.pt`: a kill in between costs that
validation, which is repeated with the same result. Knows no boxes, no images, no orchestrator and
no tracker. What differs between tasks is overridden; what happens now and then is a callback.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from engine.config.train import TrainConfig
from engine.core import (
    amp,
    autobatch,
    distributed,
    early_stopping,
    optim,
    randomness,
    results,
    run_directory,
    setup,
    train_state,
)
from engine.core.batch import set_epoch
from engine.core.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_sidecar,
    save_checkpoint,
    write_sidecar,
)
from engine.core.distributed import World
from engine.core.events import TRAIN_EVENTS, Callbacks
from engine.core.peer_failure import terminable
from engine.core.plugins import add_own_code
from engine.core.progress import EpochProgress, log_epoch, log_start
from engine.core.results import Row, TrainResult
from engine.core.run_lock import RunLock
from engine.core.run_state import Components, RunState, first_epoch
from engine.core.run_view import RunView
from engine.errors import ConfigError, TrainingError

log = logging.getLogger("detectflow")

PLOTTED_BATCHES = 3  # the first ones of a run


class BaseTrainer(RunView):
    """Train one model. Override `get_model`, `get_dataloader`, `get_validator`, `criterion`, and
    what else differs.

    Args:
        overrides: settings by name, checked against `config_class`.

    Raises:
        ConfigError, DataError, CheckpointError, TrainingError, WorkspaceError: see `engine.errors`.
    """

    config_class: type[TrainConfig] = TrainConfig

    def __init__(self, overrides: dict[str, Any] | None = None, config: TrainConfig | None = None):
        if config is None:
            config = self.config_class.build(overrides, "overrides")
        elif not isinstance(config, self.config_class):
            wanted = self.config_class.__name__
            raise ConfigError(
                f"config is a {type(config).__name__}, not a {wanted}; settings by name are given "
                "as overrides="
            )
        self.args = config  # the settings, frozen; what a run decides makes a new value
        self.callbacks = Callbacks(TRAIN_EVENTS)  # by event
        self.world: World = distributed.world_from_environment()  # this process among its peers
        self.device = distributed.select_device(config.device, self.world)  # where it computes
        self.paths = run_directory.choose_run_directory(config)  # of the run folder
        self.meter = autobatch.meter_of(self.device)  # of the device's memory
        self.components = Components()  # what it computes with: model, optimizer, loader, ...
        self.state = RunState(config.batch)  # how far it has come: epoch, rows, best_epoch, ...
        self.batch: Any = None  # the batch under way
        self.loss: Tensor | None = None  # of the batch, a scalar
        self.loss_items: Tensor | None = None  # of the batch, one per name in `loss_names`

    def train(self) -> TrainResult:
        """Run to the end; `teardown` fires whatever happens.

        Raises:
            KeyboardInterrupt: Ctrl-C. Terminated: SIGTERM, unless the program has a handler of its
                own; exit code 143."""
        self.started_s = time.monotonic()
        failed = True
        with terminable(self.world.size > 1), RunLock() as lock:
            try:
                with (
                    distributed.joined(self.world, self.device),
                    randomness.deterministic(self.args.deterministic),
                ):
                    asked = self._setup(lock)
                    self._fit_within_memory(asked)
                    result = self._finish()
                failed = False
                return result
            except BaseException as error:
                is_interrupt = isinstance(error, KeyboardInterrupt)
                self.stop_reason = "interrupted" if is_interrupt else "exception"
                raise
            finally:
                self.callbacks.run_all("teardown", self, failed)

    # What a task may override, too ----------------------------------------------------------------

    def optimizer_step(self) -> None:
        """Unscale, check, clip, step, average. Gradients are checked before the weights change.

        fp16 gradients may overflow while the scaler looks for its scale: such a step is none, no
        event and no average counts it. (The learning rate is a function of the iteration and counts
        no steps.)"""
        self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.args.clip_norm or float("inf"))
        skipped = 0 if torch.isfinite(norm) else self.state.skipped_steps + 1
        self.state.skipped_steps = skipped
        if not skipped:
            self.callbacks.run("optimizer_step", self)
            self.scaler.step(self.optimizer)
            self.callbacks.run("on_before_zero_grad", self)
            if self.ema is not None:
                self.ema.update(self.model)
        elif not self.scaler.is_enabled() or skipped >= amp.SCALER_PATIENCE_STEPS:
            report = self._step_report(self.state.samples_since_step)
            raise amp.gradient_not_finite(report, self.model, self.args.clip_norm)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def validate(self) -> dict[str, float]:
        """Metrics of the current (averaged) weights."""
        return {} if self.validator is None else self.validator(trainer=self)

    def save_model(self) -> None:
        """Write `last`, all state of the run. Called once an epoch by rank 0, before validation."""
        checkpoint = train_state.capture(self.components, self.state, self.checkpoint_meta())
        save_checkpoint(checkpoint, self.last)

    # Before the first epoch -----------------------------------------------------------------------

    def _setup(self, lock: RunLock) -> TrainConfig:
        """Folder, settings, data, components. Returns the settings before anything automatic is
        decided.
        """
        if self.world.is_main:
            self.paths = run_directory.claim_run_directory(self.paths, self.args, lock)
        self.paths = self.world.broadcast(self.paths)
        if self.args.resume:
            self.args = run_directory.continued_config(self.paths, self.args)
        add_own_code(self, self.args.trainer, self.args.callbacks)
        asked = self.args
        self.batch_size = asked.batch
        distributed.check_batch_splits(asked.batch, asked.nproc, self.world)
        if asked.batch < 1:
            autobatch.check_can_be_found(self.meter)
        resumed = train_state.newest(self.paths, self.world) if asked.resume else None
        self.callbacks.run("on_pretrain_routine_start", self)
        randomness.seed_everything(self.args.seed)
        self.data = self.get_dataset(data=self.args.data)
        self._build(resumed)
        return asked

    def _build(self, resumed: Checkpoint | None) -> None:
        """Make the components; put back the state of `resumed`."""
        parts = self.components
        setup.check_task(self, self.data)
        # again: whether data had to be prepared must not move the weights
        randomness.seed_everything(self.args.seed)
        parts.model = setup.build_model(self, self.args, self.device, resumed)
        if self.batch_size < 1:
            self.batch_size = self._find_batch()
        self.args = setup.build_components(
            parts, self, self.args, self.data, self.batch_size, self.world, self.device
        )
        if resumed is not None:
            digest = self.data_digest()
            train_state.check_same_run(resumed, self.resolved, digest, self.paths)
        parts.validator = setup.build_validator(self)
        monitor, _ = self._decides()
        early_stopping.check_monitor(monitor, self._known_metrics())
        if monitor == early_stopping.TRAINING_LOSS and self.world.is_main:
            log.info("nothing is validated: the training loss decides which epoch is best")
        if self.world.is_main:
            run_directory.create_run_directory(self.paths, self.resolved)
        distributed.check_shared(self.world, self.paths.args_yaml)
        if resumed is not None:
            self._restore(resumed)
        if self.world.size > 1:
            parts.ddp = distributed.data_parallel(
                parts.model, self.device, self.find_unused_parameters
            )
        self.callbacks.run("on_pretrain_routine_end", self)

    def _restore(self, checkpoint: Checkpoint) -> None:
        """Go on where `checkpoint` stands; an epoch whose row is in the sidecar is complete."""
        train_state.restore(self.components, self.state, checkpoint, self.paths)
        # the settings as `update_params` left them
        self.args = self.args.with_overrides(self.updated, str(self.last))
        self.apply_params()
        complete = read_sidecar(self.last)
        row = complete.get("row") or {}
        if row.get("epoch") == self.epoch + first_epoch(checkpoint.training):
            self._record({**results.row_of_json(row), "epoch": self.epoch + 1})
            planned = checkpoint.meta.get("config", {}).get("epochs", self.args.epochs)
            self.stop = complete["stop"] and not self.args.epochs > planned
        randomness.restore_rng(checkpoint.training["rng"])
        log.info("resuming after epoch %d of %d", self.start_epoch, self.args.epochs)

    @property
    def resolved(self) -> TrainConfig:
        """The settings with everything automatic decided, also the batch: what args.yaml holds."""
        return self.args.with_overrides({"batch": self.batch_size})

    # The run --------------------------------------------------------------------------------------

    def _fit(self) -> None:
        if self.world.is_main and self.args.verbose and self.start_epoch < self.args.epochs:
            self._say_what_begins()
        self.callbacks.run("on_train_start", self)
        if self.start_epoch > len(self.rows):  # killed between a checkpoint and what follows it
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

    def _say_what_begins(self) -> None:
        log_start(
            self.train_loader,
            getattr(self.validator, "loader", None),
            self.batch_size,
            (self.start_epoch + 1, self.args.epochs),
            self.device,
            self.world,
            self.save_dir,
            self.sample_word,
        )

    def _train_epoch(self) -> None:
        self.callbacks.run("on_train_epoch_start", self)
        state, loader = self.state, self.train_loader
        self.model.train()
        optim.keep_frozen_norms(self.model)
        set_epoch(loader, self.epoch)
        if self.world.size > 1:  # ranks draw different numbers
            seed = randomness.seed_of(self.args.seed, self.epoch, self.world.rank)
            randomness.seed_everything(seed)
        state.begin_epoch()
        self.optimizer.zero_grad(set_to_none=True)
        count, came = len(loader), 0
        shown = self.args.verbose and self.world.is_main
        bar = EpochProgress(loader, self.epoch, self.args.epochs, self.loss_names, shown)
        with bar as progress:
            for self.batch_index, self.batch in enumerate(progress):
                self.callbacks.run("on_train_batch_start", self)
                self._train_batch(is_last=self.batch_index + 1 == count)
                self.callbacks.run("on_train_batch_end", self)
                progress.show(self.tloss)
                came = self.batch_index + 1
        setup.check_batch_count(count, came, self.epoch, self.epoch == self.start_epoch)
        self.tloss = self.world.sum(self.tloss) / self.world.size

    def _train_batch(self, is_last: bool) -> None:
        parts, state = self.components, self.state
        iteration = self.epoch * len(parts.train_loader) + self.batch_index
        optim.apply_schedule(parts.optimizer, parts.scheduler, iteration, self.args.lr0)
        self.batch = self.preprocess_batch(batch=self.batch)
        if self.epoch == 0 and self.batch_index < PLOTTED_BATCHES and self.world.is_main:
            self.plot_training_samples(batch=self.batch, index=self.batch_index)
        state.batches_since_step += 1
        steps = is_last or state.batches_since_step >= parts.scheduler.accumulate_at(iteration)
        with parts.without_sync(steps):
            with amp.autocast(self.args.amp, self.device):
                with setup.explained_forward():
                    preds = self.forward(model=parts.ddp or parts.model, batch=self.batch)
                answer = self.criterion(preds=preds, batch=self.batch)
                self.loss, self.loss_items = self.checked_loss(answer)
            self._check_loss()
            parts.scaler.scale(self.loss).backward()
        state.count_batch(self.loss_items, self.batch_names(self.batch))
        if steps:
            self.optimizer_step()
            state.count_step()

    def _check_loss(self) -> None:
        """Raises TrainingError where it is not finite, or nothing learns from it."""
        if not torch.isfinite(self.loss):
            raise amp.loss_not_finite(self._step_report(self.batch_names(self.batch)))
        if not self.loss.requires_grad:
            raise TrainingError(
                f"the loss that {type(self).__name__}.criterion returned does not depend on the "
                "model's parameters (no gradient leads back to them)"
            )

    def _complete_epoch(self) -> None:
        """What follows an epoch's checkpoint. A resumed run repeats all of it or nothing, so it
        leaves no trace in the random numbers, and its events rather come twice than not at all.
        """
        with randomness.undisturbed():
            self.world.barrier()  # `last` exists for every rank
            self.callbacks.run("on_train_epoch_end", self)
            self._evaluate_epoch()
        if self.world.is_main:
            more = {"row": results.json_row(self.metrics), "stop": self.stop}
            write_sidecar(self.last, {**read_sidecar(self.last), **more})

    def _evaluate_epoch(self) -> None:
        is_best = self._record(self._epoch_row())
        if self.world.is_main:
            train_state.write_epoch(
                self.state,
                self.args,
                self.paths,
                lambda: train_state.weights_of(self.components, self.checkpoint_meta()),
                is_best,
            )
            if self.args.verbose:
                shown = self.epoch_line_metrics
                log_epoch(self.metrics, self.epoch, self.args.epochs, is_best, shown)
        self.world.barrier()
        if self.world.is_main:
            self.callbacks.run("on_model_save", self)
        self.callbacks.run("on_fit_epoch_end", self)
        self._decide_stop()

    def _epoch_row(self) -> Row:
        """The epoch's row of results.csv; validates where that is due."""
        is_due = (self.epoch + 1) % self.args.val_period == 0 or self.epoch + 1 == self.args.epochs
        row = {"epoch": self.epoch + 1, "time_s": round(self.trained_s, 1)}
        row |= self.label_loss_items(items=self.tloss)
        measured = results.plain_metrics(self.validate(), "validation") if is_due else {}
        row |= self.world.broadcast(measured)
        return row | {f"lr/{group['group']}": group["lr"] for group in self.optimizer.param_groups}

    def _record(self, row: Row) -> bool:
        """Take an epoch's row in; whether it is the best so far."""
        validates = self.validator is not None
        monitor, mode = self._decides()
        fitness = early_stopping.fitness_of(row, monitor, validates)
        return self.state.record(row, fitness, mode)

    def _decide_stop(self) -> None:
        enough = early_stopping.should_stop(
            self.args,
            self.epoch + 1,
            self.best_epoch,
            self.elapsed_s(),
            say=self.world.is_main,
            monitor=self._decides()[0],
        )
        self.stop = self.world.any(self.stop or enough)

    def _finish(self) -> TrainResult:
        """Validate the best weights alone, plot, and sum up."""
        final: Row = {}
        if self.validator is not None and self.best.exists():
            model = self.components.evaluated
            model.load_state_dict(load_checkpoint(self.best, self.device).weights)
            final = self.validator(model=model, trainer=self, final=True)
            final = self.world.broadcast(results.plain_metrics(final, "validation"))
            self.metrics = final
            if self.world.is_main:
                train_state.add_to_best(self.paths, self.best_meta())
            self.world.barrier()
        self.callbacks.run("on_final_eval_end", self)
        if self.world.is_main:
            self.plot_metrics()
        self.callbacks.run("on_train_end", self)
        return TrainResult(
            save_dir=self.save_dir,
            best=self.best,
            last=self.last,
            best_sha256=read_sidecar(self.best).get("sha256", ""),
            metrics=results.measured_numbers(final),
            best_epoch=self.best_epoch or self.epoch + 1,  # none could be measured: the newest
            epochs=len(self.rows),
            stop_reason=self.stop_reason,
            data_digest=self.data_digest(),
        )

    # Where memory ends ----------------------------------------------------------------------------

    def _fit_within_memory(self, asked: TrainConfig) -> None:
        """`_fit`; where the first epoch runs out of memory, once more from the start with half the
        batch. A batch that was given is never changed.

        Raises:
            TrainingError: it was given, or half does not fit either, or it happened later; names a
                batch that fits.
        """
        given = asked.is_given("batch") and asked.batch > 0
        for may_retry in (not given, False):
            try:
                return self._fit()
            except torch.OutOfMemoryError as error:
                self.batch_size = self._after_out_of_memory(error, may_retry)
            self._start_over(asked)

    def _after_out_of_memory(self, error: torch.OutOfMemoryError, may_retry: bool) -> int:
        """Half the batch, to start the run again with. The ranks of a distributed run would have to
        agree on it, so they do not.
        """
        traceback.clear_frames(error.__traceback__)  # they hold the activations
        smaller, first = self.batch_size // 2, self.epoch == 0 and self.world.size == 1
        if first and may_retry and smaller:
            where = autobatch.out_of_memory(self.state)
            log.warning("%s; starting the run again with batch=%d", where, smaller)
            return smaller
        fits = self._batch_that_would_fit() if first else None
        advice = self.memory_advice
        raise autobatch.out_of_memory_error(self.state, fits, advice, self.last) from error

    def _start_over(self, asked: TrainConfig) -> None:
        """As if nothing had been trained. What the first attempt made goes before its successor
        comes: memory is short.
        """
        self.args, self.components = asked, Components(data=self.data)
        self.batch = self.loss = self.loss_items = None
        self.state = self.state.from_the_start()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._build(resumed=None)

    def _batch_that_would_fit(self) -> int | None:
        """Measured in the memory that the failed attempt gives back; None: that cannot be done."""
        if self.meter is None:
            return None
        self.optimizer = self.ema = self.loss = self.batch = None
        self.model.zero_grad(set_to_none=True)
        try:
            return self._find_batch()
        except TrainingError:
            return None

    def _find_batch(self) -> int:
        """Samples per step over all ranks that fit the memory."""
        probe = autobatch.Probe(
            self, self.model, self.data["train"], self.device, self.args.amp, self.world.rank
        )
        samples = probe.samples()
        with self._alone():
            fits = probe.fits(self.meter, samples, self.args.batch_memory)
        return autobatch.agree_on_batch(fits, samples, self.world, self.args.batch_memory)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nothing that the task does in the block waits for other ranks."""
        world, self.world = self.world, World(self.world.rank, 1, self.world.local_rank)
        self.apply_params()  # a loss may have been made for the world
        try:
            yield
        finally:
            self.world = world
            self.apply_params()

    # Small questions ------------------------------------------------------------------------------

    def _decides(self) -> tuple[str, str]:
        """By which column the best epoch is chosen, and whether max or min is best."""
        if self.adds_metrics():  # code of the user's own may validate
            return self.args.monitor, self.args.monitor_mode
        return early_stopping.what_decides(self.args, self.validator)

    def _known_metrics(self) -> list[str] | None:
        """What `monitor` may be, where that is known before training; None: code of the user's own
        may add metrics.
        """
        if self.adds_metrics():
            return None
        return early_stopping.known_metrics(self.validator, self.loss_names, self.optimizer)

    def adds_metrics(self) -> bool:
        """Whether code of the user's own here may add metrics to those of the validator."""
        own = type(self)
        return (
            own.validate is not BaseTrainer.validate
            or own.label_loss_items is not BaseTrainer.label_loss_items
            or "validate" in vars(self)
            or self.callbacks.has_user_callbacks("on_val_end")
        )

    def _step_report(self, samples: list[str]) -> amp.StepReport:
        """What is known of the step under way, for an error. samples: names."""
        items = [float(value) for value in self.loss_items]
        return amp.StepReport(
            state=self.state,
            paths=self.paths,
            losses=dict(zip(self.loss_names, items, strict=True)),
            rates={group["group"]: group["lr"] for group in self.optimizer.param_groups},
            lr0=self.args.lr0,
            usual_lr=self.default_lr(self.args.optimizer),
            samples=list(samples),
            sample_word=self.sample_word,
        )
