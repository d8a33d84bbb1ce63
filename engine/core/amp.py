"""Mixed precision, and what is said when a number leaves its range.

bfloat16 has the range of float32 and needs no scaler; float16 needs one, and its first steps may
overflow while the scaler looks for its scale. Steps that the scaler leaves out are no steps:
nothing counts them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from engine.errors import TrainingError, WorkspaceError
from engine.files import write_text

if TYPE_CHECKING:
    from engine.core.trainer import BaseTrainer

SCALER_PATIENCE_STEPS = 50  # fp16 steps in a row that may overflow
SHOWN_NAMES = 8


def half_type(device: torch.device) -> torch.dtype | None:
    """The 16-bit type of a device: bf16 where its hardware has it, else fp16. None: float32 only,
    as on a CPU.
    """
    if device.type != "cuda":
        return None
    # PyTorch also emulates bf16 on older GPUs, many times slower than their fp16.
    return (
        torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    )


def autocast(on: bool, device: torch.device) -> AbstractContextManager:
    """The context of a forward pass: `half_type` where it is on and there is one."""
    dtype = half_type(device) if on else None
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def make_scaler(on: bool, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling for fp16; otherwise a scaler that does nothing."""
    return torch.amp.GradScaler(device.type, enabled=on and half_type(device) is torch.float16)


def loss_not_finite(trainer: BaseTrainer) -> TrainingError:
    """The loss of the current batch is inf or nan."""
    return _not_finite(trainer, "loss", trainer.batch_names(trainer.batch), "", "")


def gradient_not_finite(trainer: BaseTrainer, names: Iterable[str]) -> TrainingError:
    """The gradient of the batches since the last step, images `names`, is inf or nan though their
    losses were finite.
    """
    bad = f" It is inf or nan in {_bad_parameters(trainer.model)}."
    return _not_finite(
        trainer, "gradient", list(names), bad, f" or clip_norm (now {trainer.args.clip_norm:g})"
    )


def _not_finite(
    trainer: BaseTrainer, what: str, names: list[str], detail: str, also_lower: str
) -> TrainingError:
    losses = {
        name: f"{float(v):.4g}"
        for name, v in zip(trainer.loss_names, trainer.loss_items, strict=True)
    }
    rates = {group["group"]: group["lr"] for group in trainer.optimizer.param_groups}
    terms = ", ".join(f"{name} {value}" for name, value in losses.items())
    images = _some([Path(name).name for name in names]) or "unknown"
    written = _write(
        trainer,
        {
            "not_finite": what,
            "epoch": trainer.epoch + 1,
            "batch": trainer.batch_index + 1,
            "losses": losses,
            "lr": rates,
            "images": names,
        },
    )
    return TrainingError(
        f"the {what} is not finite at epoch {trainer.epoch + 1}, batch {trainer.batch_index + 1}: "
        f"{terms}. Images: {images}.{written}{detail} The weights were not changed by it. The "
        f"learning rate was {max(rates.values()):g}: lower lr0 (now {trainer.args.lr0:g}; try "
        f"{_lower_rate(trainer):g}){also_lower}, or look at these images; {_kept(trainer)}"
    )


def _lower_rate(trainer: BaseTrainer) -> float:
    """A tenth, but where far too much was asked the usual rate."""
    usual = trainer.default_lr(trainer.args.optimizer)
    return (
        min(trainer.args.lr0 / 10, usual)
        if trainer.args.lr0 > 10 * usual
        else trainer.args.lr0 / 10
    )


def _write(trainer: BaseTrainer, found: dict[str, Any]) -> str:
    """Put it into the run folder; a sentence that says where, or nothing where that is not
    possible.
    """
    file = trainer.paths.failed_batch
    try:
        write_text(file, json.dumps(found, indent=1) + "\n")
    except (OSError, WorkspaceError):
        return ""
    return f" All of them, with their paths: {file}."


def _bad_parameters(model: nn.Module) -> str:
    bad = [
        name
        for name, p in model.named_parameters()
        if p.grad is not None and not torch.isfinite(p.grad).all()
    ]
    return _some(bad) or "no single parameter, only in the norm over all of them"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def _kept(trainer: BaseTrainer) -> str:
    """What to go on from. Before the first step of an epoch the weights are those of `last`, which
    are no good then.
    """
    again = "resume=true would come to the same point, so start another run"
    if not trainer.last.exists():
        return "there is no checkpoint yet"
    if trainer.epoch_steps:
        return (
            f"the last good checkpoint is {trainer.last}. {again}, for example with "
            f"model={trainer.last}"
        )
    if trainer.best.exists() and trainer.best_epoch < trainer.epoch - 1:
        return (
            f"{trainer.last} holds these weights; where they are the cause, {trainer.best} is of "
            f"an earlier epoch. {again}"
        )
    return f"{trainer.last} holds these weights. {again}"
