"""The data of an executor. A prepared folder, which is what the stages read, is opened as it is;
only what has to be prepared first needs `engine.datasets`.
"""

from __future__ import annotations

from pathlib import Path

from engine.data.manifest import DATASET_FILE, PreparedDataset, load_prepared


def open_data(source: str | Path) -> PreparedDataset:
    """A prepared folder, a description (.yaml) or a folder of labelled images.

    Raises:
        DataError, ConfigError: there is no such dataset, or it cannot be used as it is.
    """
    if (Path(source) / DATASET_FILE).is_file():
        return load_prepared(source)
    from engine.datasets.open import open_dataset  # readers, checks and workers: not before here

    return open_dataset(source)
