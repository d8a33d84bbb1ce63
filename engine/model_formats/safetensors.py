"""Safetensors: the trained weights as bare tensors with metadata, for publishing. Nothing in it can
run.

It keeps the weights as trained, not fused, so that training can start from it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import CheckpointError
from engine.files import write_bytes
from engine.model_formats.base import ExportJob, Format

if TYPE_CHECKING:
    from torch import Tensor

HEADER_LIMIT_BYTES = 100_000_000  # as the library has it


def write_safetensors(job: ExportJob, path: Path) -> None:
    """Write `path`."""
    import torch
    from safetensors.torch import save

    # Clones, as two names for one storage are refused by the format.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in job.raw_state.items()
    }
    write_bytes(path, canonical(save(state, metadata=dict(job.meta))))


def read_safetensors_meta(path: Path) -> Mapping[str, str]:
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > HEADER_LIMIT_BYTES:
            raise ValueError(f"a header of {length} bytes")
        return json.loads(stream.read(length)).get("__metadata__") or {}


def read_safetensors(path: Path) -> tuple[Mapping[str, str], Mapping[str, Tensor]]:
    """(metadata, state) with the tensors as stored, on the CPU.

    Raises:
        CheckpointError: missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as stream:
            return stream.metadata() or {}, {key: stream.get_tensor(key) for key in stream.keys()}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


def canonical(content: bytes) -> bytes:
    """The same file with its header sorted: the library writes the metadata in an order of
    chance.
    """
    (length,) = struct.unpack("<Q", content[:8])
    header = json.dumps(
        json.loads(content[8 : 8 + length]),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    encoded = header.encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors start at a multiple of 8
    return struct.pack("<Q", len(encoded)) + encoded + content[8 + length :]


SAFETENSORS = Format(
    name="safetensors",
    suffix=".safetensors",
    about="the weights as trained, for publishing and for training on",
    write=write_safetensors,
    read_meta=read_safetensors_meta,
    read_weights=read_safetensors,
)
