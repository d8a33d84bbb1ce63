"""Stage prepare: a dataset description, or a folder of labelled images, becomes the prepared dataset.

Reading, checking and splitting is the work of `engine.parts.data`; this names the paths, keeps the summary, and says whether
a source that DVC does not watch has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import DataConfig, Params
from engine.errors import EngineError
from engine.stages.common import Attached, Layout, Progress, write_json
from engine.tracking.environment import state_root


def run(params: Params, root: Path, progress: Progress | None = None, callbacks: Sequence[Attached] = ()) -> dict[str, Any]:
    """Write `data/prepared/` and `reports/data.json`.

    Raises:
        ConfigError, DataError: the description or the data cannot be used. WorkspaceError: disk full.
    """
    from engine.parts.data.description import load_description
    from engine.parts.data.prepare import prepare

    layout = Layout(root)
    settings = with_absolute_path(params.data, root)
    report = prepare(load_description(root / settings.source), layout.prepared, settings, progress)
    return write_json(layout.summary("prepare"), report.summary())


def with_absolute_path(settings: DataConfig, root: Path) -> DataConfig:
    """`settings` with a `path` that does not depend on the current folder: it is relative to the workspace.

    In the temporary copy of a DVC experiment the workspace that counts is the project's own.
    """
    if not settings.path or Path(settings.path).is_absolute():
        return settings
    places = (root / settings.path, state_root(root) / settings.path)
    found = next((place for place in places if place.exists()), places[0])
    return settings.with_overrides({"path": str(found)})


def source_changed(params: Params, root: Path) -> bool:
    """Whether a source outside DVC's view holds something else than what was prepared, so that prepare must run.

    DVC watches the description, `data/raw` and the code. What is left is a local folder elsewhere: `data.path`, or the path
    in a description. If it is not there (a fresh clone with pulled data), what was prepared stands.

    Raises:
        ConfigError, DataError: the description cannot be used.
    """
    from engine.parts.data.description import load_description
    from engine.parts.data.fingerprint import Snapshot, recall, remember
    from engine.parts.data.prepare import read_source_digest

    settings = with_absolute_path(params.data, root)
    source = root / settings.source
    description = load_description(source)
    folder = description.local_folder(settings)
    watched = folder is None or folder.resolve().is_relative_to((root / "data" / "raw").resolve())
    if watched or (source.is_dir() and not settings.path):
        return False
    try:
        info = json.loads((Layout(root).prepared / "dataset.json").read_text(encoding="utf-8"))
        recorded = {"content": info["source_digest"], "layout": info["source_layout"]}
    except (OSError, ValueError, KeyError, TypeError):
        return True
    if not folder.is_dir():
        return False
    about = [str(folder.resolve()), description.content.model_dump(mode="json"), settings.policies]
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    index = state_root(root) / ".cache" / "sources" / f"{key}.json"
    found = recall(index, folder)
    if found is None:
        before = Snapshot.of(folder)
        try:
            content, layout = read_source_digest(description, settings, folder)
        except EngineError:
            return True  # prepare says what is wrong with it
        found = {"content": content, "layout": layout}
        remember(index, before, found)
    return found != recorded
