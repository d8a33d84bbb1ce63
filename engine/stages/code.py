"""What each stage's code does, written down so that DVC sees a real change and nothing else.

`reports/code/STAGE.json` is the code dependency of a stage in dvc.yaml: a digest for each module
that can alter its result (`engine.code.rooms` says which), the values of its settings with the
defaults filled in, and the user's own code that its settings name. Comments, docstrings, formatting
and messages are in none of them. Under `dvc repro` the small stage `code` writes the files, always
and first; the flow does the same in process. Imports neither torch nor MLflow.
"""

from __future__ import annotations

import importlib.util
import json
import site
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.code.closure import Sources, closure, differences, digests, module_file
from engine.code.rooms import code_of_stage, family_folder, package_folder
from engine.config import DetectionTrainConfig, Params, PredictConfig
from engine.errors import ConfigError
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
OWN_CODE = {  # stage -> settings of `train` that may name the user's own code
    "train": ("trainer", "model", "callbacks"),
    "validate": ("trainer", "model"),
    "export": ("trainer", "model"),
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

    {"settings": its section with defaults, "modules": module -> digest, "own": the same of the
    user's modules, "packages": name -> version of what those import}
    """
    kept = sources or engine_sources(root)
    own, packages = own_code(stage, params.train, root)
    found = {
        "settings": settings_of(stage, params),
        "modules": code_of_stage(stage, kept, family_folder(params.train.model, kept)),
        "own": own,
        "packages": packages,
    }
    if sources is None:
        kept.keep()
    return found


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


# The user's own code ------------------------------------------------------------------------------


def own_code(
    stage: str, config: DetectionTrainConfig, root: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """Modules of the user's that the settings of a training name (`mine.net:Mine`), with all that
    they import and that is not installed, and the installed packages among their imports.

    Returns module -> digest (messages count: we do not know what the code does with them), and
    package -> version. A module that is not there is none: the stage itself says so.
    """
    named = [getattr(config, key) for key in OWN_CODE.get(stage, ())]
    paths = [p for value in named for p in (value if isinstance(value, tuple) else (value,)) if p]
    starts = {path.partition(":")[0] for path in paths if ":" in path}
    packages = _offered_by([path for path in paths if not is_built_in(path)])
    if not starts and not packages:
        return {}, {}
    sources = Sources(lambda module: find_own(module, root))
    installed = {module for module in starts if sources.find(module) is None}
    reached = closure(sources, sorted(starts - installed), lambda m: sources.find(m) is not None)
    with_parents = {m for module in reached.modules for m in _parents(module) if sources.find(m)}
    installed |= {found.module for found, _ in reached.outside if found.module[0] != "."}
    for module in installed:
        packages |= _distribution(module.partition(".")[0])
    return digests(sources, sorted(with_parents), whole=True), dict(sorted(packages.items()))


def _parents(module: str) -> list[str]:
    """`a.b.c` -> a, a.b, a.b.c: importing it runs all of them."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def find_own(module: str, root: Path) -> Path | None:
    """The file of a module that is neither ours, nor Python's, nor installed: in the project's
    folder first, as the stages themselves look for it, then where Python looks.
    """
    top = module.partition(".")[0]
    if top in {"engine", "flows"} or top in sys.stdlib_module_names:
        return None
    if file := module_file(root, module):
        return file
    folder = _folder_of(top)
    return module_file(folder, module) if folder else None


@cache
def _folder_of(top: str) -> Path | None:
    """The folder on Python's path that holds a top-level module, None where it is installed."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin).resolve()
    if any(file.is_relative_to(place) for place in _installed_places()):
        return None
    return file.parent.parent if file.name == "__init__.py" else file.parent


@cache
def _installed_places() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    found = {paths["purelib"], paths["platlib"], paths["stdlib"], site.getusersitepackages()}
    return tuple(Path(place).resolve() for place in (*found, *site.getsitepackages()))


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _distribution(top: str) -> dict[str, str]:
    """The installed package that brings a top-level module, with its version; nothing for Python's
    own modules and ours.
    """
    if top in sys.stdlib_module_names or top in {"engine", "flows", ""}:
        return {}
    try:
        return {top: metadata.version(top)}
    except metadata.PackageNotFoundError:
        names = _distributions().get(top, [])
        return {name: metadata.version(name) for name in sorted(set(names))}


def is_built_in(path: str) -> bool:
    """Whether a value names a network of the engine's, or a file: to ask all installed packages
    takes a while.
    """
    ours = family_folder(path, Sources.below(package_folder()))
    return ours is not None or "/" in path or Path(path).suffix != ""


def _offered_by(paths: list[str]) -> dict[str, str]:
    """The installed packages that offer a family of networks of one of these names."""
    found = {}
    for point in metadata.entry_points(group=ENTRY_POINTS):
        if point.dist and any(path.partition(":")[0] == point.name for path in paths):
            found[point.dist.name] = point.dist.version
    return found


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
