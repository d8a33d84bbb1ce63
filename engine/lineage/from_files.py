"""What a file says of itself: the metadata of a checkpoint or an export, or that it is an image.
Asks nobody else.

Reads headers where the format has them; nothing in a file is executed.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.core.checkpoint import load_checkpoint
from engine.errors import CheckpointError
from engine.files import sha256_file
from engine.lineage.evidence import Statement

HEADER_LIMIT_BYTES = 100_000_000  # of a safetensors file, as its own library has it
TORCHSCRIPT_META = "extra/detectflow.json"  # within the archive, below the name of the program


def is_model(path: Path) -> bool:
    """Whether the name is that of weights or of an export."""
    return path.suffix == ".pt" or path.suffix in READERS


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
    if path.suffix == ".pt":
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
        meta = READERS[path.suffix](path)
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
        "format": path.suffix[1:],
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


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > HEADER_LIMIT_BYTES:
            raise ValueError(f"a header of {length} bytes")
        return json.loads(stream.read(length)).get("__metadata__") or {}


def _read_onnx(path: Path) -> Mapping[str, Any]:
    import onnx

    return {
        prop.key: prop.value
        for prop in onnx.load(str(path), load_external_data=False).metadata_props
    }


def _read_torchscript(path: Path) -> Mapping[str, Any]:
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.endswith(TORCHSCRIPT_META)]
        return json.loads(archive.read(found[0])) if found else {}


READERS: dict[str, Callable[[Path], Mapping[str, Any]]] = {
    ".safetensors": _read_safetensors,
    ".onnx": _read_onnx,
    ".torchscript": _read_torchscript,
}
