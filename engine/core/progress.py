"""What a person sees while training runs: a bar per epoch, then one line. Nothing when switched off
or not on a terminal.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor
from tqdm import tqdm

log = logging.getLogger("detectflow")


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
        """Refresh the losses."""
        if tloss is not None and not self._bar.disable:
            self._bar.set_postfix(
                {n.removesuffix("_loss"): f"{v:.3f}" for n, v in zip(self._names, tloss.tolist())},
                refresh=False,
            )


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
