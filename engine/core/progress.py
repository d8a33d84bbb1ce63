"""What a person sees while training runs: a bar per epoch, then one line. Nothing when switched off
or not on a terminal.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from tqdm import tqdm

log = logging.getLogger("detectflow")

SHOWN = ("metrics/precision", "metrics/recall", "metrics/mAP50", "metrics/mAP50-95")


class EpochProgress:
    """Iterates a loader under a progress bar that carries the running mean of the losses."""

    def __init__(
        self,
        loader: Iterable[Any],
        epoch: int,
        epochs: int,
        loss_names: tuple[str, ...],
        shown: bool,
    ):
        self._names = loss_names
        self._bar = tqdm(
            loader,
            desc=f"epoch {epoch + 1}/{epochs}",
            leave=False,
            dynamic_ncols=True,
            unit="batch",
            disable=not (shown and sys.stderr.isatty()),
        )

    def __enter__(self) -> EpochProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._bar)

    def show(self, tloss: Tensor | None) -> None:
        """Refresh the figures."""
        if tloss is not None and not self._bar.disable:
            self._bar.set_postfix(
                {n.removesuffix("_loss"): f"{v:.3f}" for n, v in zip(self._names, tloss.tolist())},
                refresh=False,
            )


def say_epoch(row: dict[str, Any], epoch: int, epochs: int, is_best: bool) -> None:
    """One log line per epoch: losses, then the main metrics."""
    losses = " ".join(
        f"{k.removeprefix('train/').removesuffix('_loss')} {v:.3f}"
        for k, v in row.items()
        if k.startswith("train/")
    )
    metrics = " ".join(f"{k.removeprefix('metrics/')} {_shown(row[k])}" for k in SHOWN if k in row)
    log.info(
        "epoch %d/%d  %s  %s%s  %.0f s",
        epoch + 1,
        epochs,
        losses,
        metrics,
        " best" if is_best else "",
        row["time_s"],
    )


def _shown(value: float | None) -> str:
    """`-`: the images say nothing about it."""
    return "-" if value is None else f"{value:.3f}"
