"""What is known of models, data and runs, and from where: statements of single sources, and what
they say together.

Five kinds of things, each with a key that its content or its tracker gives it, never its path:

    data      data digest
    weights   SHA-256 of the checkpoint
    file      SHA-256 of an exported file
    run       MLflow run id
    version   NAME/NUMBER of a registered model

A statement's facts with a name in EDGES lead to what the thing was made from. Images are known by
the data that hold them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BY_MD5 = "md5:"  # in front of a key: the content is known by DVC's hash only


@dataclass(frozen=True)
class Edge:
    """The things of kind `child` have, under `fact`, keys of the things of kind `parent` they come
    from.
    """

    child: str
    fact: str
    parent: str
    back: str  # "exported from": child -> parent, as text
    forth: str  # "exported as"


EDGES = (
    Edge("version", "weights_sha256", "weights", "of", "registered as"),
    Edge("version", "onnx_sha256", "file", "holds", "registered as"),
    Edge("file", "weights_sha256", "weights", "exported from", "exported as"),
    Edge("weights", "data_digest", "data", "trained on", "trained on it:"),
    Edge("weights", "made_in", "run", "described by", "describes"),
    Edge("weights", "start", "weights", "started from", "start of"),
    Edge("run", "data_digest", "data", "read", "read by"),
    Edge("run", "measured", "version", "measured", "measured again in"),
)
LINKS = {(edge.child, edge.fact) for edge in EDGES}
ONE_ONLY = {
    "data_digest",
    "weights_sha256",
    "class_hash",
}  # two values of these contradict each other


@dataclass(frozen=True)
class Statement:
    """What one source says of one thing. Empty facts are left out; a link may be a tuple of
    keys.
    """

    kind: str
    key: str
    known_from: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, tuple[str, str]] = field(
        default_factory=dict
    )  # of data: SHA-256 -> (split, name)


@dataclass
class Fact:
    """A value, and all the sources that say so."""

    name: str
    value: Any
    known_from: list[str]


@dataclass
class Thing:
    """All statements about one thing, merged: equal values become one fact."""

    kind: str
    key: str
    facts: list[Fact] = field(default_factory=list)
    images: dict[str, tuple[str, str]] = field(default_factory=dict)
    known_from: list[str] = field(default_factory=list)  # everybody who spoke of it

    def add(self, statement: Statement) -> None:
        _note(self.known_from, statement.known_from)
        self.images.update(statement.images)
        for name, value in statement.facts.items():
            values = value if (self.kind, name) in LINKS and isinstance(value, tuple) else (value,)
            for each in values:
                if each not in (None, "", {}, ()):
                    self._add(name, each, statement.known_from)

    def _add(self, name: str, value: Any, known_from: str) -> None:
        for fact in self.facts:
            if fact.name != name:
                continue
            if isinstance(value, Mapping) and isinstance(fact.value, Mapping):
                if any(fact.value[key] != value[key] for key in fact.value.keys() & value.keys()):
                    continue
                fact.value = {**fact.value, **value}
            elif fact.value != value:
                continue
            _note(fact.known_from, known_from)
            return
        self.facts.append(Fact(name, value, [known_from]))

    def values(self, name: str) -> list[Any]:
        """All that is said under `name`, the first source's first."""
        return [fact.value for fact in self.facts if fact.name == name]

    def contradictions(self) -> list[str]:
        """As text, where sources disagree about what can be one value only."""
        found = []
        for name in sorted(ONE_ONLY):
            facts = [fact for fact in self.facts if fact.name == name]
            if len(facts) > 1:
                said = "; ".join(
                    f"{str(fact.value)[:16]} says {' and '.join(fact.known_from)}" for fact in facts
                )
                found.append(
                    f"the sources disagree about {name} of {self.kind} {self.key[:16]}: {said}"
                )
        return found


@dataclass
class Evidence:
    """Statements, and what could not be asked, in sentences."""

    statements: list[Statement] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)

    def extend(self, other: Evidence) -> None:
        self.statements += other.statements
        self.unasked += other.unasked

    def things(self) -> dict[tuple[str, str], Thing]:
        """(kind, key) -> what all sources say of it. A thing that is only named by another one is
        there too.
        """
        same = {
            (s.kind, f"{BY_MD5}{s.facts['dvc_md5']}"): s.key
            for s in self.statements
            if s.facts.get("dvc_md5")
        }
        found: dict[tuple[str, str], Thing] = {}
        for statement in self.statements:
            key = same.get((statement.kind, statement.key), statement.key)
            if not key.startswith(BY_MD5):
                found.setdefault((statement.kind, key), Thing(statement.kind, key)).add(statement)
        for thing in list(found.values()):
            for _, parent in parents(thing, found):
                found.setdefault(parent, Thing(*parent))
        return found


def parents(
    thing: Thing, things: Mapping[tuple[str, str], Thing]
) -> Iterable[tuple[Fact, tuple[str, str]]]:
    """(the fact that says so, (kind, key)) of everything the thing was made from, in the order of
    EDGES.
    """
    for edge in EDGES:
        if edge.child == thing.kind:
            for fact in thing.facts:
                if fact.name == edge.fact:
                    # Weights to start from may be an exported file too.
                    is_file = edge.fact == "start" and ("file", fact.value) in things
                    yield fact, ("file" if is_file else edge.parent, fact.value)


def edge_of(child: str, fact: str) -> Edge:
    return next(edge for edge in EDGES if (edge.child, edge.fact) == (child, fact))


def _note(places: list[str], place: str) -> None:
    if place not in places:
        places.append(place)
