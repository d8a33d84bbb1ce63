"""Mixed precision, and what is said when a number leaves its range.

bfloat16 has the range of float32 and needs no scaler; float16 needs one, and its first steps may overflow while the
scaler looks for its scale. Steps that the scaler leaves out are no steps: nothing counts them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.errors import TrainingError

if TYPE_CHECKING:
    from engine.kernel.trainer import BaseTrainer

SCALER_PATIENCE_STEPS = 50  # fp16 steps in a row that may overflow
SHOWN_NAMES = 8


def half_type(device: torch.device) -> torch.dtype | None:
    """The 16-bit type of a device: bf16 where its hardware has it, else fp16. None: float32 only, as on a CPU."""
    if device.type != "cuda":
        return None
    # PyTorch also emulates bf16 on older GPUs, many times slower than their fp16.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast(on: bool, device: torch.device) -> AbstractContextManager:
    """The context of a forward pass: `half_type` where it is on and there is one."""
    dtype = half_type(device) if on else None
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def make_scaler(on: bool, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling for fp16; otherwise a scaler that does nothing."""
    return torch.amp.GradScaler(device.type, enabled=on and half_type(device) is torch.float16)


def loss_not_finite(trainer: BaseTrainer) -> TrainingError:
    """The loss of the current batch is inf or nan."""
    return TrainingError(
        f"the loss is not finite {_where(trainer, trainer.batch_names(trainer.batch))} "
        f"The weights were not changed by it. Lower lr0 (now {trainer.args.lr0:g}) or look at these images; {_kept(trainer)}"
    )


def gradient_not_finite(trainer: BaseTrainer, names: Iterable[str]) -> TrainingError:
    """The gradient of the batches since the last step, images `names`, is inf or nan though their losses were finite."""
    return TrainingError(
        f"the gradient is not finite {_where(trainer, names)} It is inf or nan in {_bad_parameters(trainer.model)}. "
        f"The weights were not changed by it. Lower lr0 (now {trainer.args.lr0:g}) or clip_norm (now "
        f"{trainer.args.clip_norm:g}), or look at these images; {_kept(trainer)}"
    )


def _where(trainer: BaseTrainer, names: Iterable[str]) -> str:
    terms = ", ".join(f"{name} {float(v):.4g}" for name, v in zip(trainer.loss_names, trainer.loss_items, strict=True))
    return f"at epoch {trainer.epoch + 1}, batch {trainer.batch_index + 1}: {terms}. Images: {_some(list(names)) or 'unknown'}."


def _bad_parameters(model: nn.Module) -> str:
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    return _some(bad) or "no single parameter, only in the norm over all of them"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more


def _kept(trainer: BaseTrainer) -> str:
    return f"the last good checkpoint is {trainer.last}" if trainer.last.exists() else "there is no checkpoint yet"
