"""Safetensors: the trained weights as bare tensors with metadata, for publishing. Nothing in it can
run.

It keeps the weights as trained, not fused, so that training can start from it.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch

from engine.export.job import ExportJob
from engine.files import write_bytes


def write_safetensors(job: ExportJob, path: Path) -> None:
    """Write `path`."""
    from safetensors.torch import save

    # Clones, as two names for one storage are refused by the format.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in job.raw_state.items()
    }
    write_bytes(path, canonical(save(state, metadata=dict(job.meta))))


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
