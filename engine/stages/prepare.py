"""Stage prepare: a dataset description, or a folder of labelled images, becomes the prepared
dataset.

Reading, checking and splitting is the work of `engine.datasets`; this names the paths, keeps the
summary, and says whether a source that DVC does not watch has changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import DataConfig, Params
from engine.errors import EngineError, WorkspaceError
from engine.files import read_object, sha256_file
from engine.project.environment import state_root
from engine.settings.base import load_yaml
from engine.stages.layout import Attached, Layout, Progress, write_json

log = logging.getLogger("detectflow.data")

RAW = Path("data/raw")  # where people put their data


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
    used = raw_inputs(params, root)
    schema = project_classes(root, description.name)
    report = prepare(description, layout.prepared, settings, progress, schema, mapper)
    if raw_inputs(params, root) != used:
        raise WorkspaceError(
            f"stage prepare: {', '.join(used)} changed while it ran, so its results were not "
            "recorded: it is unknown what they were made from. Run it again."
        )
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


def raw_inputs(
    params: Params, root: Path, before: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What prepare uses of `data/raw` besides `data.source`, which dvc.yaml names: the folder that
    a description means, `data.path`, `data.keep_splits`; path -> digest of its content. Whatever
    else lies in `data/raw` is no input, so another dataset there makes nothing run again.

    before: an earlier answer, which stands for what is not at hand (a fresh clone) or cannot be
    told.
    """
    before = before or {}
    try:
        places = _named_places(params.data, root)
    except EngineError:
        return dict(before)  # prepare says what is wrong with it
    source, found = root / params.data.source, {}
    for base in dict.fromkeys((root, state_root(root))):
        raw = (base / RAW).resolve()
        for place in places:
            inner = place.resolve()
            if inner.is_relative_to(source.resolve()) or not inner.is_relative_to(raw):
                continue
            name = f"{RAW.as_posix()}/{inner.relative_to(raw).as_posix()}"
            digest = _content_digest(inner, state_root(root)) or before.get(name)
            found |= {name: digest} if digest else {}
    return found


def _named_places(settings: DataConfig, root: Path) -> list[Path]:
    """Files and folders that the settings, or the description that they name, mean."""
    settings = with_absolute_path(settings, root)
    places = [Path(settings.keep_splits)] if settings.keep_splits else []
    source = root / settings.source
    if settings.path:
        return [*places, Path(settings.path)]
    if source.is_dir() or "generator" in load_yaml(source):
        return places  # asked often, and what follows imports numpy
    from engine.datasets.description import load_description

    folder = load_description(source).local_folder(settings)
    return places if folder is None else [*places, folder]


def _content_digest(place: Path, state: Path) -> str | None:
    """Of a file, or of all files below a folder with their names; None: it is not there. Files are
    read again only where their sizes, times or inodes are others.
    """
    if place.is_file():
        return sha256_file(place)
    if not place.is_dir():
        return None
    from engine.datasets.source_digest import Snapshot, recall, remember

    key = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    index = state / ".cache" / "sources" / f"raw-{key}.json"
    known = recall(index, place)
    if known is None:
        before = Snapshot.of(place)
        files = sorted(file for file in place.rglob("*") if file.is_file())
        lines = [f"{sha256_file(file)} {file.relative_to(place).as_posix()}" for file in files]
        known = {"digest": hashlib.sha256("\n".join(lines).encode()).hexdigest()}
        remember(index, before, known)
    return known["digest"]


def source_changed(params: Params, root: Path) -> bool:
    """Whether a source outside DVC's view holds something else than what was prepared, so that
    prepare must run.

    DVC watches what is used of `data/raw` (`raw_inputs`), the description and the code. What is
    left is a local folder elsewhere:
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
