"""How many images of a run fit a GPU's memory, and what is done when they do not.

Memory of a training step grows with the images along a straight line. A few small batches are
measured, forward and backward, the line is drawn through them, and `MEMORY_SHARE` of what is free
decides. Measuring leaves no trace: weights, running statistics and random numbers are as before, so
the batch that was found, given by hand, makes the same run.
"""

from __future__ import annotations

import copy
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import torch

from engine.config.train import TrainConfig
from engine.core.amp import autocast
from engine.core.distributed import World
from engine.core.randomness import undisturbed
from engine.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from engine.core.trainer import BaseTrainer

log = logging.getLogger("detectflow")

MEMORY_SHARE = 0.7  # the rest is for what varies: objects per image, fragments, other programs
PROBED_IMAGES = (2, 4, 8, 16, 32)
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
    """The largest number of images within `budget_bytes` by the line of least squares through
    (images, bytes).

    Rounded down, 0 where not one fits. A single measurement, or memory that does not grow, says
    nothing about larger
    batches: then the largest measured one that fits.
    """
    n = len(measured)
    images, memory = sum(x for x, _ in measured), sum(y for _, y in measured)
    spread = n * sum(x * x for x, _ in measured) - images * images
    slope = (
        Fraction(n * sum(x * y for x, y in measured) - images * memory, spread)
        if spread
        else Fraction(0)
    )
    if slope <= 0:
        return max((x for x, y in measured if y <= budget_bytes), default=0)
    intercept = (memory - slope * images) / n
    return max(int((budget_bytes - intercept) // slope), 0)


def find_batch(step: Callable[[int], None], meter: Meter, most: int, later_bytes: int = 0) -> int:
    """Measure `step(images)`, forward and backward of so many images, and say how many fit; at most
    `most`.

    later_bytes: what the run will need on top.

    Raises:
        TrainingError: the smallest batch does not fit.
    """
    budget = int(MEMORY_SHARE * meter.capacity_bytes()) - later_bytes
    measured: list[tuple[int, int]] = []
    for asked in PROBED_IMAGES:
        if measured and (asked > most or measured[-1][1] > budget):
            break
        images = min(asked, most)
        meter.start()
        try:
            step(images)
        except torch.OutOfMemoryError as error:
            traceback.clear_frames(error.__traceback__)  # they hold what did not fit
            most = images - 1
            break
        measured.append((images, meter.peak_bytes()))
    fits = min(fit_batch(measured, budget), most) if measured else 0
    if fits < 1:
        raise TrainingError(
            f"not even a batch of {PROBED_IMAGES[0]} images fits the GPU's memory "
            f"({meter.capacity_bytes() / 2**30:.1f} GiB are free): choose a smaller imgsz or "
            "model, or end what else uses this GPU"
        )
    return fits


def batch_that_fits(trainer: BaseTrainer, meter: Meter) -> int:
    """Images per step over all ranks for this run: what fits, and leaves `STEPS_PER_EPOCH` steps in
    an epoch.
    """
    model = copy.deepcopy(trainer.model).train()  # stands for the average's copy, too
    weights_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)

    def step(images: int) -> None:
        batch = trainer.probe_batch(batch=_first_batch(trainer, images))
        with autocast(trainer.args.amp, trainer.device):
            preds = trainer.forward(model=model, batch=batch)
            loss, _ = trainer.checked_loss(trainer.criterion(preds=preds, batch=batch))
        loss.backward()

    with undisturbed():
        images = len(_loader(trainer, 1))  # of this rank
        with _alone(trainer):
            fits = find_batch(step, meter, images, MOMENTS * weights_bytes)
    share = min(trainer.world.gather(min(fits, max(images // STEPS_PER_EPOCH, 2))))
    batch = share * trainer.world.size
    more = (
        f"; {fits} would fit, but an epoch should have {STEPS_PER_EPOCH} steps"
        if share < fits
        else ""
    )
    log.info(
        "batch=%d: found for %.0f%% of the memory that is free on the GPU%s",
        batch,
        100 * MEMORY_SHARE,
        more,
    )
    return batch


@contextmanager
def _alone(trainer: BaseTrainer) -> Iterator[None]:
    """Nothing that the trainer does in the block waits for other ranks: they may take another
    number of steps.
    """
    world, trainer.world = trainer.world, World(trainer.world.rank, 1, trainer.world.local_rank)
    trainer.apply_params()  # a loss may have been made for the world
    try:
        yield
    finally:
        trainer.world = world
        trainer.apply_params()


def _loader(trainer: BaseTrainer, images: int) -> Any:
    return trainer.get_dataloader(
        dataset_path=trainer.data["train"], batch_size=images, mode="train", rank=trainer.world.rank
    )


def _first_batch(trainer: BaseTrainer, images: int) -> Any:
    loader = _loader(trainer, images)
    try:
        return next(iter(loader))
    finally:
        getattr(loader, "close", lambda: None)()  # worker processes


def fit_or_halve(
    trainer: BaseTrainer,
    asked: TrainConfig,
    fit: Callable[[], None],
    start_over: Callable[[], None],
) -> None:
    """`fit()`; where the first epoch runs out of memory, once more from the start with half the
    batch.

    asked: the settings before anything automatic was decided. A batch that was given there is never
    changed.

    Raises:
        TrainingError: it was given, or half does not fit either, or it happened later; names a
            batch that fits.
    """
    given = asked.is_given("batch") and asked.batch > 0
    for may_retry in (not given, False):
        try:
            return fit()
        except torch.OutOfMemoryError as error:
            trainer.batch_size = _after_out_of_memory(trainer, error, may_retry)
        start_over()


def _after_out_of_memory(
    trainer: BaseTrainer, error: torch.OutOfMemoryError, may_retry: bool
) -> int:
    """Half the batch, to start the run again with. The ranks of a distributed run would have to
    agree on it, so they do not.
    """
    traceback.clear_frames(error.__traceback__)  # they hold the activations
    asked, smaller = trainer.batch_size, trainer.batch_size // 2
    where = (
        f"out of memory at epoch {trainer.epoch + 1}, batch {trainer.batch_index + 1}, with "
        f"batch={asked}"
    )
    first = trainer.epoch == 0 and trainer.world.size == 1
    if first and may_retry and smaller:
        log.warning("%s; starting the run again with batch=%d", where, smaller)
        return smaller
    fits = _measured_again(trainer) if first else None
    if fits is not None and fits < asked:
        advice = f"batch={fits} fits"
    else:
        advice = f"try batch={smaller}" if smaller else "choose a smaller imgsz or model"
    kept = f" Weights so far: model={trainer.last}" if trainer.last.exists() else ""
    raise TrainingError(
        f"{where}: {advice}. It makes another run: start it without resume.{kept}"
    ) from error


def _measured_again(trainer: BaseTrainer) -> int | None:
    if trainer.meter is None:
        return None
    trainer.optimizer = trainer.ema = trainer.loss = trainer.batch = None
    trainer.model.zero_grad(set_to_none=True)
    try:
        return batch_that_fits(trainer, trainer.meter)
    except TrainingError:
        return None


def check_can_be_found(meter: Meter | None) -> None:
    """`batch=-1` needs a memory that can be measured.

    Raises:
        ConfigError: on a CPU.
    """
    if meter is None:
        raise ConfigError(
            "batch=-1 finds the batch that fits a GPU's memory, and this run computes on a CPU: "
            "give a number of images, for example batch=16"
        )
