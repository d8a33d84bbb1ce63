"""Mixed precision (AMP), and the error for a loss or gradient that is not finite.

bfloat16 has the range of float32 and needs no scaler; float16 needs one, and its first steps may
overflow while the scaler looks for its scale. Steps that the scaler leaves out are no steps:
nothing counts them.
"""

from __future__ import annotations

import contextlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.core.run_state import RunState
from engine.errors import TrainingError, WorkspaceError
from engine.files import write_text
from engine.types import RunPaths

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


@dataclass(frozen=True)
class StepReport:
    """What is known of a step whose loss or gradient is not finite."""

    state: RunState
    paths: RunPaths
    losses: dict[str, float]  # by name
    rates: dict[str, float]  # learning rate by parameter group
    lr0: float
    usual_lr: float  # the default of this optimizer
    samples: list[str]  # names or paths of what was in the batch
    sample_word: str  # what the task calls them: "images"

    def lower_lr0(self) -> float:
        """A tenth, but the usual rate where far too much was asked."""
        too_much = self.lr0 > 10 * self.usual_lr
        return min(self.lr0 / 10, self.usual_lr) if too_much else self.lr0 / 10


def loss_not_finite(report: StepReport) -> TrainingError:
    """The loss of the current batch is inf or nan."""
    return _not_finite(report, "loss", "", "")


def gradient_not_finite(report: StepReport, model: nn.Module, clip_norm: float) -> TrainingError:
    """The gradient of the batches since the last step is inf or nan though their losses were
    finite.
    """
    bad = f" It is inf or nan in {_bad_parameters(model)}."
    return _not_finite(report, "gradient", bad, f" or clip_norm (now {clip_norm:g})")


def _not_finite(report: StepReport, what: str, detail: str, also_lower: str) -> TrainingError:
    state, word = report.state, report.sample_word
    losses = {name: f"{value:.4g}" for name, value in report.losses.items()}
    terms = ", ".join(f"{name} {value}" for name, value in losses.items())
    names = _some([Path(name).name for name in report.samples]) or "unknown"
    written = _write(
        report.paths.failed_batch,
        {
            "not_finite": what,
            "epoch": state.epoch + 1,
            "batch": state.batch_index + 1,
            "losses": losses,
            "lr": report.rates,
            word: report.samples,
        },
    )
    return TrainingError(
        f"the {what} is not finite at epoch {state.epoch + 1}, batch {state.batch_index + 1}: "
        f"{terms}. {word.capitalize()}: {names}.{written}{detail} The weights were not changed by "
        f"it. The learning rate was {max(report.rates.values()):g}: lower lr0 (now "
        f"{report.lr0:g}; try {report.lower_lr0():g}){also_lower}, or check these {word}; "
        f"{_way_on(report)}"
    )


def _write(file: Path, found: dict[str, Any]) -> str:
    """Put it into the run folder; a sentence that says where, or nothing where that is not
    possible.
    """
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


def _way_on(report: StepReport) -> str:
    """What to go on from. Before the first step of an epoch the weights are those of `last`, which
    are no good then.
    """
    state, last, best = report.state, report.paths.last, report.paths.best
    again = "resume=true would come to the same point, so start another run"
    if not last.exists():
        return "there is no checkpoint yet"
    if state.epoch_steps:
        return f"the last good checkpoint is {last}. {again}, for example with model={last}"
    if (
        best.exists() and state.best_epoch < state.epoch
    ):  # `last` is of epoch number `epoch`, from 1
        return (
            f"{last} holds these weights; where they are the cause, {best} is of an earlier epoch. "
            f"{again}"
        )
    return f"{last} holds these weights. {again}"
