"""The files a training starts from: a checkpoint or a network's description as `train.model`,
backbone weights as `train.pretrained`.

What counts is their content, not their name. DVC compares the name in params.yaml and the content
of `models/start`; a file elsewhere is compared here, by the digest that the last training wrote
down. An output of a stage is no place to
start from: DVC removes it before the stage reads it, and its content would be another after every
training.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from engine.config import DetectionTrainConfig, Params
from engine.errors import ConfigError
from engine.files import publish_folder, read_object, sha256_file
from engine.models.hub.files import PREFIX as HUB
from engine.models.hub.files import START, folder_of, kept, reference_in, source_of
from engine.models.registry import hub_names
from engine.plugins import is_dotted
from engine.stages.layout import Layout
from engine.versioning.stage_inputs import load_definitions

logger = logging.getLogger("detectflow")

KEYS = ("model", "pretrained")  # settings of section train that may name a file


def start_files(config: DetectionTrainConfig, root: Path) -> dict[str, Path]:
    """key -> file, for the settings that name one; `yolov8n` and `true` do not. Relative names are
    seen from `root`. Of a network named `hf:` it is a folder.
    """
    named = {key: getattr(config, key) for key in KEYS}
    return {
        key: root / (folder_name(name, root) if is_published(name, root) else name)
        for key, name in named.items()
        if isinstance(name, str) and (is_published(name, root) or is_path(name))
    }


def is_published(name: str, root: Path) -> bool:
    """Whether a value names a network of the library transformers, or published weights."""
    return name.startswith(HUB) or reference_in(name, root) is not None


def folder_name(model: str, root: Path) -> str:
    """The folder of published weights, or of a network named `hf:./FOLDER`, seen from `root`;
    where it is not at hand its name.
    """
    reference = reference_in(model, root)
    if reference is None:
        return model.removeprefix(HUB)
    found = kept(reference, [root / START])
    return found.relative_to(root).as_posix() if found else model


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, or of what a folder's files hold."""
    return source_of(path)["digest"] if path.is_dir() else sha256_file(path)


def is_path(name: str) -> bool:
    """Whether a value names a file rather than a kind of network."""
    return "/" in name or (Path(name).suffix != "" and not is_dotted(name))


def bring_published(config: DetectionTrainConfig, root: Path) -> dict[str, Path]:
    """key -> the folder below `models/start` of each setting that names published weights; brought
    there where it is not at hand.

    Raises:
        ConfigError: no revision is named, or it cannot be had; WorkspaceError: the network.
    """
    found = {}
    for key, name in hub_names(config.model_dump()).items():
        if (reference := reference_in(name, root)) is None:
            continue  # a folder of the user's own
        if getattr(config, key) != str(reference):
            raise ConfigError(
                f"params.yaml: train.{key} = {getattr(config, key)} does not say which revision: "
                "`detectflow run` looks the newest up once and writes it down"
            )
        folder = kept(reference, [root / START])
        if folder is None:
            cached = folder_of(name, config.accept_licence)
            folder = root / START / cached.name
            with publish_folder(folder) as made:
                shutil.copytree(cached, made, dirs_exist_ok=True)
            logger.info(
                "train.%s: %s is in %s now; `dvc add %s` versions it, as `detectflow run` does",
                *(key, name, folder.relative_to(root), folder.relative_to(root)),
            )
        found[key] = folder
    return found


def start_digests(config: DetectionTrainConfig, root: Path) -> dict[str, str]:
    """key -> SHA-256 of its file.

    Raises:
        ConfigError: a file is missing, or is the output of a stage; says how to start from it all
            the same.
    """
    found = {}
    for key, file in start_files(config, root).items():
        name = getattr(config, key)
        if owner := stage_that_makes(file, root):
            stage, out = owner
            gone = "" if file.is_file() else f"`dvc checkout {out}` brings it back; then "
            raise ConfigError(
                f"params.yaml: train.{key} = {name} lies in {out}, which stage {stage} makes anew: "
                "DVC removes it before the training reads it. Start from a copy: "
                f"{gone}`detectflow run -S train.{key}={name}` makes one and names it by its "
                f"content; or `cp {name} models/start/` and write train.{key}: "
                f"models/start/{file.name}"
            )
        if not file.exists():
            raise ConfigError(
                f"params.yaml: train.{key} = {name}: no such file, seen from {root}. "
                f"{how_to_get(file, root)}"
            )
        found[key] = digest_of(file)
    return found


def stage_that_makes(file: Path, root: Path) -> tuple[str, str] | None:
    """(stage, output) in which `file` lies, None where no stage makes it."""
    place = file.resolve()
    for name, definition in load_definitions(root).items():
        for out in definition.outs:
            if place.is_relative_to((root / out).resolve()):
                return name, out
    return None


def start_changed(params: Params, root: Path) -> bool:
    """Whether a start file holds other bytes than those of which the last result was trained.

    Where the file is not at hand (a fresh clone), or nothing was trained yet, there is nothing to
    compare: DVC decides.
    """
    files = {key: file for key, file in start_files(params.train, root).items() if file.exists()}
    origin = read_object(Layout(root).origin("train"))
    recorded = origin.get("start", {})
    return bool(origin) and any(digest_of(file) != recorded.get(key) for key, file in files.items())


def how_to_get(file: Path, root: Path) -> str:
    """What to do about a start file that is not there."""
    if owner := stage_that_makes(file, root):
        return (
            f"`dvc checkout {owner[1]}` brings back what stage {owner[0]} made last; without an "
            "earlier result start from a kind of network, for example train.model=yolov8n"
        )
    if str(file.relative_to(root) if file.is_relative_to(root) else file).startswith(HUB):
        return f"`dvc pull` brings what {START} held; `detectflow run` downloads it"
    pointer = file.with_name(f"{file.name}.dvc")
    return (
        f"`dvc pull {pointer}` fetches it"
        if pointer.is_file()
        else "Put it there, or correct the name"
    )
