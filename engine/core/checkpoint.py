"""Checkpoints: tensors and plain data, read with `weights_only=True`; written so that a kill at any
moment loses nothing.

`last.pt` lies beside `last.json`, which names the SHA-256 of the file and of the one before it.
Order of a write: new file complete and synced under another name; the sidecar accepts both; the old
file is kept as `last.prev.pt`; rename. At every instant there is a checkpoint whose hash the
sidecar knows. The bytes of `best.pt` hold no time and no path: equal results hash alike. Those of
`last.pt` hold the seconds that the run took.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from engine.errors import CheckpointError, WorkspaceError
from engine.files import FULL, atomic_write, sha256_file

FORMAT = "detectflow-checkpoint-1"
PLAIN = (str, int, float, bool, bytes, type(None))
PARTS = ("meta", "model", "ema", "optimizer", "training")


@dataclass
class Checkpoint:
    """What a training run needs to go on, and a predictor to start."""

    meta: dict[
        str, Any
    ]  # plain data: names, model, class hash, data digest, versions, configuration
    model: dict[str, torch.Tensor]  # raw weights, float32
    ema: dict[str, torch.Tensor] | None = None  # averaged weights, float32
    optimizer: dict[str, Any] | None = None
    training: dict[str, Any] = field(
        default_factory=dict
    )  # epoch, counters, RNG, early-stop memory, scaler

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The weights to use: averaged ones where there are."""
        return self.ema if self.ema is not None else self.model


def sidecar_of(path: Path) -> Path:
    """`best.pt` -> `best.json`."""
    return path.with_suffix(".json")


def previous_of(path: Path) -> Path:
    """`last.pt` -> `last.prev.pt`."""
    return path.with_suffix(f".prev{path.suffix}")


