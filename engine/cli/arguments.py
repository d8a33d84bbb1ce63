"""What an argument of the command line must be where no schema says so: a piece of text, a folder
to write into.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.config import Frozen
from engine.errors import ConfigError, WorkspaceError, nearest


def text_of(mode: str, key: str, value: Any) -> str | None:
    """The value as text, None where nothing is given. ConfigError: a list, a table, or true and
    false.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(
            f"{mode}: {key}={value}: expected one name or path, not a {type(value).__name__}"
        )
    return str(value)


def unknown_key(mode: str, key: str, known: Iterable[str]) -> ConfigError:
    """The error for a key that a mode does not take: the nearest of those it takes, else all."""
    known = list(known)
    instead = nearest(key.split(".")[0], known)
    instead = instead or f" Remove it, or take one of: {', '.join(known)}."
    return ConfigError(f"{mode}: unknown key '{key}'.{instead}")


def take(
    given: dict[str, Any], mode: str, extra: Mapping[str, Any], schema: type[Frozen]
) -> dict[str, Any]:
    """Take the arguments of the command itself out of `given`; the rest are settings of the schema,
    or entries of one (`policies.zero_area`). An unknown one gets the nearest name of both.
    """
    ours = schema.in_our_names(given, mode)
    given.clear()
    given.update(ours)
    known = [*extra, *schema.model_fields]
    for key in given:
        if (name := key.split(".")[0]) not in known:
            raise ConfigError(f"{mode}: unknown key '{key}'.{schema.instead_of(name, extra)}")
    texts = {key: text_of(mode, key, given.pop(key, None)) for key in extra}
    return {key: default if texts[key] is None else texts[key] for key, default in extra.items()}


def nested(given: Mapping[str, Any], base: Frozen) -> dict[str, Any]:
    """`policies.zero_area=warn` sets one entry of the policies of `base` and leaves the others."""
    values: dict[str, Any] = {}
    for key, value in given.items():
        section, dot, entry = key.partition(".")
        if dot:
            held = values.get(section, getattr(base, section))
            values[section] = {**(held if isinstance(held, Mapping) else {}), entry: value}
        else:
            values[key] = value
    return values


def folder_to_write(mode: str, key: str, value: str) -> Path:
    """A folder that is there or can be made. ConfigError: a file is in its place."""
    folder = Path(value)
    there = next((place for place in (folder, *folder.parents) if os.path.exists(place)), None)
    if there is not None and not os.path.isdir(there):
        raise ConfigError(
            f"{mode}: {key}={folder}: {there} is a file, not a folder; give another {key}=FOLDER"
        )
    return folder


@contextlib.contextmanager
def written_into(folder: Path) -> Iterator[None]:
    """WorkspaceError where the block cannot write: the system has no place for files there."""
    try:
        yield
    except OSError as error:
        raise WorkspaceError(
            f"{folder}: cannot be written ({error.strerror or error}); give another folder"
        ) from error
