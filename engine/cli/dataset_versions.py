"""A version of a dataset by its name: a path, or a revision of this project, whose files are
brought here when needed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.config import DataConfig
from engine.data.images import read_image
from engine.data.manifest import (
    DATASET_FILE,
    PreparedDataset,
    dataset_digest,
    load_prepared,
    read_manifest,
)
from engine.datasets.description import load_description
from engine.datasets.open import open_dataset
from engine.datasets.version_diff import Version
from engine.errors import DataError, EngineError
from engine.files import write_bytes
from engine.types import SPLITS, ImageRecord

PREPARED = "data/prepared"  # of a project


def open_version(name: str, root: Path | None, scratch: Path) -> Version:
    """The version that `name` means.

    name: a prepared folder or one of its manifests, a description, a folder of labelled images
    (prepared into the cache), or a revision of the project at `root`; its files are laid into
    `scratch`, an absolute path of a folder that need not exist.

    Raises:
        DataError: nothing of that name, or a dataset that cannot be used. WorkspaceError: a
            revision without that dataset.
    """
    path = Path(name)
    if path.suffix == ".jsonl" and path.is_file():
        if path.stem not in SPLITS:
            raise DataError(
                f"{path}: no manifest of a prepared dataset: those are "
                f"{', '.join(f'{s}.jsonl' for s in SPLITS)}"
            )
        dataset, records = load_prepared(path.parent), read_manifest(path)
        return Version(
            name, dataset.names, dataset_digest(dataset.names, records), records, _pixels
        )
    if path.exists():
        return _whole(name, open_dataset(path), _pixels)
    if root is None:
        raise DataError(
            f"{name}: no such folder or file, and no project here whose revision it could be"
        )
    from engine.versioning.revisions import open_revision  # only here is DVC needed

    read = open_revision(root, name)

    def bring(file: Path) -> None:
        if not file.exists():
            write_bytes(file, read(f"{PREPARED}/{file.relative_to(scratch).as_posix()}"))

    for file in (DATASET_FILE, *(f"{split}.jsonl" for split in SPLITS)):
        bring(scratch / file)

    def pixels(record: ImageRecord) -> np.ndarray | None:
        try:
            bring(record.file)
        except EngineError:  # neither in the cache nor in the remote: the page does without
            return None
        return _pixels(record)

    return _whole(name, load_prepared(scratch), pixels)


def folder_of(name: str) -> Path | None:
    """The folder of the version that `name` means; None for what is fetched, generated, or a
    revision.
    """
    path = Path(name)
    if path.is_dir() or not path.exists():
        return path if path.is_dir() else None
    if path.suffix == ".jsonl":
        return path.parent
    return load_description(path).local_folder(DataConfig())


def _whole(
    name: str, dataset: PreparedDataset, pixels: Callable[[ImageRecord], np.ndarray | None]
) -> Version:
    records = [record for split in SPLITS for record in dataset.records(split)]
    return Version(name, dataset.names, dataset.digest, records, pixels)


def _pixels(record: ImageRecord) -> np.ndarray | None:
    try:
        return read_image(record.file)
    except DataError:  # has gone since
        return None
