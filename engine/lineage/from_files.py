"""What a file says of itself: the metadata of a checkpoint or an export, or that it is an image.
Asks nobody else.

Reads headers where the format has them; nothing in a file is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.core.checkpoint import load_checkpoint
from engine.errors import CheckpointError
from engine.files import sha256_file
from engine.lineage.evidence import Statement
from engine.model_formats.table import check_suffix, format_of
from engine.models.hub.origins import KEY as ORIGINS
from engine.models.hub.origins import all_in_words


def is_image(path: Path) -> bool:
    """Whether the first bytes are those of an image that can be read."""
    import cv2

    return cv2.haveImageReader(str(path))


def file_statements(path: Path, place: str) -> list[Statement]:
    """What the model file `path` says; of an export also what it says of the weights it was made
    from.

    place: how the file is called in the answer.

    Raises:
        CheckpointError: damaged, or not made by this project.
    """
    check_suffix(path)
    format = format_of(path)
    if format is None:
        meta = load_checkpoint(path).meta
        return [
            Statement(
                "weights",
                sha256_file(path),
                f"{place}, its own metadata",
                {"place": place, **weights_facts(meta)},
            )
        ]
    try:
        meta = format.read_meta(path)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a foreign file makes of a reader
        raise CheckpointError(
            f"{path}: damaged, or no {path.suffix} file ({type(error).__name__}: {error})"
        ) from None
    weights = meta.get("weights_sha256")
    if not weights:
        raise CheckpointError(
            f"{path}: says nothing of the weights it was made from: not exported by this project. "
            "Exports are made by `detectflow export` and by stage export."
        )
    source = f"{place}, its own metadata"
    about = {
        "place": place,
        "format": format.name,
        "weights_sha256": weights,
        "made_by": _made_by(meta),
    }
    return [
        Statement("file", sha256_file(path), source, about),
        Statement("weights", str(weights), source, weights_facts(meta)),
    ]


def weights_facts(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint, or the texts of an export, as facts about the weights."""
    settings = _value(meta.get("config") or meta.get("training") or {})
    size = _value(meta.get("imgsz") or ())
    return {
        "network": str(meta.get("model", "")),
        "published weights": all_in_words(_value(meta.get(ORIGINS) or ())),
        "input_px": "x".join(map(str, size)) if size else "",
        "classes": ", ".join(map(str, _value(meta.get("names") or ()))),
        "class_hash": str(meta.get("class_hash", "")),
        "data_digest": str(meta.get("data_digest", "")),
        "settings": {f"train.{key}": value for key, value in settings.items()},
    }


def _value(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _made_by(meta: Mapping[str, Any]) -> str:
    version = meta.get("detectflow_version")
    return f"detectflow {version}" if version else ""
