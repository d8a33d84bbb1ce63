"""What people do with versions: promote, roll back, approve. Each is entered in the history, with
who and why.
"""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.project.environment import state_root
from engine.registry.fetch import REFERENCE, version_named
from engine.registry.history import (
    CHAMPION,
    Entry,
    What,
    add,
    appoint,
    champions,
    notice,
)
from engine.registry.registry import aliases_of, described_errors
from engine.tracking.mlflow_client import Store, open_store, patient
from engine.tracking.run_metadata import git


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
    """Who is at work: git's user, else the one of the system."""
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
        ConfigError: no such version. WorkspaceError: the registry cannot be reached; somebody else
            moved the alias at the same time.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        name, version = _named(store, reference)
        before, _ = _now(store, name)
        entry = None
        if before != version:
            entry = Entry(What.PROMOTED, version, before or "", person(root), why)
            entry = appoint(store, name, entry, before)
        return Move(name, version, before, aliases_of(store, name).get(CHAMPION), entry)


def roll_back(name: str, why: str, root: Path, steps: int = 1) -> Move:
    """Back to the champion before, `steps` times. The one that leaves stays away until there is new
    evidence for it.

    Raises:
        ConfigError: there was no champion before, or its version has been deleted.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        _known_model(store, name)
        before, history = _now(store, name)
        if before is None:
            raise ConfigError(f"model '{name}' has no champion to roll back from")
        present = {str(v.version) for v in store.client.search_model_versions(f"name = '{name}'")}
        earlier = champions(history)[:-1]
        there = [version for version in earlier if version in present]
        if len(there) < steps:
            gone = sorted(set(earlier) - present, key=int)
            deleted = f" (deleted: {', '.join(gone)})" if gone else ""
            raise ConfigError(
                f"model '{name}': there were {len(there)} champions before version "
                f"{before}{deleted}, so it cannot go back {steps}. `detectflow history {name}` "
                "lists them; `detectflow promote NAME/VERSION` takes any version."
            )
        version = there[-steps]
        entry = Entry(What.ROLLED_BACK, version, before, person(root), why)
        entry = appoint(store, name, entry, before)
        return Move(name, version, before, aliases_of(store, name).get(CHAMPION), entry)


def approve(reference: str, why: str, root: Path, by: str = "") -> Move:
    """A person says yes to a version; `detectflow decide` then asks the gates again."""
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        name, version = _named(store, reference)
        before, history = _now(store, name)
        entry = None
        if not approved_by(history, version):
            entry = add(store, name, Entry(What.APPROVED, version, "", by or person(root), why))
        return Move(name, version, before, before, entry)


def approved_by(history: list[Entry], version: str) -> str:
    """Who has said yes to a version; empty where nobody has, or it was rolled back from since."""
    who = ""
    for entry in history:
        if entry.what == What.APPROVED and entry.version == version:
            who = entry.by
        elif entry.what == What.ROLLED_BACK and entry.before == version:
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
        aliases = aliases_of(store, name)
        return notice(store, name, aliases), aliases


def _named(store: Store, reference: str) -> tuple[str, str]:
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(
            f"'{reference}' names no version: NAME/VERSION or NAME@ALIAS, for example detector/3"
        )
    found = version_named(store, match["name"], match["alias"], match["version"])
    return found.name, str(found.version)


def _known_model(store: Store, name: str) -> None:
    from engine.errors import nearest

    models = [each.name for each in store.client.search_registered_models()]
    if name not in models:
        known = f" There are: {', '.join(models)}" if models else " The registry is empty."
        raise ConfigError(f"no registered model '{name}'.{nearest(name, models)}{known}")


def _now(store: Store, name: str) -> tuple[str | None, list[Entry]]:
    aliases = aliases_of(store, name)
    return aliases.get(CHAMPION), notice(store, name, aliases)
