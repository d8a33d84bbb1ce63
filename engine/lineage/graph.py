"""Where a model, a run or an image comes from and what came of it: collects the evidence, finds
what is meant, walks both ways.

Each source is asked in a module of its own: `trace_files` (a file's metadata), `trace_workspace`,
`trace_history` (dvc.lock in git, DVC's cache), `trace_registry` (MLflow). One that does not answer
is named in the result; the others still count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, WorkspaceError, nearest
from engine.files import read_object, sha256_file
from engine.lineage.evidence import Edge, Evidence, Fact, Thing, edge_of, parents
from engine.lineage.from_dvc import history_evidence
from engine.lineage.from_files import file_statements, is_image
from engine.lineage.from_mlflow import registry_evidence
from engine.lineage.from_workspace import workspace_evidence
from engine.model_formats.table import is_model_file, model_suffixes
from engine.project.environment import state_root
from engine.registry.fetch import REFERENCE
from engine.tracking.run_metadata import DATASET

HEX = re.compile(r"[0-9a-fA-F]+")
LEAST_HEX = 8  # digits of a digest's beginning
SHOWN = 8  # candidates in a message
# Not followed unless asked about, because weights lead to the same: a run, and from a version to
# its file and back.
LEAF, FILE_OF_VERSION = "run", "onnx_sha256"
ROLE = {  # what the models made from a dataset did with an image of each of its splits
    "train": "trained on it:",
    "val": "validated with it after every epoch, not trained on it:",
    "test": "in the test split, not trained on it:",
}
Key = tuple[str, str]  # (kind, key) of a thing
Things = Mapping[Key, Thing]


@dataclass(frozen=True)
class Node:
    """A thing in the answer. `relation` says how it belongs to the node above;
    `known_from` who says so.
    """

    kind: str
    key: str
    relation: str = ""
    known_from: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    children: tuple[Node, ...] = ()
    again: bool = False  # it stands further up with all that is known


@dataclass(frozen=True)
class Trace:
    """The answer."""

    subject: Node
    made_from: tuple[Node, ...]
    led_to: tuple[Node, ...]
    summary: tuple[str, ...]  # of an image: which models saw it
    notes: tuple[str, ...]  # contradictions between sources, reservations
    unasked: tuple[str, ...]  # what could not be asked, in sentences


def trace(text: str, root: Path | None) -> Trace:
    """What `text` was made from and what came of it.

    text: a model file or an image, a prepared folder, `detector@champion`, `detector/3`, a run id,
    a digest or its beginning.
    root: the project whose records are asked; None: only the file itself is read.

    Raises:
        ConfigError: nothing of that name or kind, or several. CheckpointError: a model file that is
            damaged or foreign.
        WorkspaceError: who would know it did not answer.
    """
    path = Path(text)
    place = _place(path, root) if _exists(path) else ""
    evidence, wanted = Evidence(), None
    if not _exists(path):
        _check_form(text)
    elif path.is_dir():
        wanted = ("data", _digest_of(path))
    elif is_model_file(path):
        evidence.statements += file_statements(path, place)
        wanted = (evidence.statements[0].kind, evidence.statements[0].key)
    elif is_image(path):
        wanted = ("image", sha256_file(path))
    else:
        raise ConfigError(
            f"{path}: neither a model ({', '.join(model_suffixes())}) nor an image that can be "
            "read. `detectflow help trace` shows what can be traced"
        )
    if root is None:
        evidence.unasked.append(
            "no project here: only what the file says of itself is known. Run this in the "
            "project's folder"
        )
    else:
        state = state_root(root)
        for source in (
            workspace_evidence(root, state),
            history_evidence(root, state),
            registry_evidence(state),
        ):
            evidence.extend(source)
    things = evidence.things()
    return answer(wanted or find(text, things, evidence.unasked), things, evidence.unasked, place)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a name, say
        return False


def _place(path: Path, root: Path | None) -> str:
    """How a file is called: within the project from its root, so that the same file has one
    name.
    """
    whole = path.resolve()
    return (
        whole.relative_to(root).as_posix()
        if root is not None and whole.is_relative_to(root)
        else str(path)
    )


def _digest_of(folder: Path) -> str:
    file = folder / DATASET.name
    digest = read_object(file).get("digest")
    if digest is None:
        raise ConfigError(
            f"{folder}: no prepared dataset ({file} is missing or damaged). Name a file, or "
            "data/prepared"
        )
    return str(digest)


def _check_form(text: str) -> None:
    """ConfigError where `text` cannot be the name of anything."""
    if REFERENCE.fullmatch(text) and not Path(text).suffix:
        return
    if HEX.fullmatch(text):
        if len(text) < LEAST_HEX:
            raise ConfigError(
                f"'{text}': the beginning of a digest needs at least {LEAST_HEX} hex digits, this "
                f"has {len(text)}"
            )
        return
    raise ConfigError(
        f"'{text}': no such file, and neither a model version (detector@champion, detector/3) nor "
        "a run id or digest. `detectflow help trace` shows what can be traced"
    )


def find(text: str, things: Things, unasked: Sequence[str]) -> Key:
    """The thing that a reference, or the beginning of a digest or id, means.

    Raises:
        ConfigError: none, or several. WorkspaceError: none, but MLflow could not be asked.
    """
    match = REFERENCE.fullmatch(text)
    if match is not None:
        return _find_version(match["name"], match["alias"], match["version"], things, unasked)
    start = text.lower()
    found = {key for key in things if key[0] != "version" and key[1].startswith(start)}
    found |= {
        ("image", sha256)
        for thing in things.values()
        for sha256 in thing.images
        if sha256.startswith(start)
    }
    if len(found) > 1:
        shown = ", ".join(f"{kind} {key}" for kind, key in sorted(found)[:SHOWN])
        raise ConfigError(
            f"'{text}' is the beginning of {len(found)} things: {shown}. Give more digits"
        )
    if not found:
        raise _unknown(
            f"nothing that is known here begins with '{text}': no data, weights, file, run or "
            "image",
            unasked,
        )
    return found.pop()


def _find_version(
    name: str, alias: str | None, number: str | None, things: Things, unasked: Sequence[str]
) -> Key:
    versions = {
        key: thing
        for (kind, key), thing in things.items()
        if kind == "version" and key.rpartition("/")[0] == name
    }
    if not versions:
        names = sorted({key.rpartition("/")[0] for kind, key in things if kind == "version"})
        known = f" There are: {', '.join(names)}" if names else ""
        raise _unknown(
            f"no registered model '{name}' is known.{nearest(name, names)}{known}", unasked
        )
    if number is not None:
        if f"{name}/{number}" in versions:
            return "version", f"{name}/{number}"
        known = ", ".join(sorted((key.rpartition("/")[2] for key in versions), key=int))
        raise _unknown(
            f"model '{name}' has no version {number} that is known. Known: {known}", unasked
        )
    aliases = {
        each: key
        for key, thing in versions.items()
        for said in thing.values("aliases")
        for each in said.split(", ")
    }
    if alias not in aliases:
        known = ", ".join(sorted(aliases)) or "none"
        raise _unknown(
            f"model '{name}' has no alias '{alias}'.{nearest(alias or '', aliases)} Known "
            f"aliases: {known}",
            unasked,
        )
    return "version", aliases[str(alias)]


def _unknown(message: str, unasked: Sequence[str]) -> ConfigError | WorkspaceError:
    """The more so where MLflow is silent: then it is not the user's mistake."""
    silent = [sentence for sentence in unasked if sentence.startswith("MLflow")]
    return (
        WorkspaceError(". ".join([message.rstrip("."), *silent]))
        if silent
        else ConfigError(message)
    )


