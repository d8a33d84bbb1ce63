"""Test images that must not decide: those that a model has seen in training."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine.comparison.measure import key_of
from engine.comparison.models import Model
from engine.data.manifest import COPIES_FILE, PreparedDataset
from engine.errors import DataError
from engine.files import sha256_file


def copies_digest(data: PreparedDataset) -> str:
    """What stage prepare found of copies, as one digest; "" where it has not looked."""
    return sha256_file(data.folder / COPIES_FILE) if is_searched(data) else ""


def is_searched(data: PreparedDataset) -> bool:
    """Whether copies of training images have been looked for in this folder."""
    return (data.folder / COPIES_FILE).is_file()


def images_left_out(
    data: PreparedDataset, split: str, models: Sequence[Model]
) -> dict[str, list[str]]:
    """Reason -> images of `split`, named by `key_of`; an image has one reason.

    Copies of training images (exact, re-encoded, mirrored, cropped) as stage prepare found them,
    and the very images that one of the models was trained on, as far as that is recorded.
    """
    records = data.records(split)
    copies = _copies(data, split)
    reasons: dict[str, list[str]] = {}
    for record in records:
        reason = copies.get(record.sha256, "")
        for model in models:
            if not reason and model.trained_on and record.sha256 in model.trained_on:
                reason = f"{model.name} was trained on it"
        if reason:
            reasons.setdefault(reason, []).append(key_of(record))
    return reasons


def _copies(data: PreparedDataset, split: str) -> dict[str, str]:
    """SHA-256 of an image of `split` -> which kind of copy of it is in train."""
    file = data.folder / COPIES_FILE
    if not file.is_file():
        return {}
    found: dict[str, str] = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            if values["split"] == split:
                found[values["sha256"]] = f"{values['kind']} copy in train"
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file}: damaged ({error!r}); prepare the dataset again (detectflow run)"
        ) from None
    return found
