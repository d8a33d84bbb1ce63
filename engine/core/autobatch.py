"""How many samples of a run fit a GPU's memory (`batch=-1`), and the errors of a run that they do
not fit.

Memory of a training step grows with the samples along a straight line. A few small batches are
measured, forward and backward, the line is drawn through them, and the fraction `batch_memory` of
what is free decides. Measuring leaves no trace: weights, running statistics and random numbers are
as before, so the batch that was found, given by hand, makes the same run.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from engine.core.amp import autocast
from engine.core.distributed import World
from engine.core.randomness import undisturbed
from engine.core.run_state import RunState
from engine.core.task import TrainingTask
from engine.errors import ConfigError, TrainingError

log = logging.getLogger("detectflow")

PROBED_BATCHES = (2, 4, 8, 16, 32)
STEPS_PER_EPOCH = 10  # with fewer the optimizer hardly moves, whatever would fit
# Adam keeps two numbers for each weight; they are made at its first step, after the measuring
MOMENTS = 2


class Meter(Protocol):
    """What is asked of a device's memory; bytes."""

    def capacity_bytes(self) -> int:
        """What this process may use, with what it uses already."""

    def start(self) -> None:
        """Give back what lies unused and forget the peak."""

    def peak_bytes(self) -> int:
        """The most that was used since `start`."""


@dataclass(frozen=True)
class CudaMeter:
    """Memory of one GPU, as PyTorch's allocator has reserved it."""

    device: torch.device

    def capacity_bytes(self) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        return free + torch.cuda.memory_reserved(self.device)

    def start(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_reserved(self.device)


def meter_of(device: torch.device) -> Meter | None:
    """None on a CPU: its memory is swapped, shared, and no limit that could be asked for."""
    return CudaMeter(device) if device.type == "cuda" else None


def fit_batch(measured: Sequence[tuple[int, int]], budget_bytes: int) -> int:
    """The largest batch within `budget_bytes` by the line of least squares through (samples,
    bytes).

    Rounded down, 0 where not one sample fits. A single measurement, or memory that does not grow,
    says nothing about larger batches: then the largest measured one that fits.
    """
    n = len(measured)
    samples, memory = sum(x for x, _ in measured), sum(y for _, y in measured)
    spread = n * sum(x * x for x, _ in measured) - samples * samples
    slope = (
        Fraction(n * sum(x * y for x, y in measured) - samples * memory, spread)
        if spread
        else Fraction(0)
    )
    if slope <= 0:
        return max((x for x, y in measured if y <= budget_bytes), default=0)
    intercept = (memory - slope * samples) / n
    return max(int((budget_bytes - intercept) // slope), 0)


def find_batch(
    step: Callable[[int], None],
    meter: Meter,
    most: int,
    fraction: float,
    later_bytes: int = 0,
    advice: str = "model",
) -> int:
    """Measure `step(samples)`, forward and backward of so many samples, and say how many fit into a
    `fraction` of the free memory; at most `most`.

    later_bytes: what the run will need on top. advice: what a smaller one of would help.

    Raises:
        TrainingError: the smallest batch does not fit.
    """
    budget = int(fraction * meter.capacity_bytes()) - later_bytes
    measured: list[tuple[int, int]] = []
    for asked in PROBED_BATCHES:
        if measured and (asked > most or measured[-1][1] > budget):
            break
        samples = min(asked, most)
        meter.start()
        try:
            step(samples)
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # they hold what did not fit
            most = samples - 1
            break
        measured.append((samples, meter.peak_bytes()))
    fits = min(fit_batch(measured, budget), most) if measured else 0
    if fits < 1:
        raise TrainingError(
            f"not even a batch of {PROBED_BATCHES[0]} fits the GPU's memory "
            f"({meter.capacity_bytes() / 2**30:.1f} GiB are free): choose a smaller {advice}, or "
            "end what else uses this GPU"
        )
    return fits


@dataclass(frozen=True)
class Probe:
    """The training step of a task that is measured: its model, its data, and where it runs."""

    task: TrainingTask
    model: nn.Module
    dataset_path: Any  # the training data, as `get_dataloader` takes them
    device: torch.device
    amp: bool
    rank: int

    def samples(self) -> int:
        """Of this rank in an epoch."""
        with undisturbed():
            return len(self._loader(1))

    def fits(self, meter: Meter, most: int, fraction: float) -> int:
        """How many samples fit into a `fraction` of the free memory; at most `most`. Nothing in it
        may wait for other ranks: they may take another number of steps.

        Raises:
            TrainingError: the smallest batch does not fit.
        """
        model = copy.deepcopy(self.model).train()  # stands for the average's copy, too
        weights = [p for p in model.parameters() if p.requires_grad]
        moments_bytes = MOMENTS * sum(p.numel() * p.element_size() for p in weights)

        def step(samples: int) -> None:
            batch = self.task.probe_batch(batch=self._first_batch(samples))
            with autocast(self.amp, self.device):
                preds = self.task.forward(model=model, batch=batch)
                loss, _ = self.task.checked_loss(self.task.criterion(preds=preds, batch=batch))
            loss.backward()

        with undisturbed():
            return find_batch(step, meter, most, fraction, moments_bytes, self.task.memory_advice)

    def _loader(self, samples: int) -> Any:
        return self.task.get_dataloader(
            dataset_path=self.dataset_path, batch_size=samples, mode="train", rank=self.rank
        )

    def _first_batch(self, samples: int) -> Any:
        loader = self._loader(samples)
        try:
            return next(iter(loader))
        finally:
            getattr(loader, "close", lambda: None)()  # worker processes


def agree_on_batch(fits: int, samples: int, world: World, fraction: float) -> int:
    """Samples per step over all ranks: what fits each of them, and leaves `STEPS_PER_EPOCH` steps
    in an epoch.

    fits, samples: of this rank, samples in an epoch. fraction: of the free memory that they fill.
    """
    per_rank = min(world.gather(min(fits, max(samples // STEPS_PER_EPOCH, 2))))
    memory = f"{100 * fraction:.0f} % of free GPU memory"
    why = (
        f"{fits} fit in {memory}; limited to keep {STEPS_PER_EPOCH} steps per epoch"
        if per_rank < fits
        else f"as many as fit in {memory}"
    )
    log.info("auto batch: %d (%s)", per_rank * world.size, why)
    return per_rank * world.size


def out_of_memory(state: RunState) -> str:
    """Where a run ran out of memory, for messages."""
    return (
        f"out of memory at epoch {state.epoch + 1}, batch {state.batch_index + 1}, with "
        f"batch={state.batch_size}"
    )


def out_of_memory_error(
    state: RunState, fits: int | None, advice: str, last: Path
) -> TrainingError:
    """The error of a run whose batch is too large, naming one that fits.

    fits: as measured; None: not known. advice: what a smaller one of would help. last: checkpoint.
    """
    smaller = state.batch_size // 2
    if fits is not None and fits < state.batch_size:
        way_out = f"batch={fits} fits"
    else:
        way_out = f"try batch={smaller}" if smaller else f"choose a smaller {advice}"
    kept = f" Weights so far: model={last}" if last.exists() else ""
    return TrainingError(
        f"{out_of_memory(state)}: {way_out}. It makes another run: start it without resume.{kept}"
    )


def check_can_be_found(meter: Meter | None) -> None:
    """`batch=-1` needs a memory that can be measured.

    Raises:
        ConfigError: on a CPU.
    """
    if meter is None:
        raise ConfigError(
            "batch=-1 finds the batch that fits a GPU's memory, and this run computes on a CPU: "
            "give a number, for example batch=16"
        )
