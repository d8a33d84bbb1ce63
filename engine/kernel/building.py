"""What a run is made of before its first batch: model, loaders, pace, optimizer, average, validator, run directory.

Everything automatic is decided here, once, from the settings as they were asked for.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from engine.errors import TrainingError
from engine.kernel import distributed, judge, memory, optim, precision, state
from engine.kernel.checkpoint import Checkpoint, load_checkpoint
from engine.kernel.ema import ModelEMA, planned_tau
from engine.kernel.planning import make_plan
from engine.kernel.randomness import seed_everything
from engine.kernel.run_directory import create_run_directory

if TYPE_CHECKING:
    from engine.kernel.trainer import BaseTrainer

log = logging.getLogger("detectflow")


def make_parts(trainer: BaseTrainer, resumed: Checkpoint | None) -> None:
    """Fill the trainer's attributes up to `on_pretrain_routine_end`, and put back the state of `resumed`.

    Raises:
        ConfigError, CheckpointError, TrainingError, WorkspaceError: settings, files and data that do not go together.
    """
    seed_everything(trainer.args.seed)  # again: whether data had to be prepared must not move the weights
    _make_model(trainer, resumed)
    per_rank = trainer.batch_size // trainer.world.size
    trainer.train_loader = trainer.get_dataloader(
        dataset_path=trainer.data["train"], batch_size=per_rank, mode="train", rank=trainer.world.rank
    )
    if len(trainer.train_loader) == 0:
        raise TrainingError("there are no training batches: the training split is empty")
    distributed.check_lengths(trainer.world.gather(len(trainer.train_loader)))
    _decide_plan(trainer, len(trainer.train_loader))
    if resumed is not None:
        state.check_same_run(trainer, resumed)
    trainer.validator = trainer.get_validator()
    judge.check_monitor(trainer)
    if trainer.world.is_main:
        create_run_directory(trainer.paths, trainer.resolved)
    distributed.check_shared(trainer.world, trainer.paths.args_yaml)
    if resumed is not None:
        state.restore(trainer, resumed)
        log.info("resuming after epoch %d of %d", trainer.start_epoch, trainer.args.epochs)


def _make_model(trainer: BaseTrainer, resumed: Checkpoint | None) -> None:
    start = resumed  # its architecture is at hand even where the file that `model` names has gone
    if resumed is None and trainer.args.model.endswith(".pt"):
        start = load_checkpoint(trainer.args.model)
    trainer.model = trainer.get_model(cfg=trainer.args.model, weights=start).to(trainer.device)
    optim.freeze_parameters(trainer.model, trainer.args.freeze)
    if trainer.args.channels_last:
        trainer.model = trainer.model.to(memory_format=torch.channels_last)
    if trainer.batch_size < 1:
        trainer.batch_size = memory.batch_that_fits(trainer, trainer.meter)
    if trainer.world.size > 1:  # before the optimizer takes hold of the parameters
        trainer.model = distributed.synchronise_norms(trainer.model, trainer.device)


def _decide_plan(trainer: BaseTrainer, per_epoch: int) -> None:
    """Everything automatic is written into `args` as if it had been asked for."""
    a = trainer.args
    plan = make_plan(a, trainer.batch_size, per_epoch, trainer.default_lr)
    trainer.scheduler = trainer.build_scheduler(
        iterations_per_epoch=per_epoch, optimizer=plan.optimizer, accumulate=plan.accumulate
    )
    trainer.optimizer = trainer.build_optimizer(
        model=trainer.model, name=plan.optimizer, lr=plan.lr0, momentum=a.momentum, decay=plan.weight_decay
    )
    optim.name_groups(trainer.optimizer)
    tau = a.ema_tau_steps if a.ema_tau_steps is not None else planned_tau(trainer.scheduler.optimizer_steps(per_epoch))
    trainer.ema = ModelEMA(trainer.model, a.ema_decay, tau) if a.ema else None
    trainer.scaler = precision.make_scaler(a.amp, trainer.device)
    warmup = a.warmup_epochs if a.warmup_epochs is not None else trainer.scheduler.warmup / per_epoch
    chosen = {"optimizer": plan.optimizer, "nbs": plan.nbs, "lr0": plan.lr0, "ema_tau_steps": tau, "warmup_epochs": warmup}
    trainer.args = a.with_overrides({**a.model_dump(), **chosen})
