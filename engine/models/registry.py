"""Where families of networks are found: by `train.model`, or by the name in a checkpoint.

Three kinds, one way: those of this project (`built_in`, one line each), those that an installed
package offers as an entry point, and a class of the user's own by its dotted path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from engine.errors import CheckpointError, ConfigError, nearest
from engine.models import catalogue
from engine.models.family import (
    CandidateModule,
    Candidates,
    Criterion,
    Family,
    Spec,
    check_candidates,
    check_input_size,
)
from engine.models.hf.family import HfFamily
from engine.models.torchvision.family import TorchvisionFamily
from engine.models.yolov8.family import YOLOv8Family
from engine.plugins import find_object, is_dotted

__all__ = [
    "CandidateModule",
    "Candidates",
    "Criterion",
    "Family",
    "Spec",
    "built_in",
    "check_candidates",
    "check_input_size",
    "families",
    "family_named",
    "family_of",
    "hub_names",
]

ENTRY_POINTS = "detectflow.families"  # group in which an installed package offers families
FIRST = "yolov8"  # checkpoints of the time before there were families name none


def built_in() -> tuple[Family, ...]:
    """The families of this project: the list to which a new one is added."""
    return YOLOv8Family(), TorchvisionFamily(), HfFamily()


def families() -> Iterator[Family]:
    """Those of this project, then those that installed packages offer as entry points."""
    yield from built_in()
    for point in metadata.entry_points(group=ENTRY_POINTS):
        yield _of_entry_point(point)


def family_of(model: str) -> Family:
    """The family of a `train.model` that is no weight file: `yolov8n`, a model .yaml,
    `torchvision:NAME`, a name of an installed package's family, or `package.module:Class`.

    Raises:
        ConfigError: no family knows it; the nearest known name, and what can be given.
    """
    known: list[str] = []
    for family in families():
        if family.knows(model):
            return family
        known += family.names()
    if instead := catalogue.not_a_detector(model):
        raise ConfigError(f"model='{model}' {instead}")
    if is_dotted(model):
        try:
            found = find_object(model, "model")
        except ConfigError as error:
            said = str(error) if str(error).endswith((".", "?")) else f"{error}."
            raise ConfigError(f"{said}{nearest(model, known)}") from error.__cause__
        return _as_family(found, model, "model", trainers=False)
    registered = (
        f" Weights of a registered model: `detectflow run -S train.model={model}` copies them and "
        "writes the name of the copy into params.yaml."
        if "@" in model or model.startswith("models:/")
        else ""
    )
    raise ConfigError(
        f"model='{model}' is not known.{nearest(model, known) or catalogue.in_words(model)} Give "
        f"{', '.join(known)}, package.module:Class of a family of your own, or a checkpoint (.pt, "
        f".safetensors).{registered}"
    )


def hub_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """key -> `hf:ORG/NAME`: see `Family.hub_names`; settings of section train as given."""
    model = settings.get("model")
    known = [family for family in families() if isinstance(model, str) and family.knows(model)]
    return dict(known[0].hub_names(settings)) if known else {}


def family_named(name: str | None) -> Family:
    """The family that a weight file names; a file of the time before families names none.

    Raises:
        CheckpointError: unknown, or its code cannot be imported here.
    """
    name = name or FIRST
    for family in built_in():
        if family.name == name:
            return family
    for point in metadata.entry_points(group=ENTRY_POINTS):
        if point.name == name:
            return _of_entry_point(point)
    if ":" not in name:
        known = [family.name for family in families()]
        raise CheckpointError(
            f"the weights are of family '{name}', which is not known here.{nearest(name, known)} "
            f"There are {', '.join(known)}; install the package that brings it"
        )
    if name.startswith("__main__:"):
        return _of_script(name)
    try:
        return _as_family(find_object(name, "family"), name, "family", trainers=True)
    except ConfigError as error:
        raise CheckpointError(
            f"the weights are of a network of your own, made by {name}, and that code is not at "
            f"hand: {error}. Put it into a module in the project's folder, where every command "
            "finds it"
        ) from error.__cause__


def _of_script(name: str) -> Family:
    """The family of a class that a script defines itself: at hand in that script alone."""
    try:
        found = find_object(name, "family")
    except ConfigError:
        raise CheckpointError(
            f"the weights are of a network that the class {name.partition(':')[2]} of a script "
            "made, and only that script can load them. Load them there, or move the class into a "
            "module in the project's folder, for example mine/net.py, and train again: then every "
            "command finds it"
        ) from None
    return _as_family(found, name, "family", trainers=True)


def _as_family(found: Any, path: str, setting: str, trainers: bool) -> Family:
    """A family of what a dotted path leads to: a class or an instance; a trainer class says its own
    (`as_family`), for weights that it made.
    """
    if trainers and hasattr(found, "as_family"):
        return found.as_family(path)
    if isinstance(found, type) and issubclass(found, Family):
        try:
            found = found()
        except TypeError as error:
            raise ConfigError(f"{setting}='{path}': the family cannot be made: {error}") from error
    if isinstance(found, Family):
        found.name = path  # how a checkpoint finds it again
        return found
    hint = f" It is a trainer: give trainer={path}" if hasattr(found, "as_family") else ""
    what = found.__name__ if isinstance(found, type) else type(found).__name__
    raise ConfigError(
        f"{setting}='{path}' is {what}, not a class derived from engine.models.registry.Family."
        f"{hint}"
    )


def _of_entry_point(point: metadata.EntryPoint) -> Family:
    try:
        found = point.load()
    except Exception as error:  # another package's code
        owner = point.dist.name if point.dist else "an installed package"
        raise ConfigError(
            f"{owner} offers the family '{point.name}' ({point.value}), and importing it raised "
            f"{type(error).__name__}: {error}. Repair or uninstall it"
        ) from error
    return _as_family(found, point.name, "family", trainers=False)
