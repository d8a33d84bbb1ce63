"""Who was champion from when to when, decided by which evidence, moved by whom: entries that are
only ever added, as tags of the versions they are about.

The alias says who is champion, the history why. Aliases may be moved by hand in MLflow: `notice`
compares the two and enters what it finds as such. An entry is a tag `history.TIME` of a version;
MLflow shows it on the version's page.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from engine.errors import WorkspaceError
from engine.locks import locked
from engine.tracking.mlflow_client import Store

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
TAG = "history."
APPROVAL = "approval"
EVIDENCE = "decisions"  # folder among the artifacts of a version's run
MOST_CHARACTERS = 1000  # of a text somebody gave; MLflow takes 5,000 for all of an entry


class What(StrEnum):
    PROMOTED = "promoted"
    HELD = "held"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled back"
    APPROVED = "approved"
    BY_HAND = "moved by hand"


TAKEN_BACK = {What.ROLLED_BACK, What.BY_HAND}  # of the version before, by a person
DECISIONS = {What.PROMOTED, What.HELD, What.REJECTED}  # where there is evidence
MOVES = {What.PROMOTED, What.ROLLED_BACK, What.BY_HAND}  # after which another version is champion


@dataclass(frozen=True)
class Entry:
    """One thing that happened. Versions are numbers as text."""

    what: What
    version: str  # that it is about; of a move the champion since then, "" where there is none
    before: str = ""  # the champion until then
    by: str = ""  # a person, or the flow that decided
    why: str = ""
    evidence: str = ""  # digest of what a decision rests on, whoever was champion
    against: str = ""  # of a decision: the champion it was compared with
    images: str = ""  # of a decision: digest of the test images and their boxes
    waits_for: str = ""  # of a decision to hold: APPROVAL where only a person's yes is missing
    at: str = ""  # ISO 8601, UTC

    @property
    def moves(self) -> bool:
        return self.what in MOVES


def evidence_stem(entry: Entry) -> str:
    """Where the evidence of a decision lies among the artifacts of its version's run, without the
    suffix: `.json`, `.md`, and `.npz`, what the version found in each image.
    """
    return f"{EVIDENCE}/{entry.at.replace(':', '')}-version-{entry.version}"


def entries(store: Store, name: str) -> list[Entry]:
    """All entries about versions of a registered model, the oldest first."""
    versions = store.client.search_model_versions(f"name = '{name}'")
    return read_entries(version.tags for version in versions)


def read_entries(tags: Iterable[Mapping[str, str]]) -> list[Entry]:
    """The entries among the tags of all versions of a model, the oldest first. What is no entry (a
    tag that somebody edited) is passed over.
    """
    found = []
    for of_version in tags:
        for key, value in of_version.items():
            entry = _read(value) if key.startswith(TAG) else None
            if entry is not None:
                found.append((key, entry))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def _read(text: str) -> Entry | None:
    try:
        values = json.loads(text)
        return Entry(**{**values, "what": What(values["what"])})
    except (ValueError, TypeError, KeyError):
        return None


def add(store: Store, name: str, entry: Entry) -> Entry:
    """Write an entry on the version that it is about; on the one before, where no version is
    champion any more.
    """
    now = time.time_ns()
    entry = Entry(
        **{
            **asdict(entry),
            "at": datetime.fromtimestamp(now / 1e9, UTC).isoformat(timespec="seconds"),
            "why": entry.why[:MOST_CHARACTERS],
        }
    )
    key = f"{TAG}{now:020d}.{secrets.token_hex(2)}"  # two at the same time are two entries
    values = {name: value for name, value in asdict(entry).items() if value}
    holder = entry.version or entry.before
    store.client.set_model_version_tag(name, holder, key, json.dumps(values, ensure_ascii=False))
    return entry


def champion_of(history: Sequence[Entry]) -> str | None:
    """Who is champion as the history has it; None where it says nothing of one."""
    moves = [entry.version for entry in history if entry.moves]
    return (moves[-1] or None) if moves else None


def champions(history: Sequence[Entry]) -> list[str]:
    """The champions that a roll-back goes back through, the present one last. One that was rolled
    back from is not among them.
    """
    stack: list[str] = []
    for entry in history:
        if entry.what == What.ROLLED_BACK and entry.version in stack:
            del stack[len(stack) - stack[::-1].index(entry.version) :]
        elif entry.moves and entry.version and entry.version != (stack or [""])[-1]:
            if not stack and entry.before:
                stack.append(entry.before)
            stack.append(entry.version)
    return stack


def standing(history: Sequence[Entry], version: str, evidence: str, champion: str) -> Entry | None:
    """The decision about a version that still stands: made on this very evidence, and either
    against the present champion, or a rejection, or one that a person has rolled back since.
    """
    decided: Entry | None = None
    for entry in history:
        if entry.version == version and entry.evidence == evidence and entry.what in DECISIONS:
            decided = entry
        elif entry.what in TAKEN_BACK and entry.before == version and decided is not None:
            decided = entry
    if decided is None or decided.what in {What.REJECTED, *TAKEN_BACK}:
        return decided
    return decided if decided.against == champion else None


def waiting(history: Sequence[Entry], version: str) -> Entry | None:
    """The decision that holds a version only because a person has to say yes; None where it waits
    for nobody.
    """
    last: Entry | None = None
    for entry in history:
        if entry.version == version and entry.what in {*DECISIONS, What.APPROVED}:
            last = entry
    return last if last is not None and last.waits_for == APPROVAL else None


def notice(store: Store, name: str, aliases: dict[str, str]) -> list[Entry]:
    """The history, with an entry added if the alias says something else than it does: somebody
    moved it in MLflow.
    """
    history = entries(store, name)
    before, now = champion_of(history), aliases.get(CHAMPION)
    if before == now or (now is None and before is None):
        return history
    why = "noticed: the alias in MLflow had been moved" if history else "before the history begins"
    entry = Entry(What.BY_HAND, now or "", before or "", why=why)
    try:
        return [*history, add(store, name, entry)]
    except Exception as error:
        if now is None:  # the version that was champion has been deleted, and its tags with it
            return history
        raise WorkspaceError(f"the history of '{name}' could not be written: {error}") from error


def appoint(store: Store, name: str, entry: Entry, expected: str | None) -> Entry:
    """Make `entry.version` champion and write the entry.

    expected: who was champion when it was decided.

    Raises:
        WorkspaceError: another version has become champion since; nothing was moved.
    """
    client: Any = store.client
    with locked(_lock_file(store)):
        now = client.get_registered_model(name).aliases.get(CHAMPION)
        now = None if now is None else str(now)
        if now != expected:
            raise WorkspaceError(
                f"while this was decided, {_called(now)} became champion of '{name}' instead of "
                f"{_called(expected)}. Nothing was moved. Run it again: it is then compared with "
                "the new champion."
            )
        # The champion first: where this is interrupted, production has a whole answer, and `repair`
        # makes `previous` what the history says.
        client.set_registered_model_alias(name, CHAMPION, entry.version)
        done = add(store, name, entry)
        repair(store, name, entries(store, name))
        return done


def _lock_file(store: Store) -> Path:
    """One move at a time by the processes of this machine: MLflow has no "set if it is still". A
    move from another machine within the same instant is noticed by the next decision.
    """
    database = store.uri.removeprefix("sqlite:///")
    folder = store.state if database == store.uri else Path(database).absolute().parent
    return folder / ".lock" / "registry"


def repair(store: Store, name: str, history: Sequence[Entry]) -> None:
    """`previous` is the champion before, and nobody where there is none."""
    stack, client = champions(history), store.client
    wanted = stack[-2] if len(stack) > 1 else None
    present = client.get_registered_model(name).aliases.get(PREVIOUS)
    if wanted is not None and str(present) != wanted:
        client.set_registered_model_alias(name, PREVIOUS, wanted)
    elif wanted is None and present is not None:
        client.delete_registered_model_alias(name, PREVIOUS)


def _called(version: str | None) -> str:
    return "nobody" if version is None else f"version {version}"
