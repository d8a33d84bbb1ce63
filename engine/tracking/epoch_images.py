"""Images of single epochs, which MLflow's UI shows with a slider over the epochs.

What is drawn decides the artist that a stage brings; this file knows which epochs.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

from engine.tracking.journal import Journal

logger = logging.getLogger("detectflow.tracking")

Draw = Callable[
    [Path], dict[str, Path]
]  # makes the images of one validation in a folder; returns them by key
Record = Callable[..., None]  # takes records


class Artist(Protocol):
    """Draws one epoch."""

    def catch(self, validator: Any) -> None:
        """Keep what is needed of the validator's batch under way; called after every batch of an
        epoch that is drawn.
        """

    def take(self, validator: Any) -> Draw:
        """What draws the validation that has ended, in another thread, while the next one is under
        way.
        """


class EpochImages:
    """Has `artist` draw `most` epochs, in a thread of its own; attach `on_train_epoch_end` and
    `on_val_batch_end`.
    """

    def __init__(self, artist: Artist, most: int):
        self.artist, self.most = artist, most
        self.is_due = self.is_first = False
        self._drawing: list[Future] = []
        self._thread: ThreadPoolExecutor | None = None

    def on_train_epoch_end(self, trainer: Any) -> None:
        drawn = epochs_drawn(trainer.args.epochs, trainer.args.val_period, self.most)
        self.is_due = trainer.epoch in drawn
        self.is_first = self.is_due and trainer.epoch == min(drawn)

    def on_val_batch_end(self, validator: Any) -> None:
        if self.is_due:
            self.artist.catch(validator)

    def draw(self, validator: Any, journal: Journal, step: int, at_ms: int, record: Record) -> None:
        """Begin to draw the epoch that was validated, if it is one of those; `record` gets the
        records when it is done.
        """
        if not self.is_due:
            return
        self.is_due = False
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="detectflow-images")
        draw = self.artist.take(validator)
        # MLflow's slider stands at 0 first, and shows nothing where no image is
        steps = (0, step) if self.is_first and step else (step,)
        self._drawing.append(self._thread.submit(self._draw, draw, journal, steps, at_ms, record))

    def finish(self, wait_s: float) -> None:
        """Wait for what is being drawn, but not longer; then nothing more comes."""
        if self._thread is not None:
            wait(self._drawing, wait_s)
            self._thread.shutdown(wait=False, cancel_futures=True)
            self._thread = None

    def _draw(
        self, draw: Draw, journal: Journal, steps: tuple[int, ...], at_ms: int, record: Record
    ) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
                drawn = draw(Path(scratch))
                records = [
                    {
                        "do": "image",
                        "file": journal.keep(path),
                        "key": re.sub(r"[^\w\-. /]", "_", key, flags=re.ASCII),
                        "step": step,
                        "at": at_ms,
                    }
                    for key, path in drawn.items()
                    for step in steps
                ]
            if records and self._thread is not None:
                record(*records)
        except (
            Exception
        ) as error:  # a full disk, a validator of the user's own: none is the training's business
            logger.warning("epoch %d is not drawn: %s: %s", steps[-1], type(error).__name__, error)


def epochs_drawn(total: int, val_period: int, most: int) -> set[int]:
    """At most `most` of the epochs (from 0) that are validated: the first, the last, and more early
    than late between them, because a detector learns most in its first epochs, and many a training
    ends before its last.
    """
    validated = [
        epoch for epoch in range(total) if (epoch + 1) % val_period == 0 or epoch + 1 == total
    ]
    if most < 2:
        return set(validated[-1:]) if most else set()
    if most >= len(validated):
        return set(validated)
    places = [0]
    for i in range(1, most):
        places.append(max(places[-1] + 1, round((len(validated) - 1) * (i / (most - 1)) ** 2)))
    return {validated[place] for place in places}
