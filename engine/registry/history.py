"""Who was champion from when to when, decided by which evidence, moved by whom: entries that are
only ever added, as tags of the registered model.

The alias says who is champion, the history why. Aliases may be moved by hand in MLflow: `notice`
compares the two and enters what it finds as such. An entry is a tag `history.TIME` of the model,
not of its version: a version that somebody deletes takes its own tags along.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from engine.errors import WorkspaceError
from engine.locks import locked
from engine.tracking.mlflow_client import Store

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
TAG = "history."
MOVING = "moving"  # tag of a model: the entry of a move that has begun
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
    images: str = ""  # digest of the test images and their boxes, where they were at hand
    waits_for: str = ""  # of a decision to hold: APPROVAL where only a person's yes is missing
    passing: bool = False  # of a decision: whether it may be another one tomorrow (latency)
    at: str = ""  # ISO 8601, UTC

    @property
    def moves(self) -> bool:
        return self.what in MOVES

    @property
    def is_persons_move(self) -> bool:
        """Whether a person made another version champion: the one before is taken back."""
        return self.moves and not (self.what == What.PROMOTED and self.evidence)


def evidence_stem(entry: Entry) -> str:
    """Where the evidence of a decision lies among the artifacts of its version's run, without the
    suffix: `.json`, `.md`, and `.npz`, what the version found in each image.
    """
    return f"{EVIDENCE}/{entry.at.replace(':', '')}-version-{entry.version}"


def entries(store: Store, name: str) -> list[Entry]:
    """All entries about versions of a registered model, the oldest first."""
    return read_entries(store.client.get_registered_model(name).tags)


def read_entries(tags: Mapping[str, str]) -> list[Entry]:
    """The entries among the tags of a model, the oldest first. What is no entry (a tag that
    somebody edited) is passed over.
    """
    found = ((key, _read(value)) for key, value in tags.items() if key.startswith(TAG))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0]) if entry is not None]


def _read(text: str) -> Entry | None:
    try:
        values = json.loads(text)
        return Entry(**{"version": "", **values, "what": What(values["what"])})
    except (ValueError, TypeError, KeyError):
        return None


def add(store: Store, name: str, entry: Entry) -> Entry:
    """Write an entry."""
    now = time.time_ns()
    at = datetime.fromtimestamp(now / 1e9, UTC).isoformat(timespec="seconds")
    entry = replace(entry, at=at, why=entry.why[:MOST_CHARACTERS])
    key = f"{TAG}{now:020d}.{secrets.token_hex(2)}"  # two at the same time are two entries
    store.client.set_registered_model_tag(name, key, _text(entry))
    return entry


def _text(entry: Entry) -> str:
    values = {name: value for name, value in asdict(entry).items() if value}
    return json.dumps(values, ensure_ascii=False)


def champion_of(history: Sequence[Entry]) -> str | None:
    """Who is champion as the history has it; None where it says nothing of one."""
    moves = [entry.version for entry in history if entry.moves]
    return (moves[-1] or None) if moves else None


def champions(history: Sequence[Entry]) -> list[str]:
    """The champions that a roll-back goes back through, the present one last, where there is one.
    One that a person went back from is not among them.
    """
    stack: list[str] = []
    for entry in history:
        if entry.moves:
            stack = _after(stack, entry)
    return stack


def earlier_champions(history: Sequence[Entry]) -> list[str]:
    """The champions before the present one, the oldest first."""
    stack = champions(history)
    return stack[:-1] if stack and stack[-1] == champion_of(history) else stack


def _after(stack: Sequence[str], entry: Entry) -> list[str]:
    """The champions after a move."""
    if not stack and entry.before:
        stack = [entry.before]
    if not entry.version:
        return [each for each in stack if each != entry.before]
    if entry.is_persons_move and entry.version in stack:  # back, by whatever command
        return list(stack[: stack.index(entry.version) + 1])
    return [*(each for each in stack if each != entry.version), entry.version]


def vacancy(history: Sequence[Entry]) -> Entry | None:
    """The move since which nobody is champion; None where somebody is, or nobody ever was."""
    moves = [entry for entry in history if entry.moves]
    return moves[-1] if moves and not moves[-1].version else None


def standing(
    history: Sequence[Entry], version: str, evidence: str, champion: str, images: str = ""
) -> Entry | None:
    """The decision about a version that still stands.

    A person's word first: a version that a person has taken back stays so while there is no new
    evidence, and a yes or a promotion since makes the gates asked again. Else the last decision on
    this very evidence, if it is a rejection or was made against the present champion.
    """
    last: Entry | None = None  # decision, on whatever evidence
    same: Entry | None = None  # on this evidence
    taken: Entry | None = None
    for entry, left in with_left(history):
        if entry.version == version and (entry.is_persons_move or entry.what == What.APPROVED):
            last = same = taken = None
        elif entry.version == version and entry.what in DECISIONS:
            last, taken = entry, None
            same = entry if entry.evidence == evidence else same
        elif version in left:
            taken = entry
    if taken is not None:
        known = {last.evidence if last else "", taken.images} - {""}
        return taken if not known or known & {evidence, images} else None
    if same is None or same.passing:
        return None
    return same if same.what == What.REJECTED or same.against == champion else None


def with_left(history: Sequence[Entry]) -> Iterator[tuple[Entry, set[str]]]:
    """Each entry, and the versions that a person took back by it: the one that was champion, and
    where it goes back several, those between.
    """
    stack: list[str] = []
    for entry in history:
        left: set[str] = set()
        if entry.moves:
            then = _after(stack, entry)
            if entry.is_persons_move:
                left = {*(set(stack) - set(then)), entry.before} - {"", entry.version}
            stack = then
        yield entry, left


def waiting(history: Sequence[Entry], version: str) -> Entry | None:
    """The decision that holds a version only because a person has to say yes; None where it waits
    for nobody.
    """
    last: Entry | None = None
    for entry in history:
        if entry.version == version and entry.what in {*DECISIONS, What.APPROVED}:
            last = entry
    return last if last is not None and last.waits_for == APPROVAL else None


def notice(store: Store, name: str, images: str = "") -> tuple[dict[str, str], list[Entry]]:
    """Aliases (alias -> version) and history of a model. Where the alias says something else than
    the history, somebody moved it in MLflow: an entry is added.

    images: digest of the test images at hand, for that entry.
    """
    aliases, history = _state(store, name)
    if aliases.get(CHAMPION) == champion_of(history):
        return aliases, history
    with locked(_lock_file(store)):  # else a move that is being made looks like one by hand
        aliases, history = _state(store, name)
        before, now = champion_of(history), aliases.get(CHAMPION)
        if before == now:
            return aliases, history
        tags = store.client.get_registered_model(name).tags
        begun = _read(tags[MOVING]) if MOVING in tags else None
        if begun is not None and begun.version == now:  # cut off between alias and entry
            entry = begun
        else:
            why = _moved(store, name, before, now) if history else "before the history begins"
            entry = Entry(What.BY_HAND, now or "", before or "", why=why, images=images)
        done = add(store, name, entry)
        if MOVING in tags:  # else a later move by hand to that version would be told as this one
            store.client.delete_registered_model_tag(name, MOVING)
        return aliases, [*history, done]


def _moved(store: Store, name: str, before: str | None, now: str | None) -> str:
    if now is None and before is not None:
        there = {str(v.version) for v in store.client.search_model_versions(f"name = '{name}'")}
        if before not in there:
            return f"noticed: version {before} had been deleted in MLflow"
    return "noticed: the alias in MLflow had been moved"


def _state(store: Store, name: str) -> tuple[dict[str, str], list[Entry]]:
    model = store.client.get_registered_model(name)
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    return aliases, read_entries(model.tags)


def appoint(store: Store, name: str, entry: Entry, expected: str | None) -> Entry:
    """Make `entry.version` champion and write the entry.

    expected: who was champion when it was decided.

    Raises:
        WorkspaceError: another version has become champion since; nothing was moved.
    """
    client: Any = store.client
    with locked(_lock_file(store)):
        now = _state(store, name)[0].get(CHAMPION)
        if now != expected:
            raise WorkspaceError(
                f"while this was decided, {_called(now)} became champion of '{name}' instead of "
                f"{_called(expected)}. Nothing was moved. Run it again: it is then compared with "
                "the new champion."
            )
        # What is begun is written first: cut off after the alias, `notice` enters it as it was
        # meant, and `repair` makes `previous` what the history says.
        client.set_registered_model_tag(name, MOVING, _text(entry))
        client.set_registered_model_alias(name, CHAMPION, entry.version)
        done = add(store, name, entry)
        client.delete_registered_model_tag(name, MOVING)
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
    earlier, client = earlier_champions(history), store.client
    there = {str(v.version) for v in client.search_model_versions(f"name = '{name}'")}
    wanted = next((version for version in reversed(earlier) if version in there), None)
    present = client.get_registered_model(name).aliases.get(PREVIOUS)
    if wanted is not None and str(present) != wanted:
        client.set_registered_model_alias(name, PREVIOUS, wanted)
    elif wanted is None and present is not None:
        client.delete_registered_model_alias(name, PREVIOUS)


def _called(version: str | None) -> str:
    return "nobody" if version is None else f"version {version}"
