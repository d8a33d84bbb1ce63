"""Pictures of single epochs, named as MLflow's UI wants them to show a slider over the epochs.

What is drawn decides the artist that a stage brings; this file knows which epochs, and how MLflow calls such a file:
`images/KEY+step+N+timestamp+MS+ID.webp`, beside it the same with `+compressed`, smaller, which the UI shows first.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, Protocol

from engine.files import sha256_file
from engine.tracking.journal import Journal, Record

FOLDER = "images"  # MLflow looks for them there
LOGGED_TAG = "mlflow.loggedImages"  # on a run that has some
FULL_PX, SMALL_PX = 1600, 800
QUALITY = 80


class Artist(Protocol):
    """Draws one epoch."""

    def catch(self, validator: Any) -> None:
        """Keep what is needed of the validator's batch under way; called after every batch of an epoch that is drawn."""

    def draw(self, validator: Any, folder: Path) -> dict[str, Path]:
        """Pictures of the validation that has ended, in `folder`, by key."""


class EpochPictures:
    """Has `artist` draw `most` epochs; attach `on_train_epoch_end` and `on_val_batch_end` to the trainer."""

    def __init__(self, artist: Artist, most: int):
        self.artist, self.most = artist, most
        self.is_due = False

    def on_train_epoch_end(self, trainer: Any) -> None:
        self.is_due = trainer.epoch in epochs_drawn(trainer.args.epochs, trainer.args.val_period, self.most)

    def on_val_batch_end(self, validator: Any) -> None:
        if self.is_due:
            self.artist.catch(validator)

    def records(self, validator: Any, journal: Journal, step: int, at_ms: int) -> list[Record]:
        """Draw the epoch that was validated, if it is one of those."""
        if not self.is_due:
            return []
        self.is_due = False
        with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
            drawn = self.artist.draw(validator, Path(scratch))
            files = [file for key, path in drawn.items() for file in as_logged(path, key, step, at_ms)]
            records = [{"do": "artifact", "file": journal.keep(file), "folder": FOLDER} for file in files]
        return [*records, {"do": "tags", "values": {LOGGED_TAG: "True"}}] if records else []


def epochs_drawn(total: int, val_period: int, most: int) -> set[int]:
    """At most `most` of the epochs (from 0) that are validated: the first, the last, and more early than late between them,
    because a detector learns most in its first epochs, and many a training ends before its last."""
    validated = [epoch for epoch in range(total) if (epoch + 1) % val_period == 0 or epoch + 1 == total]
    if most < 2:
        return set(validated[-1:]) if most else set()
    return {validated[round((len(validated) - 1) * (i / (most - 1)) ** 2)] for i in range(most)}


def as_logged(picture: Path, key: str, step: int, at_ms: int) -> list[Path]:
    """`picture` as the two files of MLflow, beside it; the same picture gets the same names."""
    from PIL import Image

    key = re.sub(r"[^\w\-. /]", "_", key, flags=re.ASCII).replace("/", "~")
    stem = f"{key}+step+{step}+timestamp+{at_ms}+{sha256_file(picture)[:12]}"
    made = []
    for name, most_px in ((f"{stem}.webp", FULL_PX), (f"{stem}+compressed.webp", SMALL_PX)):
        with Image.open(picture) as image:
            image = image.convert("RGB")
            image.thumbnail((most_px, most_px))
            image.save(picture.with_name(name), quality=QUALITY, method=1)
        made.append(picture.with_name(name))
    return made
