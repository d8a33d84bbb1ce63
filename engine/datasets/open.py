"""Open any kind of dataset: a prepared folder as it is, everything else prepared into a cache first
and found again there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

from engine.code.closure import Sources
from engine.code.rooms import code_of_stage, package_folder
from engine.config import DataConfig
from engine.data.manifest import DATASET_FILE, LAYOUT_VERSION, PreparedDataset, load_prepared
from engine.datasets.description import Description, load_description
from engine.datasets.generated import generator
from engine.datasets.prepare import prepare
from engine.datasets.source import default_cache_dir, refuse_result_in
from engine.datasets.source_digest import Snapshot, recall, remember
from engine.datasets.workers import LocalWorkers
from engine.errors import DataError, WorkspaceError
from engine.files import read_object
from engine.locks import locked
from engine.types import SPLITS


def open_dataset(source: str | Path, cache_dir: Path | None = None) -> PreparedDataset:
    """Open a prepared folder, a description (.yaml) or a folder of labelled images.

    The last two are prepared into `cache_dir`/datasets/ once, with default settings, and found
    again while the content of the source, its description and the code that prepares are the same.
    A folder there never changes: who works with it keeps it, whatever happens to the source.
    Several processes may call this at once; one prepares, the others wait.
    A split may be empty here, for example test of a set to train on: who needs images of one says
    so (`require`).

    Raises:
        DataError, ConfigError: there is no such dataset, or it cannot be used as it is.
    """
    source = Path(source)
    if (source / DATASET_FILE).is_file():
        return load_prepared(source)
    description = load_description(source)
    cache = (cache_dir or default_cache_dir()) / "datasets"
    settings = DataConfig(source=str(source), policies={"empty_split": "warn"})
    if folder := description.local_folder(settings):
        refuse_result_in(folder, cache)
    key = _cache_key(description, settings, _code(cache.parent))
    index = cache / f"{key}.json"
    with locked(cache / f".{key}.lock"):
        found = _find_entry(index, cache, description, settings)
        return found or _make_entry(index, cache, description, settings)


def _cache_key(description: Description, settings: DataConfig, code: dict[str, str]) -> str:
    """Everything a prepared dataset depends on, except what lies in the source folder."""
    folder = description.local_folder(settings)
    parts = [
        LAYOUT_VERSION,
        description.content.model_dump(mode="json"),
        settings.model_dump(mode="json", exclude={"source"}),
        os.path.abspath(folder) if folder else None,
        generator(description.content.generator).versions() if description.generated else None,
        code,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _code(cache_dir: Path) -> dict[str, str]:
    """What the code that prepares does; its comments and messages do not count."""
    sources = Sources.below(package_folder(), cache_dir / "code.json")
    found = code_of_stage("prepare", sources)
    sources.keep()
    return found


def _find_entry(
    index: Path, cache: Path, description: Description, settings: DataConfig
) -> PreparedDataset | None:
    """The prepared folder that the index knows, if the source is unchanged and the folder whole."""
    folder = description.local_folder(settings)
    if folder is not None:
        noted = recall(index, folder)
    else:  # generated, or a download pinned by its digest: the key says it all
        noted = read_object(index).get("value")
    if not isinstance(noted, dict) or not isinstance(noted.get("entry"), str):
        return None
    return _whole(cache / noted["entry"])


def _whole(entry: Path) -> PreparedDataset | None:
    """The prepared folder, if nothing of it was deleted."""
    with contextlib.suppress(DataError, OSError):
        dataset = load_prepared(entry)
        if all(
            _count_files(dataset.folder / "images" / split) == dataset.counts[split]["images"]
            for split in SPLITS
        ):
            return dataset
    return None


def _count_files(folder: Path) -> int:
    return sum(1 for _ in os.scandir(folder)) if folder.is_dir() else 0


def _make_entry(
    index: Path, cache: Path, description: Description, settings: DataConfig
) -> PreparedDataset:
    folder = description.local_folder(settings)
    before = Snapshot.of(folder) if folder is not None and folder.is_dir() else Snapshot("", 0, 0)
    building = cache / f"building-{index.stem}"
    report = prepare(description, building, settings, mapper=LocalWorkers())
    entry = (
        cache
        / f"{index.stem}-{report.info['source_digest'][:12]}{report.info['source_layout'][:4]}"
    )
    try:
        if _whole(entry) is None:
            shutil.rmtree(entry, ignore_errors=True)
            os.replace(building, entry)
        else:  # the same content, perhaps in use
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise WorkspaceError(
            f"{entry}: cannot be written ({error.strerror}); free space, or use another folder"
        ) from None
    remember(index, before, {"entry": entry.name})
    return load_prepared(entry)
