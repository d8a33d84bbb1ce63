"""Published weights of torchvision's detectors: `torchvision:NAME@COCO_V1`, kept as those of the
hub are, and as safetensors.

The file's name has the start of its SHA-256, which is checked; it is read as tensors alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from engine.errors import ConfigError, WorkspaceError, nearest

PREFIX = "torchvision:"
LICENCE = "bsd-3-clause"  # of torchvision, whose page of these weights states no other


def weights_of(repo: str, word: str) -> Any:
    """The member of torchvision's list of weights; repo: `torchvision:NAME`, word: `DEFAULT`, or a
    name such as `COCO_V1`.

    Raises:
        ConfigError: no such network, or no such weights of it.
    """
    from torchvision.models import get_model_weights

    try:
        known = get_model_weights(repo.removeprefix(PREFIX))
    except ValueError:
        raise ConfigError(f"model='{repo}@{word}': torchvision has no such network") from None
    names = ["DEFAULT", *(each.name for each in known)]
    if word not in names:
        raise ConfigError(
            f"model='{repo}@{word}': there are no such weights.{nearest(word, names)} There are "
            f"{', '.join(names)}"
        )
    return known[word]


def class_names(repo: str, word: str) -> tuple[str, ...]:
    """The classes of the weights by column, that of the background first. torchvision numbers COCO
    with its gaps, which it all calls N/A; here they are told apart.
    """
    given = weights_of(repo, word).meta["categories"]
    return tuple(f"N/A {k}" if name == "N/A" else name for k, name in enumerate(given))


def bring(repo: str, word: str, folder: Path, downloads: Path) -> dict[str, Any]:
    """Put the weights into `folder` as `model.safetensors`; returns where they come from.

    downloads: where their file is looked for first, and kept until it is read.

    Raises:
        WorkspaceError: the file cannot be had. ConfigError: see `weights_of`.
    """
    from safetensors.torch import save_file

    url = weights_of(repo, word).url
    name = url.rpartition("/")[2]
    wanted = Path(name).stem.rpartition("-")[2]
    file = downloads / name
    if not file.is_file():
        _download(url, file, f"{repo}@{word}")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if not digest.startswith(wanted):
        file.unlink()
        raise WorkspaceError(
            f"{repo}@{word}: {name} has SHA-256 {digest[:12]}, and its name says {wanted}: it was "
            "removed; try again"
        )
    state = torch.load(file, map_location="cpu", weights_only=True)
    save_file(
        {key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors"
    )
    file.unlink()
    return {"repo": repo, "revision": word, "licence": LICENCE, "url": url, "file_sha256": digest}


def _download(url: str, file: Path, what: str) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(part), progress=False)
        shutil.move(part, file)
    except (OSError, HTTPException, RuntimeError) as error:
        raise WorkspaceError(
            f"{what}: {url} could not be downloaded ({error}). On a machine with a network fetch "
            f"it, and put it here as {file}"
        ) from None
    finally:
        part.unlink(missing_ok=True)