def answer(wanted: Key, things: Things, unasked: Sequence[str], place: str = "") -> Trace:
    """The answer about one thing. place: the file that was asked about."""
    kind, key = wanted
    if kind == "image":
        facts = [Fact("place", place, ["the file"])] if place else []
        subject = Thing(kind, key, facts)
        back, forth = (), _of_image(key, things)
        summary = _who_saw(key, things)
    else:
        subject = things.get(wanted, Thing(kind, key))
        back, forth = _Walk(things).back(subject, top=True), _Walk(things).forth(subject, top=True)
        summary = ()
    top = Node(kind, key, "", tuple(subject.known_from), _facts(subject))
    shown = [subject, *(things[each] for each in _keys((*back, *forth)) if each in things)]
    notes = dict.fromkeys(
        note for thing in shown for note in [*thing.contradictions(), *_reservations(thing)]
    )
    return Trace(top, back, forth, summary, tuple(notes), tuple(unasked))


class _Walk:
    """One direction of the graph as a tree; a thing that comes up again is only named."""

    def __init__(self, things: Things):
        self.things, self.seen = things, set()
        self.came_of: dict[Key, list[tuple[Edge, Fact, Key]]] = {}
        for key, thing in things.items():
            for fact, parent in parents(thing, things):
                self.came_of.setdefault(parent, []).append(
                    (edge_of(thing.kind, fact.name), fact, key)
                )
        self.describing = {
            parent
            for parent, links in self.came_of.items()
            for edge, _, _ in links
            if edge.fact == "made_in"
        }

    def back(self, thing: Thing, top: bool = False) -> tuple[Node, ...]:
        if thing.kind == LEAF and not top:
            return ()
        return tuple(
            self._node(edge_of(thing.kind, fact.name).back, fact, self.things[key], self.back)
            for fact, key in parents(thing, self.things)
        )

    def forth(self, thing: Thing, top: bool = False, relation: str = "") -> tuple[Node, ...]:
        """relation: in place of the edge's own text for weights that were trained."""
        if thing.kind == LEAF and not top:
            return ()
        links = self.came_of.get((thing.kind, thing.key), [])
        if thing.kind == "file" and not top:
            links = [link for link in links if link[1].name != FILE_OF_VERSION]
        if thing.kind == "data":  # a run that made weights is listed with them
            links = [link for link in links if link[2] not in self.describing]
        return tuple(
            self._node(
                relation if relation and edge.child == "weights" else edge.forth,
                fact,
                self.things[key],
                self.forth,
            )
            for edge, fact, key in links
        )

    def _node(
        self, relation: str, fact: Fact, thing: Thing, follow: Callable[[Thing], tuple[Node, ...]]
    ) -> Node:
        key, known_from = (thing.kind, thing.key), tuple(fact.known_from)
        if key in self.seen:
            return Node(*key, relation, known_from, again=True)
        self.seen.add(key)
        children = () if follow == self.back and fact.name == FILE_OF_VERSION else follow(thing)
        return Node(*key, relation, known_from, _facts(thing), children)


