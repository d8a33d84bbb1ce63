"""Stage prepare: a dataset description, or a folder of labelled images, becomes the prepared
dataset.

Reading, checking and splitting is the work of `engine.datasets`; this names the paths, keeps the
summary, and says whether a source that DVC does not watch has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import DataConfig, Params
from engine.errors import EngineError
from engine.files import read_object
from engine.project.environment import state_root
from engine.stages.layout import Attached, Layout, Progress, write_json

log = logging.getLogger("detectflow.data")


def run(
    params: Params,
    root: Path,
    progress: Progress | None = None,
    callbacks: Sequence[Attached] = (),
    mapper: Any = None,
) -> dict[str, Any]:
    """Write `data/prepared/` and `reports/data.json`, and pin the dataset's classes in
    `data/classes.yaml`.

    mapper: what scans the images (`engine.datasets.image_scan.Mapper`); by default
    `flows.prepare.workers` processes here.

    Raises:
        ConfigError, DataError: the description or the data cannot be used. WorkspaceError: disk
            full, a worker was killed.
    """
    from engine.datasets.description import load_description
    from engine.datasets.prepare import prepare
    from engine.datasets.workers import LocalWorkers

    layout = Layout(root)
    settings = with_absolute_path(params.data, root)
    mapper = mapper or LocalWorkers(params.flows.prepare.workers)
    description = load_description(root / settings.source)
    schema = project_classes(root, description.name)
    report = prepare(description, layout.prepared, settings, progress, schema, mapper)
    _pin(root, description.name, report.info["names"], is_new=schema is None)
    return write_json(layout.summary("prepare"), report.summary())


def project_classes(root: Path, dataset: str) -> Any:
    """The `ClassSchema` of this project's data/classes.yaml for a dataset, None where there is
    none. ConfigError: the file is not right.
    """
    from engine.datasets.classes import CLASSES_FILE, load_classes

    file = root / CLASSES_FILE
    return load_classes(file, CLASSES_FILE, dataset) if file.is_file() else None


def _pin(root: Path, dataset: str, names: Sequence[str], is_new: bool) -> None:
    """Keep the numbers of the classes for the next time, and say which classes are new."""
    from engine.datasets.classes import CLASSES_FILE, pin_classes

    added = pin_classes(root / CLASSES_FILE, dataset, names)
    if added and is_new:
        log.info("%s: classes pinned in %s: %s", dataset, CLASSES_FILE, ", ".join(added))
    elif added:
        numbers = ", ".join(f"'{name}' is number {names.index(name)}" for name in added)
        log.warning(
            "%s: new classes, added at the end of %s: %s. Commit that file with the data",
            dataset,
            CLASSES_FILE,
            numbers,
        )


def with_absolute_path(settings: DataConfig, root: Path) -> DataConfig:
    """`settings` whose `path` and `keep_splits` do not depend on the current folder: they are
    relative to the workspace.

    In the temporary copy of a DVC experiment the workspace that counts is the project's own.
    """
    found = {}
    for key in ("path", "keep_splits"):
        value = getattr(settings, key)
        if value and not Path(value).is_absolute():
            places = (root / value, state_root(root) / value)
            found[key] = str(next((place for place in places if place.exists()), places[0]))
    return settings.with_overrides(found) if found else settings


def source_changed(params: Params, root: Path) -> bool:
    """Whether a source outside DVC's view holds something else than what was prepared, so that
    prepare must run.

    DVC watches the description, `data/raw` and the code. What is left is a local folder elsewhere:
    `data.path`, or the path in a description. If it is not there (a fresh clone with pulled data),
    what was prepared stands.

    Raises:
        ConfigError, DataError: the description cannot be used.
    """
    from engine.datasets.description import load_description
    from engine.datasets.source import read_source_digest
    from engine.datasets.source_digest import Snapshot, recall, remember

    settings = with_absolute_path(params.data, root)
    source = root / settings.source
    description = load_description(source)
    folder = description.local_folder(settings)
    if _classes_changed(root, description.name):
        return True
    watched = folder is None or folder.resolve().is_relative_to((root / "data" / "raw").resolve())
    if watched or (source.is_dir() and not settings.path):
        return False
    info = read_object(Layout(root).prepared / "dataset.json")
    if not info.keys() >= {"source_digest", "source_layout"}:
        return True
    recorded = {"content": info["source_digest"], "layout": info["source_layout"]}
    if not folder.is_dir():
        return False
    about = [
        str(folder.resolve()),
        description.content.model_dump(mode="json"),
        settings.policies,
        settings.group_by,
        settings.group_table,
        settings.meta_table,
    ]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    index = state_root(root) / ".cache" / "sources" / f"{key}.json"
    found = recall(index, folder)
    if found is None:
        before = Snapshot.of(folder)
        try:
            schema = project_classes(root, description.name)
            content, layout = read_source_digest(
                description, settings, folder, schema.names if schema else ()
            )
        except EngineError:
            return True  # prepare says what is wrong with it
        found = {"content": content, "layout": layout}
        remember(index, before, found)
    return found != recorded


def _classes_changed(root: Path, dataset: str) -> bool:
    """Whether data/classes.yaml, which DVC does not watch because it need not be there, says other
    numbers than prepared. Pinned classes that a later version of the dataset added may be missing.
    """
    try:
        schema = project_classes(root, dataset)
    except EngineError:
        return True  # prepare says what is wrong with it
    info = read_object(Layout(root).prepared / "dataset.json")
    # None: nothing was prepared, which is for others to notice
    prepared = info.get("names")
    if schema is None or prepared is None:
        return False
    pinned = list(schema.names)
    return prepared != (pinned[: len(prepared)] if schema.pinned else pinned)
