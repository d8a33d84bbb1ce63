"""What a person sees while training runs: a line that says what begins, a bar per epoch or, where
there is no terminal, a line now and then; then one line. Nothing when switched off.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from engine.core.distributed import World

log = logging.getLogger("detectflow")

LINE_EVERY_S = 30.0  # where there is no terminal to draw a bar on

Clock = Callable[[], float]  # s


def has_terminal() -> bool:
    """Whether a bar can be drawn, which is redrawn in place."""
    return sys.stderr.isatty()


class ProgressLines:
    """A log line every `LINE_EVERY_S` seconds within something that takes long, so that a log
    that nobody can redraw shows that it goes on. The first one comes after that time: what is done
    sooner needs none.

    what: how the line begins. total: of what is counted; None: not known.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        shown: bool = True,
        clock: Clock = time.monotonic,
    ):
        self._what, self._total, self._unit, self._clock = what, total, unit, clock
        self._shown = shown and not has_terminal()
        self._started = self._said = clock()

    def show(self, done: int, more: Callable[[], str] = str) -> None:
        """Say how far it is, if it is time to. more: what else stands in the line; asked only
        then, because to know it may mean to wait for a GPU.
        """
        now = self._clock()
        if not self._shown or now - self._said < LINE_EVERY_S or done == self._total:
            return
        self._said = now
        of = "" if self._total is None else f" of {self._total}"
        left = ""
        if self._total is not None and done:
            left_s = (now - self._started) / done * (self._total - done)
            left = f", about {left_s:.0f} s left"
        text = more()
        log.info(
            "%s  %s %d%s%s  %.0f s%s",
            self._what,
            self._unit,
            done,
            of,
            f"  {text}" if text else "",
            now - self._started,
            left,
        )


class EpochProgress:
    """Iterates a loader and shows how far it is, with the running mean of the losses."""

    def __init__(
        self,
        loader: Iterable[Any],
        epoch: int,
        epochs: int,
        loss_names: tuple[str, ...],
        shown: bool,
        clock: Clock = time.monotonic,
    ):
        self._names = loss_names
        what = f"epoch {epoch + 1}/{epochs}"
        self._bar = tqdm(
            loader,
            desc=what,
            leave=False,
            dynamic_ncols=True,
            unit="batch",
            disable=not (shown and has_terminal()),
        )
        self._lines = ProgressLines(what, self._bar.total, "batch", shown, clock)
        self._done = 0

    def __enter__(self) -> EpochProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._bar)

    def show(self, tloss: Tensor | None) -> None:
        """A batch is done: refresh the losses."""
        self._done += 1
        self._lines.show(self._done, lambda: " ".join(self._losses(tloss, " ")))
        if not self._bar.disable:
            self._bar.set_postfix_str(", ".join(self._losses(tloss, "=")), refresh=False)

    def _losses(self, tloss: Tensor | None, sign: str) -> list[str]:
        values = [] if tloss is None else tloss.tolist()
        return [f"{n.removesuffix('_loss')}{sign}{v:.3f}" for n, v in zip(self._names, values)]


def log_start(
    loader: Any,
    val_loader: Any,
    batch_size: int,
    epochs: tuple[int, int],
    device: torch.device,
    world: World,
    place: Any,
    sample_word: str,
) -> None:
    """What begins, in one line. epochs: the first one to train and the last one, from 1."""
    first, last = epochs
    images = _samples_of(loader)
    what = "" if images is None else f" on {images} {sample_word}"
    if (val := _samples_of(val_loader)) is not None and what:
        what += f" ({val} for validation)"
    which = f"{last} epoch{'s' if last > 1 else ''}" if first == 1 else f"epochs {first} to {last}"
    log.info(
        "training%s: %s of %d step%s, batch %d, on %s, into %s",
        what,
        which,
        len(loader),
        "" if len(loader) == 1 else "s",
        batch_size,
        _computers(device, world),
        place,
    )


def _samples_of(loader: Any) -> int | None:
    """All samples of a loader over all ranks; None where it does not say."""
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):  # a loader of the user's own, a dataset without a length
        return None


def _computers(device: torch.device, world: World) -> str:
    """`cpu (2 threads)`, `cuda:0 (NVIDIA H200)`, `4 x cuda (NVIDIA H200)`."""
    if device.type == "cuda":
        about = torch.cuda.get_device_name(device)
    else:
        about = f"{torch.get_num_threads()} threads" if device.type == "cpu" else ""
    name = f"{world.size} x {device.type}" if world.size > 1 else str(device)
    return f"{name} ({about})" if about else name


def log_epoch(
    row: dict[str, Any], epoch: int, epochs: int, is_best: bool, metrics: Sequence[str] | None
) -> None:
    """One log line per epoch: losses, then the metrics of these names; None: all there are."""
    losses = " ".join(
        f"{k.removeprefix('train/').removesuffix('_loss')} {v:.3f}"
        for k, v in row.items()
        if k.startswith("train/")
    )
    if metrics is None:
        metrics = [key for key in row if key.startswith("metrics/")]
    measured = " ".join(
        f"{k.removeprefix('metrics/')} {_shown(row[k])}" for k in metrics if k in row
    )
    log.info(
        "epoch %d/%d  %s  %s%s  %.0f s",
        epoch + 1,
        epochs,
        losses,
        measured,
        " best" if is_best else "",
        row["time_s"],
    )


def _shown(value: float | None) -> str:
    """`-`: the data say nothing about it."""
    return "-" if value is None else f"{value:.3f}"
