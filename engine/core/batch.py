"""What the core knows of loaders and batches: some get the epoch, and the first entry of a
batch is the model's input, one row a sample. A task with other batches overrides `forward` and the
validator's `batch_size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def inputs_of(batch: Any) -> Any:
    """The first entry of a mapping, a tuple or a list; else the batch itself."""
    if isinstance(batch, Mapping):
        return next(iter(batch.values()))
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def count_samples(batch: Any) -> int:
    """Rows of the model's input."""
    return len(inputs_of(batch))


def set_epoch(loader: Any, epoch: int) -> None:
    """Give the epoch to whatever in a loader wants it: that is what makes shuffling repeatable."""
    for part in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if part is not None and hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
            return
