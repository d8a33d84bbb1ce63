"""What can be compared: registered versions, weight and exported files, runs, and predictions of
any tool in COCO's format.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.detect.model_io import read_weights
from engine.errors import ConfigError, EngineError
from engine.files import sha256_file
from engine.model_formats.table import header_of
from engine.registry.fetch import fetch, is_reference

RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Model:
    """Something that finds boxes. `file` is a model, or a JSON file of predictions."""

    name: str  # for people
    file: Path
    digest: str  # SHA-256 of the file
    predictions: bool = False
    version: str = ""  # in the registry
    trained_on: frozenset[str] | None = None  # SHA-256 of its training images; None: not recorded

    @property
    def bytes(self) -> int:
        return self.file.stat().st_size


def find_model(text: str, root: Path) -> Model:
    """The model that a user names.

    text: `detector@champion`, `detector/3`, `models:/detector/3`, a weight or exported file, the
    folder of a run, the id of an MLflow run, or a JSON file of predictions.

    Raises:
        ConfigError: it names nothing. WorkspaceError: the registry cannot be reached.
    """
    path = Path(text)
    if path.is_file() and path.suffix.lower() == ".json":
        return Model(path.name, path, sha256_file(path), predictions=True)
    if path.is_file():
        return Model(path.as_posix(), path, sha256_file(path))
    if path.is_dir():
        return _of_folder(path)
    if is_reference(text):
        found = fetch(text, root)
        return Model(
            f"{found.name}/{found.version}",
            found.file,
            sha256_file(found.file),
            version=found.version,
            trained_on=found.trained_on,
        )
    if RUN_ID.fullmatch(text):
        from engine.registry.fetch import version_of_run

        return find_model(version_of_run(text, root), root)
    raise ConfigError(
        f"'{text}': no such file or folder, and no registered model. Name a version "
        "(detector@champion, detector/3), a file (weights/best.pt, export/best.onnx), a run "
        "(runs/train, or the id of an MLflow run), or predictions in COCO's format (boxes.json)."
    )


def _of_folder(folder: Path) -> Model:
    for inside in ("weights/best.pt", "best.pt", "predictions.json"):
        file = folder / inside
        if file.is_file():
            return find_model(str(file), folder)
    raise ConfigError(
        f"{folder}: weights/best.pt is not there. Name the folder of a training, or a file."
    )


def class_names(model: Model) -> tuple[str, ...]:
    """The classes that a model file says it knows; empty where it does not."""
    meta: Any = {}
    try:
        if model.predictions:
            content = json.loads(model.file.read_text(encoding="utf-8"))
            if isinstance(content, dict):
                meta = {"names": [each["name"] for each in content.get("categories", ())]}
        elif model.file.suffix.lower() == ".onnx":
            meta = header_of(model.file)
        else:
            meta, _ = read_weights(model.file)
    except (EngineError, ValueError, KeyError, TypeError, OSError, RecursionError):
        return ()
    names = meta.get("names") or ()
    return tuple(names.values() if isinstance(names, dict) else names)
