"""What each stage's code does, written down so that DVC sees a real change and nothing else.

`reports/code/STAGE.json` is the code dependency of a stage in dvc.yaml: a digest for each module
that can alter its result (`engine.code.rooms` says which), the values of its settings with the
defaults filled in, and the user's own code that its settings, or the weights it starts from, name.
Comments, docstrings, formatting and our messages are in none of them. Under `dvc repro` the small
stage `code` writes the files, always and first; the flow does the same in process. Imports neither
torch nor MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from engine.code.closure import Sources, differences
from engine.code.rooms import (
    code_of_stage,
    families_among,
    family_folder,
    family_folders,
    libraries_of,
    package_folder,
)
from engine.config import DetectionTrainConfig, Params, PredictConfig
from engine.errors import ConfigError
from engine.model_formats.checkpoint_meta import read_checkpoint_meta
from engine.model_formats.metadata import decode_meta
from engine.model_formats.table import format_of, weight_suffixes
from engine.plugins import is_dotted
from engine.project.environment import state_root
from engine.stages.layout import STAGES, Layout, write_json
from engine.stages.own_code import own_code, versions_of
from engine.stages.prepare import raw_inputs

NAME = "code"  # of the stage in dvc.yaml
ENTRY_POINTS = "detectflow.families"  # group in which an installed package offers families

# Settings that say where, how fast or how visibly, and not what comes out: a change of their
# default makes nothing run again. (A value changed in params.yaml is for DVC to see.)
NO_RESULT = {
    "train": {
        *("cache", "data", "device", "exist_ok", "extend", "name", "nproc", "project", "resume"),
        *("verbose", "workers"),
    },
    "validate": {"batch", "device", "workers"},
}
OWN_CODE = {  # stage -> settings of `train` that name the user's own code, besides its network
    "train": ("trainer", "callbacks"),
    "validate": ("trainer",),
    "export": ("trainer",),
}


def write_code(params: Params, root: Path) -> dict[str, list[str]]:
    """Write `reports/code/STAGE.json` of every stage; files that say the same stay untouched.

    Returns stage -> what is different from the file that lay there, for stages that had one.

    Raises:
        ConfigError: a source file, ours or the user's, is no Python.
    """
    changed = {}
    sources = engine_sources(root)
    for stage in STAGES:
        file = Layout(root).code(stage)
        before, now = read_code(file), stage_code(stage, params, root, sources)
        if before != now:
            write_json(file, now)
            if before is not None:
                changed[stage] = differences(before, now)
    sources.keep()
    return changed


def is_outdated(params: Params, root: Path) -> bool:
    """Whether a record is missing or is not about the code as it is now."""
    sources = engine_sources(root)
    return any(
        read_code(Layout(root).code(stage)) != stage_code(stage, params, root, sources)
        for stage in STAGES
    )


def read_code(file: Path) -> dict[str, Any] | None:
    """What was written down, None where there is nothing that can be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def stage_code(
    stage: str, params: Params, root: Path, sources: Sources | None = None
) -> dict[str, Any]:
    """What the result of `stage` follows from, besides data: plain JSON, the same everywhere.

    {"settings": its section with defaults, "family": of the network, where the stage has one,
    "modules": module -> digest, "own": the same of the user's modules, "packages": name -> version
    of what those import, and of libraries whose code is part of the network, "inputs": what prepare
    uses of data/raw}
    """
    kept = sources or engine_sources(root)
    settings = settings_of(stage, params)
    if stage in OWN_CODE:
        network = network_of(params.train, root, kept)
        own = own_code(own_paths(stage, params.train, network), root)
        modules = code_of_stage(stage, kept, network.families, own.engine, own.names)
        # A network of the user's own may be derived from one of ours, with its libraries.
        libraries = libraries_of(
            families_among(modules, kept), {**network.spec, **set_values(params.train)}, kept
        )
        found = {
            "settings": settings,
            "family": network.family,
            "modules": modules,
            "own": own.modules,
            "packages": own.packages | versions_of(libraries),
        }
    else:
        modules = code_of_stage(stage, kept)
        found = {"settings": settings, "modules": modules, "own": {}, "packages": {}}
    # No dependencies of their own: the file need not be there, and prepare adds to it; which part
    # of data/raw is used says a file that dvc.yaml cannot read.
    if stage == "prepare" and (edited := _edited_classes(root)):
        found["classes"] = edited
    if stage == "prepare":
        known = (read_code(Layout(root).code(stage)) or {}).get("inputs") or {}
        found |= {"inputs": used} if (used := raw_inputs(params, root, known)) else {}
    if sources is None:
        kept.keep()
    return found


def set_values(config: DetectionTrainConfig) -> dict[str, Any]:
    """The settings of a training that have a value."""
    return {key: value for key, value in config.model_dump(mode="json").items() if value}


