"""What a run is made of before its first batch: model, loader, schedule, optimizer, average,
scaler, validator.

Everything automatic is decided here, once, from the settings as they were asked for; a given value
is never changed. Each function takes the task, whose methods make the parts, and checks what they
return.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.config.train import TrainConfig
from engine.core import amp, distributed, optim
from engine.core.checkpoint import Checkpoint, load_checkpoint
from engine.core.distributed import World
from engine.core.ema import ModelEMA, planned_tau
from engine.core.run_state import Components
from engine.core.schedule import Schedule
from engine.core.task import TrainingTask
from engine.errors import TrainingError

log = logging.getLogger("detectflow")

SCHEDULE = ("lr", "momentum_at", "accumulate_at", "optimizer_steps")  # what is asked of one
NOMINAL_BATCH = 64  # samples
# below so many iterations accumulating to the nominal batch starves the optimizer
STEPS_TO_SPARE = 4000


@dataclass(frozen=True)
class Plan:
    """The automatic settings, decided, and what follows from them."""

    optimizer: str
    nbs: int  # nominal batch, samples
    lr0: float
    accumulate: int  # batches per optimizer step, after warm-up
    weight_decay: float  # scaled to the samples of an optimizer step


def make_plan(
    config: TrainConfig, batch: int, per_epoch: int, default_lr: Callable[[str], float]
) -> Plan:
    """batch: samples per iteration; per_epoch: iterations; default_lr: peak rate by optimizer."""
    iterations = config.epochs * per_epoch
    optimizer = optim.choose_optimizer(config.optimizer, iterations)
    usual = NOMINAL_BATCH if iterations >= STEPS_TO_SPARE else batch
    nbs = config.nbs if config.nbs is not None else usual
    accumulate = max(round(nbs / batch), 1)
    usual_lr = optim.usual_rate(optimizer, default_lr, config.momentum)
    lr0 = config.lr0 if config.lr0 is not None else usual_lr
    return Plan(optimizer, nbs, lr0, accumulate, config.weight_decay * batch * accumulate / nbs)


def check_task(task: TrainingTask, data: Any) -> None:
    """What a task says before anything is built. data: what `get_dataset` returned.

    Raises:
        TrainingError: names the attribute or method and what it must be.
    """
    if isinstance(task.loss_names, str):
        raise TrainingError(
            f"{type(task).__name__}.loss_names is text, not a tuple of names: "
            f"('{task.loss_names}',)"
        )
    _check(
        task,
        "get_dataset",
        data,
        isinstance(data, Mapping) and "train" in data,
        "what get_dataloader is given for each mode, {'train': ..., 'val': ...}",
    )


def build_model(
    task: TrainingTask, config: TrainConfig, device: torch.device, resumed: Checkpoint | None
) -> nn.Module:
    """The network on its device, frozen as asked.

    resumed: the run's own checkpoint; its architecture is at hand even where the file that `model`
    names has gone.

    Raises:
        CheckpointError, ConfigError, TrainingError: weights that cannot be read, nothing that
            learns.
    """
    start = resumed
    if resumed is None and config.model.endswith(".pt"):
        start = load_checkpoint(config.model)
    model = task.make_model(cfg=config.model, weights=start)
    _check(task, "get_model", model, isinstance(model, nn.Module), "a torch.nn.Module")
    placed = model.to(device)
    optim.freeze_parameters(placed, config.freeze)
    if not any(parameter.requires_grad for parameter in placed.parameters()):
        raise TrainingError(
            f"{type(model).__name__}, the model of {type(task).__name__}, has no parameter that "
            "learns"
        )
    return placed.to(memory_format=torch.channels_last) if config.channels_last else placed


def build_components(
    parts: Components,
    task: TrainingTask,
    config: TrainConfig,
    data: Mapping[str, Any],
    batch_size: int,
    world: World,
    device: torch.device,
) -> TrainConfig:
    """Make what `parts` lacks around its model, in the order in which it is needed; the task's
    methods see what is there already. Returns the settings with everything automatic decided, as if
    it had been asked for.

    batch_size: samples per step over all ranks.

    Raises:
        TrainingError: a method of the task returned something else than it must.
    """
    if world.size > 1:  # before the optimizer takes hold of the parameters
        parts.model = distributed.synchronise_norms(parts.model, device)
    parts.train_loader = _build_loader(task, data["train"], batch_size, world)
    per_epoch = len(parts.train_loader)
    plan = make_plan(config, batch_size, per_epoch, task.default_lr)
    parts.scheduler = _build_scheduler(task, plan, per_epoch)
    parts.optimizer = _build_optimizer(task, parts.model, config, plan)
    tau, warmup = config.ema_tau_steps, config.warmup_epochs
    if tau is None:
        tau = planned_tau(parts.scheduler.optimizer_steps(per_epoch))
    if warmup is None:
        warmup = parts.scheduler.warmup / per_epoch
    parts.ema = ModelEMA(parts.model, config.ema_decay, tau) if config.ema else None
    parts.scaler = amp.make_scaler(config.amp, device)
    chosen = {
        "optimizer": plan.optimizer,
        "nbs": plan.nbs,
        "lr0": plan.lr0,
        "ema_tau_steps": tau,
        "warmup_epochs": warmup,
    }
    return config.with_overrides({**config.model_dump(), **chosen})


def build_validator(task: TrainingTask) -> Any:
    """What validates, or None.

    Raises:
        TrainingError: `get_validator` returned something that cannot be called.
    """
    validator = task.get_validator()
    wanted = "a validator, called with trainer=, or None"
    _check(task, "get_validator", validator, validator is None or callable(validator), wanted)
    return validator


def check_batch_count(promised: int, came: int, epoch: int, is_first: bool) -> None:
    """That the training loader kept what its length said: schedule, resuming and the last step of
    an epoch go by it.

    is_first: the first epoch of this process, the only one that warns.

    Raises:
        TrainingError: not a single batch came.
    """
    if not came:
        raise TrainingError(
            f"the training loader has a length of {promised} and gave no batch at epoch "
            f"{epoch + 1}. Can it be iterated anew each epoch?"
        )
    if came != promised and is_first:
        log.warning(
            "the training loader has a length of %d and gave %d batches: the learning rate goes "
            "by the length",
            promised,
            came,
        )


def _build_loader(task: TrainingTask, dataset_path: Any, batch_size: int, world: World) -> Any:
    loader = task.get_dataloader(
        dataset_path=dataset_path,
        batch_size=batch_size // world.size,
        mode="train",
        rank=world.rank,
    )
    is_loader = hasattr(loader, "__len__") and not isinstance(loader, (str, Path))
    wanted = "batches that can be iterated anew each epoch and have a length"
    _check(task, "get_dataloader", loader, is_loader, wanted)
    if len(loader) == 0:
        raise TrainingError("there are no training batches: the training split is empty")
    distributed.check_lengths(world.gather(len(loader)))
    return loader


def _build_scheduler(task: TrainingTask, plan: Plan, per_epoch: int) -> Schedule:
    schedule = task.build_scheduler(
        iterations_per_epoch=per_epoch, optimizer=plan.optimizer, accumulate=plan.accumulate
    )
    is_schedule = all(hasattr(schedule, each) for each in SCHEDULE)
    wanted = "an engine.core.schedule.Schedule, which gives the rate of each iteration"
    _check(task, "build_scheduler", schedule, is_schedule, wanted)
    return schedule


def _build_optimizer(
    task: TrainingTask, model: nn.Module, config: TrainConfig, plan: Plan
) -> torch.optim.Optimizer:
    optimizer = task.build_optimizer(
        model=model,
        name=plan.optimizer,
        lr=plan.lr0,
        momentum=config.momentum,
        decay=plan.weight_decay,
    )
    is_optimizer = isinstance(optimizer, torch.optim.Optimizer)
    _check(task, "build_optimizer", optimizer, is_optimizer, "a torch.optim.Optimizer")
    optim.name_groups(optimizer)
    return optimizer


def _check(task: TrainingTask, method: str, value: Any, is_right: bool, wanted: str) -> None:
    """That a method of the user's own returned what the run needs."""
    if not is_right:
        what = value.__name__ if isinstance(value, type) else type(value).__name__
        raise TrainingError(
            f"{type(task).__name__}.{method} must return {wanted}; it returned {what}"
        )


@contextlib.contextmanager
def explained_forward() -> Iterator[None]:
    """TrainingError where BatchNorm has a single value to average."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "a batch of one image whose coarsest feature map is a single cell: BatchNorm has "
            "nothing to average. Take batch=2 or more, or a larger imgsz"
        ) from error
