"""The stages as dvc.yaml declares them, and what a stage's inputs were when it started. Needs no
DVC.

A result belongs to the inputs it was made from. DVC hashes inputs when a command has ended, so a
file edited in the meantime would be recorded as the origin of outputs that never saw it; `snapshot`
before and `changes` after prevent that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, WorkspaceError, nearest
from engine.files import sha256_file
from engine.settings.base import load_yaml

# Files below this are compared by content, so a mere touch is no change; larger ones by inode, size
# and time.
HASHED_BELOW_BYTES = 1 << 20
HASHED_SUFFIXES = {".py", ".yaml", ".yml", ".json", ".jsonl", ".txt", ".xml", ".csv"}


@dataclass(frozen=True)
class StageDefinition:
    """One stage of dvc.yaml; paths relative to the root, as written there."""

    name: str
    command: str
    deps: tuple[str, ...]
    params: tuple[str, ...]  # dotted keys of params.yaml
    outs: tuple[str, ...]  # metrics and plots too


Snapshot = dict[str, str]  # name of an input, as people know it -> its state


def load_definitions(root: Path) -> dict[str, StageDefinition]:
    """All stages of `root/dvc.yaml` in their order, `${...}` filled from params.yaml.

    Raises:
        ConfigError: a file is missing or not valid, or a `${key}` is unknown.
    """
    params = load_yaml(root / "params.yaml")
    stages = load_yaml(root / "dvc.yaml").get("stages") or {}
    if not isinstance(stages, dict) or not all(isinstance(body, dict) for body in stages.values()):
        raise ConfigError(
            f"{root / 'dvc.yaml'}: `stages` must hold names, each with its settings below it. `git "
            "diff dvc.yaml` shows what was changed, `git checkout dvc.yaml` takes it back."
        )
    return {name: _definition(name, body, params, root) for name, body in stages.items()}


def load_definition(root: Path, name: str) -> StageDefinition:
    """The stage `name`, or ConfigError with the nearest known name."""
    known = load_definitions(root)
    if name not in known:
        raise ConfigError(f"{root / 'dvc.yaml'}: no stage '{name}'.{nearest(name, known)}")
    return known[name]


def _definition(
    name: str, body: dict[str, Any], params: dict[str, Any], root: Path
) -> StageDefinition:
    def paths(*sections: str) -> tuple[str, ...]:
        items = [item for section in sections for item in body.get(section) or []]
        names = [next(iter(item)) if isinstance(item, dict) else item for item in items]
        return tuple(_fill(text, params, root) for text in names)

    keys = [key for key in body.get("params") or [] if isinstance(key, str)]
    return StageDefinition(
        name,
        str(body.get("cmd", "")),
        paths("deps"),
        tuple(keys),
        paths("outs", "metrics", "plots"),
    )


def _fill(text: str, params: dict[str, Any], root: Path) -> str:
    def value(match: re.Match[str]) -> str:
        found = lookup(params, match[1].strip())
        if found is None:
            raise ConfigError(
                f"{root / 'dvc.yaml'} uses ${{{match[1]}}}, which params.yaml does not set"
            )
        return str(found)

    return re.sub(r"\$\{([^}]+)\}", value, text)


def lookup(values: dict[str, Any], dotted: str) -> Any:
    """`lookup({"a": {"b": 1}}, "a.b")` is 1; None where there is nothing."""
    found: Any = values
    for key in dotted.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def snapshot(root: Path, stage: StageDefinition) -> Snapshot:
    """The state of every parameter and file the stage depends on. A missing input is a state too.

    A parameter that names a file depends on what the file holds: start weights, a dataset's
    description.
    """
    state: Snapshot = {}
    values = load_yaml(root / "params.yaml") if stage.params else {}
    for key in stage.params:
        for name, value in flat(key, lookup(values, key)):
            state[f"params.yaml: {name}"] = json.dumps(value, sort_keys=True, default=str)
            if isinstance(value, str) and _is_file(root / value):
                state[f"{value} (params.yaml: {name})"] = sha256_file(root / value)
    for dep in stage.deps:
        path = root / dep
        files = (
            sorted(p for p in path.rglob("*") if "__pycache__" not in p.parts)
            if path.is_dir()
            else [path]
        )
        for file in files:
            if not file.is_dir():
                state[str(dep if file == path else Path(dep) / file.relative_to(path))] = (
                    _file_state(file)
                )
    return state


def flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    """`flat("a", {"b": {"c": 1}})` is [("a.b.c", 1)]; an empty mapping is a value."""
    if isinstance(value, dict) and value:
        parts = [(f"{prefix}.{key}".lstrip("."), inner) for key, inner in value.items()]
        return [item for part in parts for item in flat(*part)]
    return [(prefix, value)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a text that is too long for a name, say
        return False


def _file_state(file: Path) -> str:
    try:
        stat = file.stat()
        if stat.st_size < HASHED_BELOW_BYTES and file.suffix in HASHED_SUFFIXES:
            return sha256_file(file)
        return f"{stat.st_ino}:{stat.st_size}:{stat.st_mtime_ns}"
    except FileNotFoundError:
        return "missing"


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """Names of the inputs that differ, in order."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )


def run_checked(
    root: Path, stage: StageDefinition, function: Callable[[], Any]
) -> tuple[Any, Snapshot]:
    """Call `function`; its value, and the inputs it began with, which are still there.

    Raises:
        WorkspaceError: the inputs changed meanwhile. Whatever `function` raises passes through.
    """
    before = snapshot(root, stage)
    value = function()
    check_unchanged(root, stage, before)
    return value, before


def check_unchanged(root: Path, stage: StageDefinition, before: Snapshot) -> None:
    """WorkspaceError naming the inputs that are no longer as in `before`."""
    names = changes(before, snapshot(root, stage))
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise WorkspaceError(
            f"stage {stage.name}: its inputs changed while it ran ({shown}), so its results were "
            "not recorded: it is unknown what they were made from. Run it again."
        )
