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
from engine.files import atomic_write, sha256_file
from engine.models.hub.files import source_of
from engine.models.hub.origins import in_words, origin_of
from engine.registry.fetch import is_fetched
from engine.stages.start_weights import bring_published, how_to_get, stage_that_makes, start_files
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
    """Overrides that name the revision of published weights; the files are put into `models/start`,
    where DVC versions them.
    """
    overrides = {}
    for key, folder in bring_published(params.train, root).items():
        if not folder.with_name(f"{folder.name}.dvc").is_file():
            DvcStages(root).add(folder)
        origin = origin_of(source_of(folder))
        logger.info("train.%s: %s, kept as %s", key, in_words(origin), folder.relative_to(root))
        overrides[f"train.{key}"] = origin["name"]  # params.yaml may still lack the revision
    return overrides


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