def engine_sources(root: Path) -> Sources:
    """The running engine's modules, with what was read of them before."""
    return Sources.below(package_folder(), state_root(root) / ".cache" / "code.json")


def settings_of(stage: str, params: Params) -> dict[str, Any]:
    """The stage's section of params.yaml, defaults filled in, without what alters no result."""
    section = {
        "prepare": params.data,
        "train": params.train,
        "validate": params.validate_,
        "export": params.export,
        "register": params.register_,
    }[stage]
    values = section.model_dump(mode="json")
    found = {key: values[key] for key in values if key not in NO_RESULT.get(stage, ())}
    if stage in ("export", "register"):  # what the served model uses where a call names none
        found["thresholds"] = PredictConfig().thresholds()
    return found


# The network, and what names the user's own code --------------------------------------------------


class NetworkCode(NamedTuple):
    """Whose code the network of a training is, as far as settings and start weights say."""

    family: str  # its name, empty where it is not known
    families: Collection[str] | None  # folders of ours among which it is, None: any
    paths: tuple[str, ...] = ()  # package.module:Name of the user's
    offers: tuple[metadata.EntryPoint, ...] = ()  # one of these installed packages brings it
    spec: Mapping[str, Any] = {}  # of start weights: what the network is built from


def network_of(config: DetectionTrainConfig, root: Path, sources: Sources) -> NetworkCode:
    """The network that `train.model` names, or that a weight file says it holds.

    Where the file is not at hand (a fresh clone), the last record about the same setting says it;
    where nothing does, all of our families may be meant.
    """
    model = config.model
    if Path(model).suffix.lower() not in weight_suffixes():
        folder = family_folder(model, sources)
        return NetworkCode(folder, {folder}) if folder else _foreign_network(model, any_offer=True)
    meta = read_weights_meta(root / model)
    if meta is None and not (root / model).exists():
        before = read_code(Layout(root).code("train")) or {}
        if (before.get("settings") or {}).get("model") == model and before.get("family"):
            meta = {"family": before["family"]}
    if meta is None:
        return NetworkCode("", None)
    # Checkpoints of the time before there were families name none.
    family = str(meta.get("family") or sources.constant("engine.models.registry", "FIRST"))
    found = (
        NetworkCode(family, {family})
        if family in family_folders(sources)
        else _foreign_network(family, any_offer=False)
    )
    spec = meta.get("architecture")
    return found._replace(spec=spec if isinstance(spec, Mapping) else {})


def _foreign_network(name: str, any_offer: bool) -> NetworkCode:
    """A network that is not ours. any_offer: `name` is that of a network, and which of the
    installed packages knows it could only they say.
    """
    if "/" in name or (Path(name).suffix and not is_dotted(name)):
        return NetworkCode("", None)  # the description of a network, in a file
    if is_dotted(name):
        return NetworkCode(name, (), (name,))
    points = metadata.entry_points(group=ENTRY_POINTS)
    return NetworkCode(name, None, (), tuple(p for p in points if any_offer or p.name == name))


def own_paths(stage: str, config: DetectionTrainConfig, network: NetworkCode) -> list[str]:
    """The user's own code that the settings of a training name for `stage`, or that makes its
    network: `package.module:Name`.
    """
    values = [getattr(config, key) for key in OWN_CODE.get(stage, ())]
    paths = [p for value in values for p in (value if isinstance(value, tuple) else (value,)) if p]
    return [*paths, *network.paths, *(point.value for point in network.offers)]


def read_weights_meta(file: Path) -> Mapping[str, Any] | None:
    """What a weight file says of itself, None where it cannot be read: that is for the stage to
    say.
    """
    try:
        format = format_of(file)
        if format is None:
            return read_checkpoint_meta(file)
        return decode_meta(format.read_meta(file), file)
    except Exception:  # whatever a foreign or cut file makes of a reader
        return None


def check_code(stage: str, params: Params, root: Path) -> None:
    """Refuse a stage under DVC whose recorded code is not the code that would run: edited since the
    stage `code` ran, or that was left out (`dvc repro -s`).

    Raises:
        ConfigError: names what differs, and what to do.
    """
    before, now = read_code(Layout(root).code(stage)), stage_code(stage, params, root)
    if before != now:
        what = "was not recorded" if before is None else "is not what stage code recorded"
        names = listed(differences(before or {}, now))
        raise ConfigError(
            f"stage {stage}: its code {what} ({names}), so DVC would take the result for one of "
            f"other code. Run `dvc repro {stage}` again (with -s run `dvc repro code` first)"
        )


def listed(names: list[str], at_most: int = 5) -> str:
    """Names for a message: the first few, and how many more."""
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return f"{', '.join(names[:at_most])}{more}"


def _edited_classes(root: Path) -> dict[str, str]:
    file = root / "data" / "classes.yaml"
    if not file.is_file():
        return {}
    from engine.datasets.classes import edited_classes  # with numpy, which this stage does without

    return edited_classes(file)
