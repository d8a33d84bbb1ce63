"""What people do with versions: promote, roll back, approve. Each is entered in the history, with
who and why.
"""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config import Params
from engine.errors import ConfigError, EngineError, nearest
from engine.project.environment import state_root
from engine.registry.fetch import REFERENCE, fetch, registered_models, version_named
from engine.registry.history import (
    CHAMPION,
    Entry,
    What,
    add,
    appoint,
    earlier_champions,
    entries,
    notice,
    waiting,
    with_left,
)
from engine.registry.registry import aliases_of, described_errors
from engine.registry.version_description import show_history
from engine.tracking.mlflow_client import Store, open_store, patient
from engine.tracking.run_metadata import git, images_digest

NO = "not approved"
PERSON = "DETECTFLOW_PERSON"  # variable: who started this run


@dataclass(frozen=True)
class Move:
    """What was done: to which version, who was champion before, who is it now by the registry."""

    name: str
    version: str
    before: str | None
    champion: str | None
    entry: Entry | None  # None: nothing had to be done

    @property
    def aliases_text(self) -> str:
        return f"champion is version {self.champion}" if self.champion else "there is no champion"


def person(root: Path) -> str:
    """Who is at work: whom Prefect names (the flow sets PERSON), else git's user, else the one of
    the system.
    """
    if os.environ.get(PERSON):
        return os.environ[PERSON]
    name, mail = git(root, "config", "user.name"), git(root, "config", "user.email")
    if name:
        return f"{name} <{mail}>" if mail else name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return "somebody"


def promote(reference: str, why: str, root: Path) -> Move:
    """A person makes a version champion, whatever the gates said.

    Raises:
        ConfigError: no such version. WorkspaceError: the registry cannot be reached, or has not the
            version's file; somebody else moved the alias at the same time.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        name, version = _named(store, reference)
        before, _ = _now(store, name, root)
        if before == version:
            return Move(name, version, before, before, None)
        return _move(store, name, version, before, What.PROMOTED, why, root)


def roll_back(name: str, why: str, root: Path, steps: int = 1) -> Move:
    """Back to the champion before, `steps` times. The one that leaves stays away until there is new
    evidence for it.

    Raises:
        ConfigError: there was no champion before, or its version has been deleted.
        WorkspaceError: as `promote`.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        _known_model(store, name)
        before, history = _now(store, name, root)
        earlier = earlier_champions(history)
        if before is None and not earlier:
            raise ConfigError(f"model '{name}' has never had a champion to go back to")
        present = {str(v.version) for v in store.client.search_model_versions(f"name = '{name}'")}
        there = [version for version in earlier if version in present]
        if len(there) < steps:
            gone = sorted(set(earlier) - present, key=int)
            deleted = f" (deleted: {', '.join(gone)})" if gone else ""
            since = f" before version {before}" if before else ""
            raise ConfigError(
                f"model '{name}': champions{since} that are still there: {len(there)}{deleted}, so "
                f"it cannot go back {steps}. `detectflow history {name}` lists them; `detectflow "
                "promote NAME/VERSION` takes any version."
            )
        return _move(store, name, there[-steps], before, What.ROLLED_BACK, why, root)


def _move(
    store: Store, name: str, version: str, before: str | None, what: What, why: str, root: Path
) -> Move:
    fetch(f"models:/{name}/{version}", root)  # or production would have nothing to load
    entry = Entry(what, version, before or "", person(root), why, images=_images(root))
    entry = appoint(store, name, entry, before)
    show_history(store, name, entries(store, name))
    return Move(name, version, before, aliases_of(store, name).get(CHAMPION), entry)


def _images(root: Path) -> str:
    """The test images at hand when a person decided; empty where there are none."""
    try:
        return images_digest(root, Params.load(root / "params.yaml").validate_.split)
    except EngineError:
        return ""


def approve(reference: str, why: str, root: Path, by: str = "") -> Move:
    """A person says yes to a version; `detectflow decide` then asks the gates again."""
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        name, version = _named(store, reference)
        before, history = _now(store, name, root)
        entry = None
        if not approved_by(history, version):
            entry = add(store, name, Entry(What.APPROVED, version, "", by or person(root), why))
            show_history(store, name, [*history, entry])
        return Move(name, version, before, before, entry)


def decline(reference: str, why: str, root: Path, by: str = "") -> Move:
    """A person says no to a version that waits for a yes: it stays rejected until there is new
    evidence, or somebody approves or promotes it. Nothing is done where it does not wait.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        name, version = _named(store, reference)
        before, history = _now(store, name, root)
        asked, entry = waiting(history, version), None
        if asked is not None:
            rejected = replace(asked, what=What.REJECTED, by=by or person(root), waits_for="")
            entry = add(store, name, replace(rejected, why=f"not approved: {why}" if why else NO))
            show_history(store, name, [*history, entry])
        return Move(name, version, before, before, entry)


def approved_by(history: list[Entry], version: str) -> str:
    """Who has said yes to a version; empty where nobody has, or it was taken back since."""
    who = ""
    for entry, left in with_left(history):
        if entry.what == What.APPROVED and entry.version == version:
            who = entry.by
        elif version in left:
            who = ""
    return who


def history_of(name: str, root: Path) -> tuple[list[Entry], dict[str, str]]:
    """All entries about a model, the oldest first, and its aliases as they are now.

    Raises:
        ConfigError: no such model.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        _known_model(store, name)
        aliases, history = notice(store, name, _images(root))
        return history, aliases


def _named(store: Store, reference: str) -> tuple[str, str]:
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(
            f"'{reference}' names no version: NAME/VERSION or NAME@ALIAS, for example detector/3"
        )
    found = version_named(store, match["name"], match["alias"], match["version"])
    return found.name, str(found.version)


def _known_model(store: Store, name: str) -> None:
    models = registered_models(store)
    if name not in models:
        known = f" There are: {', '.join(models)}" if models else " The registry is empty."
        raise ConfigError(f"no registered model '{name}'.{nearest(name, models)}{known}")


def _now(store: Store, name: str, root: Path) -> tuple[str | None, list[Entry]]:
    aliases, history = notice(store, name, _images(root))
    return aliases.get(CHAMPION), history
