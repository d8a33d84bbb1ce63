"""Code that is not the engine's and of which a stage's result follows: modules of the user's, found
where the stages would find them, and the versions of installed packages. Nothing is imported here;
neither what names such code, nor what is written down of it, is known here (`engine.stages.code`).
"""

from __future__ import annotations

import importlib.util
import json
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from engine.code.closure import Sources, closure, digests, module_file
from engine.code.rooms import ANYTHING
from engine.code.syntax import Import

OURS = {"engine", "flows"}  # top-level packages of this project
DISTRIBUTION = "detectflow"


class OwnCode(NamedTuple):
    """Code that is not the engine's."""

    modules: dict[str, str]  # module -> digest; messages count, nobody knows what is done with them
    packages: dict[str, str]  # installed package -> version
    engine: tuple[Import, ...] = ()  # what it imports of the engine
    names: frozenset[str] = frozenset()  # that it uses


def own_code(paths: Iterable[str], root: Path) -> OwnCode:
    """Modules of the user's that dotted paths name (`mine.net:Mine`), with all that they import and
    that is not installed from an index.

    A module that is not there is none: the stage itself says so.

    Raises:
        ConfigError: a module is no Python.
    """
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


def versions_of(names: Iterable[str]) -> dict[str, str]:
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