def save_checkpoint(
    checkpoint: Checkpoint, path: Path, summary: dict[str, Any] | None = None
) -> str:
    """Write `path` and its sidecar; the file before it stays as `*.prev.pt`. Returns the SHA-256.

    Raises:
        WorkspaceError: the disk is full or the folder cannot be written; the old checkpoint is
            untouched.
        CheckpointError: something in it is neither a tensor nor plain data.
    """
    temporary = path.with_suffix(
        ".tmp"
    )  # torch.save writes the stem into the bytes: best.tmp and best.pt agree
    content = {
        "format": FORMAT,
        "meta": checkpoint.meta,
        "model": checkpoint.model,
        "ema": checkpoint.ema,
        "optimizer": checkpoint.optimizer,
        "training": checkpoint.training,
    }
    content = _canonical(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as stream:
            torch.save(content, stream)
            stream.flush()
            os.fsync(stream.fileno())
        digest = sha256_file(temporary)
        before = sha256_file(path) if path.exists() else None
        write_sidecar(path, {"sha256": digest, "previous_sha256": before, **(summary or {})})
        if path.exists():
            _link_or_copy(path, previous_of(path))
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _not_written(path, error) from error
    return digest


def load_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint after checking its hash.

    Raises:
        CheckpointError: missing, truncated, altered, or not ours; names the previous one where it
            is intact.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    known = {read_sidecar(path).get(key) for key in ("sha256", "previous_sha256")} - {None}
    if known and sha256_file(path) not in known:
        raise CheckpointError(
            f"{path}: damaged: its SHA-256 is not the one in {sidecar_of(path).name}.{_offer(path)}"
        )
    try:
        if not known:
            _check_sums(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # whatever a foreign or cut file makes of the unpickler
        raise CheckpointError(
            f"{path}: damaged, or made by another program ({type(error).__name__}). Nothing in it "
            f"was executed. Checkpoints are made by `detectflow train`.{_offer(path)}"
        ) from error
    if (
        not isinstance(content, dict)
        or content.get("format") != FORMAT
        or not content.keys() >= set(PARTS)
    ):
        raise CheckpointError(
            f"{path}: not a DetectFlow checkpoint of this version; `model=` takes one made by "
            f"`detectflow train`.{_offer(path)}"
        )
    return Checkpoint(**{key: content[key] for key in PARTS})


def put_back_previous(path: Path) -> Path | None:
    """Where `path` is gone or damaged and the checkpoint before it is intact, that one takes its
    place. Returns where the damaged file was put aside, `path` itself if it was gone, None where
    nothing had to be done or could be.

    A file that is whole, but that this version does not read, stays.
    """
    previous, about = previous_of(path), read_sidecar(path)
    known = {about.get("sha256"), about.get("previous_sha256")} - {None}
    if not known or (path.is_file() and sha256_file(path) in known):
        return None
    if not previous.is_file() or sha256_file(previous) != about.get("previous_sha256"):
        return None
    aside = path
    if path.exists():
        aside = path.with_suffix(f".damaged{path.suffix}")
        os.replace(path, aside)
    _link_or_copy(previous, path)
    _sync_folder(path.parent)
    return aside


def read_sidecar(path: Path) -> dict[str, Any]:
    """The JSON beside a checkpoint, or {} where there is none or it is not JSON."""
    try:
        content = json.loads(sidecar_of(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_sidecar(path: Path, content: dict[str, Any]) -> None:
    """Replace the JSON beside a checkpoint. Keys keep their order: that of a row is the order of
    columns.
    """
    with atomic_write(sidecar_of(path), "w") as stream:
        json.dump(content, stream, indent=1)


def _not_written(path: Path, error: BaseException) -> WorkspaceError:
    """What keeps a checkpoint from being written, the way out, and what is left."""
    first: BaseException | None = error
    while first is not None and not isinstance(first, OSError):
        first = first.__cause__ or first.__context__
    reason = first.strerror if isinstance(first, OSError) else str(error)
    is_full = isinstance(first, OSError) and first.errno in FULL
    way_out = (
        "Free some disk space there" if is_full else f"See to it that {path.parent} can be written"
    )
    last = path.with_name("last.pt")
    kept = (
        f"with resume=true, which goes on from {last.name}: it is intact"
        if last.exists()
        else "no epoch was complete yet"
    )
    return WorkspaceError(
        f"{path}: checkpoint could not be written ({reason}). {way_out} and run again, {kept}"
    )


def _check_sums(path: Path) -> None:
    """The check sums inside the file, where no sidecar has its hash: torch does not verify them.

    Raises:
        zipfile.BadZipFile: no archive, or a changed byte.
    """
    with zipfile.ZipFile(path) as archive:
        changed = archive.testzip()
    if changed is not None:
        raise zipfile.BadZipFile(changed)


def _canonical(value: Any, where: str = "") -> Any:
    """Equal content as equal bytes: pickle writes a string once for each object it is, and whether
    two equal strings are one object depends on where they came from, a command line or a dictionary
    in Python.

    Raises:
        CheckpointError: something that could not be read again; names it.
    """
    if isinstance(value, dict):
        return {
            _canonical(key, where): _canonical(item, f"{where}.{key}" if where else str(key))
            for key, item in value.items()
        }
    if type(value) in (list, tuple):
        return type(value)(_canonical(item, f"{where}[{i}]") for i, item in enumerate(value))
    if (
        not isinstance(value, torch.Tensor)
        and type(value) not in PLAIN
        and not _can_be_read_again(value)
    ):
        raise CheckpointError(
            "a checkpoint holds tensors and plain data only, so that reading one runs no code: "
            f"{where} is a {type(value).__name__}. Make it text or a number before it gets there"
        )
    return sys.intern(value) if type(value) is str else value


def _can_be_read_again(value: Any) -> bool:
    """Whether `torch.load` takes it with `weights_only=True`, as it does a few types more than the
    plain ones.
    """
    memory = io.BytesIO()
    try:
        torch.save(value, memory)
        memory.seek(0)
        torch.load(memory, weights_only=True)
    except Exception:  # whatever pickle makes of it
        return False
    return True


def _offer(path: Path) -> str:
    previous = previous_of(path)
    if previous.is_file() and sha256_file(previous) == read_sidecar(path).get("previous_sha256"):
        return (
            f" The one before it, {previous}, is intact: copy it over {path.name} to go on from "
            "there."
        )
    return ""


def _link_or_copy(source: Path, target: Path) -> None:
    staged = target.with_suffix(".tmp")
    staged.unlink(missing_ok=True)
    try:
        os.link(source, staged)
    except OSError:  # a file system without hard links
        staged.write_bytes(source.read_bytes())
    os.replace(staged, target)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
