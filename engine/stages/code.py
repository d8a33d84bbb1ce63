"""What each stage's code does, written down so that DVC sees a real change and nothing else.

`reports/code/STAGE.json` is the code dependency of a stage in dvc.yaml: a digest for each module
that can alter its result (`engine.code.rooms` says which), the values of its settings with the
defaults filled in, and the user's own code that its settings, or the weights it starts from, name.
Comments, docstrings, formatting and our messages are in none of them. Under `dvc repro` the small
stage `code` writes the files, always and first; the flow does the same in process. Imports neither
torch nor MLflow.
"""

from __future__ import annotations

import importlib.util
import json
import re
import site
import sys
import sysconfig
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from engine.code.closure import Sources, closure, differences, digests, module_file
from engine.code.rooms import (
    ANYTHING,
    code_of_stage,
    families_among,
    family_folder,
    family_folders,
    libraries_of,
    package_folder,
)
from engine.code.syntax import Import
from engine.config import DetectionTrainConfig, Params, PredictConfig
from engine.errors import ConfigError
from engine.model_formats.checkpoint_meta import read_checkpoint_meta
from engine.model_formats.metadata import decode_meta
from engine.model_formats.table import format_of, weight_suffixes
from engine.plugins import is_dotted
from engine.project.environment import state_root
from engine.stages.layout import STAGES, Layout, write_json

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
OURS = {"engine", "flows"}  # top-level packages of this project
DISTRIBUTION = "detectflow"


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
    of what those import, and of libraries whose code is part of the network}
    """
    kept = sources or engine_sources(root)
    settings = settings_of(stage, params)
    if stage in OWN_CODE:
        network = network_of(params.train, root, kept)
        own = own_code(stage, params.train, root, network)
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
            "packages": own.packages | _versions(libraries),
        }
    else:
        modules = code_of_stage(stage, kept)
        found = {"settings": settings, "modules": modules, "own": {}, "packages": {}}
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


# The network, and the user's own code -------------------------------------------------------------


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


class OwnCode(NamedTuple):
    """Code that is not the engine's."""

    modules: dict[str, str]  # module -> digest; messages count, nobody knows what is done with them
    packages: dict[str, str]  # installed package -> version
    engine: tuple[Import, ...] = ()  # what it imports of the engine
    names: frozenset[str] = frozenset()  # that it uses


def own_code(stage: str, config: DetectionTrainConfig, root: Path, network: NetworkCode) -> OwnCode:
    """Modules of the user's that the settings of a training name (`mine.net:Mine`), or that make
    its network, with all that they import and that is not installed from an index.

    A module that is not there is none: the stage itself says so.
    """
    values = [getattr(config, key) for key in OWN_CODE.get(stage, ())]
    paths = [p for value in values for p in (value if isinstance(value, tuple) else (value,)) if p]
    paths += [*network.paths, *(point.value for point in network.offers)]
    starts = {path.partition(":")[0] for path in paths if ":" in path}
    if not starts:
        return OwnCode({}, {})
    sources = Sources(lambda module: find_own(module, root), whole_packages=True)
    reached = closure(
        sources, [Import(module) for module in sorted(starts)], lambda m: bool(sources.find(m))
    )
    outside = {found for found, _ in reached.outside if found.module[0] != "."}
    engine = {found for found in outside if _top(found.module) in OURS}
    packages = _packages({_top(found.module) for found in outside - engine})
    opaque = {_top(module) for module in starts if sources.find(module) is None}
    if opaque - OURS - sys.stdlib_module_names or any(map(_needs_us, packages)):
        engine |= set(ANYTHING)
    names = {name for module in reached.modules for name in sources.read(module).used}
    return OwnCode(
        digests(sources, reached, whole=True),
        packages,
        tuple(sorted(engine)),
        frozenset(names),
    )


def find_own(module: str, root: Path) -> Path | None:
    """The file of a module that is neither ours, nor Python's, nor installed from an index: in the
    project's folder first, as the stages themselves look for it, then where Python looks. There it
    comes before Python's own modules (`profile.py`), except those that are built in.
    """
    top = _top(module)
    if top in OURS or top in sys.builtin_module_names:
        return None
    if file := module_file(root, module):
        return file
    folder = None if top in sys.stdlib_module_names else _folder_of(top)
    return module_file(folder, module) if folder else None


def _top(module: str) -> str:
    return module.partition(".")[0]


@cache
def _folder_of(top: str) -> Path | None:
    """The folder on Python's path that holds a top-level module, None where it is installed from an
    index. What is installed from a folder (`pip install -e mine`, `pip install ./mine`) keeps its
    version when it is edited. What the engine itself needs counts by its version wherever it lies.
    """
    if any(_normal(d.name) in _our_libraries() for d in _distributions_of(top)):
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.origin and spec.origin.endswith(".py"):
        file = Path(spec.origin).resolve()
        folder = file.parent.parent if file.name == "__init__.py" else file.parent
    elif places := list(spec.submodule_search_locations or ()):  # without an __init__.py
        folder = Path(places[0]).resolve().parent
    else:
        return None
    if any(folder.is_relative_to(place) for place in _installed_places()):
        return folder if any("dir_info" in _direct_url(d) for d in _distributions_of(top)) else None
    return folder


@cache
def _installed_places() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    found = {paths["purelib"], paths["platlib"], paths["stdlib"], site.getusersitepackages()}
    return tuple(Path(place).resolve() for place in (*found, *site.getsitepackages()))


# Installed packages -------------------------------------------------------------------------------


@cache
def _providers() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


@cache
def _distributions_of(top: str) -> tuple[metadata.Distribution, ...]:
    """The installed packages that bring a top-level module; none for Python's own and ours."""
    if top in sys.stdlib_module_names or top in OURS or not top:
        return ()
    try:
        return (metadata.distribution(top),)
    except metadata.PackageNotFoundError:
        return tuple(metadata.distribution(name) for name in sorted({*_providers().get(top, ())}))


def _packages(tops: Iterable[str]) -> dict[str, str]:
    """package -> version, of those that bring these top-level modules."""
    found = {d.name: version_of(d) for top in tops for d in _distributions_of(top)}
    return dict(sorted(found.items()))


def _versions(names: Iterable[str]) -> dict[str, str]:
    """package -> version, of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version_of(metadata.distribution(name))
        except metadata.PackageNotFoundError:
            continue
    return found


def version_of(distribution: metadata.Distribution) -> str:
    """The version, and the commit where it was installed from a repository; without the local part,
    which says for which machine it was built (2.11.0+cpu).
    """
    commit = (_direct_url(distribution).get("vcs_info") or {}).get("commit_id")
    version = distribution.version.partition("+")[0]
    return f"{version} at {commit}" if commit else version


def _direct_url(distribution: metadata.Distribution) -> dict[str, Any]:
    """Where a package was installed from, {} where from an index (PEP 610)."""
    try:
        found = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _normal(requirement: str) -> str:
    """The name of a package in a requirement (`PyYAML>=6`), as all its spellings have it."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]*", requirement)[0]).lower()


def _needs_us(package: str) -> bool:
    """Whether an installed package may import the engine."""
    required = metadata.distribution(package).requires or ()
    return any(_normal(text) == DISTRIBUTION for text in required)


@cache
def _our_libraries() -> frozenset[str]:
    try:
        return frozenset(map(_normal, metadata.requires(DISTRIBUTION) or ()))
    except metadata.PackageNotFoundError:
        return frozenset()


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
