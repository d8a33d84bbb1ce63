"""A weight file of another tool, read as tensors and plain data: every class that its pickle names
is replaced by an inert stand-in, so that nothing of it is imported and nothing runs.

What a file says of its own size is compared with what it is before memory is asked for.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.errors import CheckpointError

LARGEST_FILE = 4 * 2**30  # bytes; the largest network of the family with its optimizer is .6 GB
DEEPEST = 30  # modules in modules
MOST_MODULES = 10_000  # the largest network of the family has 400
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTER = "num_batches_tracked"  # the one tensor of whole numbers
TORCHS_HINTS = ("weights_only", "documentation of torch.load")  # how to run what a file holds


class Inert:
    """Stands for whatever class or function a file names: holds what it was given, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read(path: Path) -> Any:
    """What is in the file: tensors, plain data, stand-ins.

    Raises:
        CheckpointError: there is none, or it cannot be read so.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise CheckpointError(f"{path}: {size / 2**30:.1f} GiB: no detector of this family")
    if path.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
    _check_members(path)
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        inert = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in foreign]
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make the reader raise anything
        raise CheckpointError(
            f"{path}: cannot be read as tensors and plain data: {_reason(error)[:200]}"
        ) from None


def _check_members(path: Path) -> None:
    """CheckpointError where the archive says that it holds more than the file has bytes: torch
    never compresses, and asks for as much memory as is said.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            said = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # no archive: the reader says so
    if said > path.stat().st_size:
        raise CheckpointError(
            f"{path}: cannot be read: says to hold {said / 1e6:.0f} MB, and the file has "
            f"{path.stat().st_size / 1e6:.1f} MB: compressed or made up. torch.save writes none "
            "such"
        )


def _reason(error: Exception) -> str:
    """What torch found, without its hint to open the file in the way that runs code."""
    said = str(error).rpartition("WeightsUnpickler error:")[2]
    lines = [line.strip() for line in said.splitlines()]
    kept = [line for line in lines if line and not any(hint in line for hint in TORCHS_HINTS)]
    return kept[0] if kept else type(error).__name__


def tensors_in(holder: Any, path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a state dict, or of a network that was stored whole.

    Raises:
        CheckpointError: modules without end, or a tensor that is no plain one of numbers.
    """
    pairs = holder.items() if isinstance(holder, Mapping) else _of_modules(holder, path)
    found = {str(name): value for name, value in pairs if isinstance(value, Tensor)}
    for name, tensor in found.items():
        if why := _what_is_odd(name, tensor):
            raise CheckpointError(f"{path}: tensor '{name[:100]}' {why}: no weights")
    return found


def _of_modules(top: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """(name, tensor): stand-ins in stand-ins, one of them perhaps in several places."""
    waiting, seen = [(top, "", 0)], 0
    while waiting:
        module, prefix, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST_MODULES:
            raise CheckpointError(
                f"{path}: more than {MOST_MODULES} modules, or {DEEPEST} in one another: no "
                "detector of this family"
            )
        parts = getattr(module, "__dict__", {})
        for kind in ("_parameters", "_buffers", "_modules"):
            inner = parts.get(kind) or {}
            if not isinstance(inner, Mapping):
                raise CheckpointError(
                    f"{path}: {prefix}{kind} is of type {type(inner).__name__}, not names and "
                    "what they stand for: not a network"
                )
            if kind == "_modules":
                waiting += [(each, f"{prefix}{name}.", depth + 1) for name, each in inner.items()]
            else:
                yield from ((f"{prefix}{name}", value) for name, value in inner.items())


def _what_is_odd(name: str, tensor: Tensor) -> str:
    """Why a tensor is no plain one; empty: it is."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        where = f" on device '{tensor.device.type}'" if tensor.device.type != "cpu" else ""
        return f"is stored as {tensor.layout}{where}"
    if tensor.dtype not in FLOATS and not (
        name.endswith(COUNTER) and not tensor.dtype.is_complex and tensor.numel() == 1
    ):
        return f"is of type {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return f"has shape {tuple(tensor.shape)} and fewer numbers than that"
    return ""
