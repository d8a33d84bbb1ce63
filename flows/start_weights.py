"""Going on from the last result: `-S train.model=weights/best.pt`, or the champion's
(`detector@champion`), trains from a copy that no stage overwrites.

The copy lies in `models/` under a name made from its content, DVC versions it, and params.yaml
names it: so the same parameters always mean the same start, for `dvc repro` as well, and asking
again after a training means its new weights.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.errors import ConfigError
from engine.files import atomic_write, publish_folder, sha256_file
from engine.models.hub.files import (
    START,
    Reference,
    folder_of,
    kept,
    name_of,
    reference_in,
    source_of,
)
from engine.models.registry import hub_names
from engine.registry.fetch import is_fetched
from engine.stages.start_weights import how_to_get, stage_that_makes, start_files
from engine.versioning.dvc_repo import DvcStages

logger = logging.getLogger("detectflow")

FOLDER = "models"
DIGEST_CHARACTERS = 8


def kept_start(params: Params, root: Path) -> dict[str, Any]:
    """Overrides that name a copy in place of each start file that lies in a stage's output or was
    fetched from the registry; the copies are made.

    Raises:
        ConfigError: the file is not there. WorkspaceError: the copy cannot be written, DVC cannot
            take it.
    """
    overrides = _from_hub(params, root)
    for key, file in start_files(params.train, root).items():
        if f"train.{key}" in overrides:
            continue
        if stage_that_makes(file, root) is None and not is_fetched(file, root):
            continue
        if not file.is_file():
            raise ConfigError(
                f"params.yaml: train.{key} = {getattr(params.train, key)}: not there. "
                f"{how_to_get(file, root)}"
            )
        copy = _keep(file, root)
        overrides[f"train.{key}"] = copy.relative_to(root).as_posix()
        logger.info(
            "train.%s: starting from %s, kept as %s",
            key,
            _short(file, root),
            copy.relative_to(root),
        )
    return overrides


def _from_hub(params: Params, root: Path) -> dict[str, Any]:
    """Overrides that name the revision of weights of the hub; the files are put into
    `models/start`, where DVC versions them.
    """
    named = hub_names(params.train.model_dump())
    return {
        f"train.{key}": _kept_from_hub(key, name, reference, root)
        for key, name in named.items()
        if (reference := reference_in(name, root))
    }


def _kept_from_hub(key: str, name: str, reference: Reference, root: Path) -> str:
    folder = kept(reference, [root / START])
    if folder is None:
        cached = folder_of(name)
        folder = root / START / cached.name
        with publish_folder(folder) as made:
            shutil.copytree(cached, made, dirs_exist_ok=True)
        DvcStages(root).add(folder)
    source = source_of(folder)
    name = name_of(source)
    logger.info(
        "train.%s: %s, licence %s, SHA-256 %s, kept as %s",
        key,
        name,
        source["licence"] or "not stated",
        source["digest"][:12],
        folder.relative_to(root),
    )
    return name  # params.yaml may still have it without its revision


def _short(file: Path, root: Path) -> Path:
    return file.relative_to(root) if file.is_relative_to(root) else file


def _keep(file: Path, root: Path) -> Path:
    digest = sha256_file(file)
    copy = root / FOLDER / f"{file.stem}-{digest[:DIGEST_CHARACTERS]}{file.suffix}"
    if not copy.is_file() or sha256_file(copy) != digest:
        with open(file, "rb") as source, atomic_write(copy) as target:
            shutil.copyfileobj(source, target)
    DvcStages(root).add(copy)
    return copy
