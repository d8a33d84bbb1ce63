"""What a run is made of before its first batch: model, loaders, pace, optimizer, average,
validator, run directory.

Everything automatic is decided here, once, from the settings as they were asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from engine.core import amp, autobatch, distributed, early_stopping, optim, train_state
from engine.core.checkpoint import Checkpoint, load_checkpoint
from engine.core.ema import ModelEMA, planned_tau
from engine.core.planning import make_plan
from engine.core.randomness import seed_everything
from engine.core.run_directory import create_run_directory
from engine.errors import TrainingError

if TYPE_CHECKING:
    from engine.core.trainer import BaseTrainer

log = logging.getLogger("detectflow")

PACE = ("lr", "momentum_at", "accumulate_at", "optimizer_steps")  # what is asked of a schedule


def make_parts(trainer: BaseTrainer, resumed: Checkpoint | None) -> None:
    """Fill the trainer's attributes up to `on_pretrain_routine_end`, and put back the state of
    `resumed`.

    Raises:
        ConfigError, CheckpointError, TrainingError, WorkspaceError: settings, files and data that
            do not go together.
    """
    if isinstance(trainer.loss_names, str):
        raise TrainingError(
            f"{type(trainer).__name__}.loss_names is text, not a tuple of names: "
            f"('{trainer.loss_names}',)"
        )
    _check(
        trainer,
        "get_dataset",
        trainer.data,
        isinstance(trainer.data, Mapping) and "train" in trainer.data,
        "what get_dataloader is given for each mode, {'train': ..., 'val': ...}",
    )
    seed_everything(
        trainer.args.seed
    )  # again: whether data had to be prepared must not move the weights
    _make_model(trainer, resumed)
    per_rank = trainer.batch_size // trainer.world.size
    trainer.train_loader = trainer.get_dataloader(
        dataset_path=trainer.data["train"],
        batch_size=per_rank,
        mode="train",
        rank=trainer.world.rank,
    )
    is_loader = hasattr(trainer.train_loader, "__len__") and not isinstance(
        trainer.train_loader, (str, Path)
    )
    _check(
        trainer,
        "get_dataloader",
        trainer.train_loader,
        is_loader,
        "batches that can be iterated anew each epoch and have a length",
    )
    if len(trainer.train_loader) == 0:
        raise TrainingError("there are no training batches: the training split is empty")
    distributed.check_lengths(trainer.world.gather(len(trainer.train_loader)))
    _decide_plan(trainer, len(trainer.train_loader))
    if resumed is not None:
        train_state.check_same_run(trainer, resumed)
    trainer.validator = trainer.get_validator()
    _check(
        trainer,
        "get_validator",
        trainer.validator,
        trainer.validator is None or callable(trainer.validator),
        "a validator, called with trainer=, or None",
    )
    early_stopping.check_monitor(trainer)
    if trainer.world.is_main:
        create_run_directory(trainer.paths, trainer.resolved)
    distributed.check_shared(trainer.world, trainer.paths.args_yaml)
    if resumed is not None:
        train_state.restore(trainer, resumed)
        log.info("resuming after epoch %d of %d", trainer.start_epoch, trainer.args.epochs)


def _make_model(trainer: BaseTrainer, resumed: Checkpoint | None) -> None:
    start = resumed  # its architecture is at hand even where the file that `model` names has gone
    if resumed is None and trainer.args.model.endswith(".pt"):
        start = load_checkpoint(trainer.args.model)
    model = trainer.make_model(cfg=trainer.args.model, weights=start)
    _check(trainer, "get_model", model, isinstance(model, torch.nn.Module), "a torch.nn.Module")
    trainer.model = model.to(trainer.device)
    optim.freeze_parameters(trainer.model, trainer.args.freeze)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError(
            f"{type(model).__name__}, the model of {type(trainer).__name__}, has no parameter "
            "that learns"
        )
    if trainer.args.channels_last:
        trainer.model = trainer.model.to(memory_format=torch.channels_last)
    if trainer.batch_size < 1:
        trainer.batch_size = autobatch.batch_that_fits(trainer, trainer.meter)
    if trainer.world.size > 1:  # before the optimizer takes hold of the parameters
        trainer.model = distributed.synchronise_norms(trainer.model, trainer.device)


def _decide_plan(trainer: BaseTrainer, per_epoch: int) -> None:
    """Everything automatic is written into `args` as if it had been asked for."""
    a = trainer.args
    plan = make_plan(a, trainer.batch_size, per_epoch, trainer.default_lr)
    trainer.scheduler = trainer.build_scheduler(
        iterations_per_epoch=per_epoch, optimizer=plan.optimizer, accumulate=plan.accumulate
    )
    _check(
        trainer,
        "build_scheduler",
        trainer.scheduler,
        all(hasattr(trainer.scheduler, each) for each in PACE),
        "an engine.core.schedule.Schedule, which gives the rate of each iteration",
    )
    trainer.optimizer = trainer.build_optimizer(
        model=trainer.model,
        name=plan.optimizer,
        lr=plan.lr0,
        momentum=a.momentum,
        decay=plan.weight_decay,
    )
    _check(
        trainer,
        "build_optimizer",
        trainer.optimizer,
        isinstance(trainer.optimizer, torch.optim.Optimizer),
        "a torch.optim.Optimizer",
    )
    optim.name_groups(trainer.optimizer)
    tau = (
        a.ema_tau_steps
        if a.ema_tau_steps is not None
        else planned_tau(trainer.scheduler.optimizer_steps(per_epoch))
    )
    trainer.ema = ModelEMA(trainer.model, a.ema_decay, tau) if a.ema else None
    trainer.scaler = amp.make_scaler(a.amp, trainer.device)
    warmup = (
        a.warmup_epochs if a.warmup_epochs is not None else trainer.scheduler.warmup / per_epoch
    )
    chosen = {
        "optimizer": plan.optimizer,
        "nbs": plan.nbs,
        "lr0": plan.lr0,
        "ema_tau_steps": tau,
        "warmup_epochs": warmup,
    }
    trainer.args = a.with_overrides({**a.model_dump(), **chosen})


def check_count(trainer: BaseTrainer, promised: int, came: int) -> None:
    """That the training loader kept what its length said: pace, resuming and the last step of an
    epoch go by it.

    Raises:
        TrainingError: not a single batch came.
    """
    if not came:
        raise TrainingError(
            f"the training loader has a length of {promised} and gave no batch at epoch "
            f"{trainer.epoch + 1}. Can it be iterated anew each epoch?"
        )
    if came != promised and trainer.epoch == trainer.start_epoch:
        log.warning(
            "the training loader has a length of %d and gave %d batches: the learning rate goes "
            "by the length",
            promised,
            came,
        )


def _check(trainer: BaseTrainer, method: str, value: Any, is_right: bool, wanted: str) -> None:
    """That a method of the user's own returned what the run needs."""
    if not is_right:
        what = value.__name__ if isinstance(value, type) else type(value).__name__
        raise TrainingError(
            f"{type(trainer).__name__}.{method} must return {wanted}; it returned {what}"
        )