def _facts(thing: Thing) -> tuple[Fact, ...]:
    """Those that are no links: links are nodes of the tree."""
    links = {fact.name for fact, _ in parents(thing, {})}
    return tuple(fact for fact in thing.facts if fact.name not in links)


def _of_image(sha256: str, things: Things) -> tuple[Node, ...]:
    """The datasets that hold the image, and what came of each."""
    walk, nodes = _Walk(things), []
    for key, thing in things.items():
        if sha256 in thing.images:
            split, name = thing.images[sha256]
            walk.seen.add(key)
            children = walk.forth(thing, top=True, relation=ROLE[split])
            relation = f"in split {split} as {name}, of"
            nodes.append(Node(*key, relation, tuple(thing.known_from), _facts(thing), children))
    return tuple(nodes)


def _who_saw(sha256: str, things: Things) -> tuple[str, ...]:
    """As text: the models that learned from the image, themselves or through the weights they
    started from, and the others.
    """
    trained, held = set(), set()
    for key, thing in things.items():
        if key[0] == "weights":
            splits = {
                things["data", digest].images.get(sha256, ("", ""))[0]
                for digest in thing.values("data_digest")
            }
            trained |= {key} if "train" in splits else set()
            held |= {key} if splits & {"val", "test"} else set()
    grown = -1
    while len(trained) != grown:  # until nobody new has started from one of them
        grown = len(trained)
        trained |= {
            key
            for key, thing in things.items()
            if key[0] == "weights" and any(p in trained for _, p in _starts(thing, things))
        }
    said = [
        (
            f"learned from it: {_names(trained, things)}"
            if trained
            else "no model that is known here learned from it"
        )
    ]
    if held - trained:
        said.append(f"only measured with it: {_names(held - trained, things)}")
    if not any(sha256 in thing.images for thing in things.values()):
        said = [
            "no dataset that is known here holds an image with these bytes; a copy that was saved "
            "anew is another image"
        ]
    return tuple(said)


def _starts(thing: Thing, things: Things) -> Iterable[tuple[Fact, Key]]:
    """The weights that a training started from, also where it took them from an exported file."""
    for fact, parent in parents(thing, things):
        if fact.name == "start":
            exported = (
                [link for link in parents(things[parent], things)] if parent[0] == "file" else []
            )
            yield from exported or [(fact, parent)]


def _names(weights: set[Key], things: Things) -> str:
    """`weights 1a2b3c4d5e6f (detector/1)`, the registered ones first."""
    named = []
    for _, key in sorted(weights):
        versions = sorted(
            of.key
            for of in things.values()
            if of.kind == "version" and key in of.values("weights_sha256")
        )
        named.append(
            (
                not versions,
                f"weights {key[:12]}" + (f" ({', '.join(versions)})" if versions else ""),
            )
        )
    return ", ".join(name for _, name in sorted(named))


def _reservations(thing: Thing) -> list[str]:
    """What a reader would otherwise take for more than it is."""
    fraction = next(
        (
            s["train.fraction"]
            for s in thing.values("settings")
            if s.get("train.fraction", 1.0) != 1.0
        ),
        None,
    )
    if thing.kind != "weights" or fraction is None:
        return []
    return [
        f"weights {thing.key[:16]}: trained with train.fraction={fraction}, on a part of the "
        "training images only"
    ]


def _keys(nodes: Iterable[Node]) -> Iterable[Key]:
    for node in nodes:
        yield node.kind, node.key
        yield from _keys(node.children)
