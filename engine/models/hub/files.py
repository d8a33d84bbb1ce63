"""Published weights, their files kept on this machine: `hf:ORG/NAME@REVISION`, a model on Hugging
Face's hub, and `torchvision:NAME@WEIGHTS`.

A revision is 40 hex digits and means the same files for ever; a branch or tag may move, so it is
not taken. Files are brought once, into `NAME-DIGEST/` beside `source.json` that says where they
come from and under which licence (the digest is of that file: another revision or licence is
another folder), and checked by their digests each time they are used. Whoever has the folder (DVC
versions it) needs no network.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engine.errors import ConfigError, WorkspaceError
from engine.files import publish_folder, read_object, sha256_file, write_text
from engine.locks import Lock
from engine.models.hub import torchvision_weights
from engine.models.hub.download import INDEX, SECRETS, WANTED, shards_of
from engine.models.hub.licences import check_licence, licence_of_card

PREFIX = "hf:"
SOURCE = "source.json"
WEIGHTS = "model.safetensors"  # of a model in one file, which all but the largest are
START = Path("models/start")  # of a project: versioned by DVC
CARD = "README.md"  # of a model's page; its head says the licence
LONGEST_S = 3600
OFFLINE, OURS = "HF_HUB_OFFLINE", "DETECTFLOW_HF_OFFLINE"
# What the hub's client, httpx and the system raise where there is no way to the hub.
NO_WAY = re.compile(
    r"Connect|Timeout|Network|Proxy|ReadError|RemoteProtocol|LocalEntryNotFound|OSError"
)
_REPO = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"
_REFERENCE = re.compile(rf"{PREFIX}({_REPO})(?:@(.*))?")
_TORCHVISION = re.compile(rf"({torchvision_weights.PREFIX}\w+)@(.*)")
_REVISION = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Reference:
    """A model on the hub, or weights of torchvision. revision: None where the newest is meant."""

    repo: str  # ORG/NAME, or torchvision:NAME
    revision: str | None  # 40 hex digits, or torchvision's name of the weights

    def __str__(self) -> str:
        name = self.repo if self.is_torchvision else f"{PREFIX}{self.repo}"
        return name + (f"@{self.revision}" if self.revision else "")

    @property
    def is_torchvision(self) -> bool:
        return self.repo.startswith(torchvision_weights.PREFIX)


def reference_in(model: str, root: Path = Path()) -> Reference | None:
    """The published weights that `train.model` names; None where it names none, or a folder
    (`hf:./mine`, `hf:/data/x`, or one that is there, seen from `root`).

    Raises:
        ConfigError: a branch or tag in place of a revision, unknown weights.
    """
    if match := _TORCHVISION.fullmatch(model):
        repo, word = match.groups()
        return Reference(repo, torchvision_weights.weights_of(repo, word).name)
    match = _REFERENCE.fullmatch(model)
    if match is None or (root / model.removeprefix(PREFIX)).is_dir():
        return None
    repo, revision = match.groups()
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ConfigError(
            f"model='{model}': a revision is 40 hex digits, '{revision}' may mean other files "
            f"tomorrow. Leave it out ({PREFIX}{repo}): the newest is looked up once and written "
            "down"
        )
    return Reference(repo, revision)


def folder_of(model: str, accepted: str | None = None) -> Path:
    """The folder of published weights: downloaded, where it is not at hand; of `hf:./mine` that
    folder. accepted: the setting train.accept_licence, which a download may need.

    Raises:
        ConfigError, WorkspaceError: see `reference_in`, `kept`, `fetch`.
    """
    reference = reference_in(model)
    if reference is None:
        return Path(model.removeprefix(PREFIX))
    cache = cache_dir()
    asked = _newest.get(reference, reference)
    found = kept(asked, (START, cache / "hub"))
    if found is None:
        found = fetch(asked, cache / "hub", cache / "downloads", accepted, (START,))
        if reference.revision is None:
            _newest[reference] = Reference(reference.repo, _read_source(found)["revision"])
    return found


# What a name without a revision meant when this process first asked: the same until it ends.
_newest: dict[Reference, Reference] = {}


def with_revision(model: str, root: Path, accepted: str | None = None) -> str:
    """The name of published weights with the revision that it means now, its files at hand; that
    of a folder as it is. Raises as `folder_of` does.
    """
    reference = reference_in(model, root)
    if reference is None:
        return model
    if kept(reference, (root / START,)):
        return str(reference)
    return name_of(source_of(folder_of(model, accepted)))


def name_of(source: Mapping[str, Any]) -> str:
    """What names the weights of a folder; source: of `source_of`, downloaded."""
    return str(Reference(source["repo"], source["revision"]))


def cache_dir() -> Path:
    """Where downloaded networks are kept: with the project's other caches."""
    return Path(os.environ.get("DETECTFLOW_STATE", ".")) / ".cache"


def source_of(folder: Path) -> dict[str, Any]:
    """Where a folder comes from: `repo`, `revision`, `licence`, `digest`; of one that was not
    downloaded its digest, and the licence that the head of its README.md states.

    Raises:
        WorkspaceError: `source.json` is damaged. ConfigError: weights outside the folder.
    """
    if _is_ours(folder) and (folder / SOURCE).is_file():
        source = _read_source(folder)
        return {key: source[key] for key in ("repo", "revision", "licence", "digest")}
    wanted = {path for path in folder.iterdir() if WANTED.fullmatch(path.name)}
    wanted |= set(folder.glob("*.safetensors"))
    for index in folder.glob(INDEX):
        try:
            wanted |= {folder / name for name in shards_of(index)}
        except ValueError as error:
            raise ConfigError(f"{index}: {error}") from None
    if missing := sorted(path.name for path in wanted if not path.is_file()):
        raise ConfigError(f"{folder}: {missing[0]} is missing, which holds a part of the weights")
    digest = _digest({path.name: sha256_file(path) for path in sorted(wanted)})
    licence = licence_of_card(_head_of(folder / CARD))
    return {"digest": digest} | ({"licence": licence} if licence else {})


def _is_ours(folder: Path) -> bool:
    """Whether it lies where this project puts what it downloads: what a `source.json` says is
    believed only there.
    """
    place = folder.resolve().parent
    return (place.parent.name, place.name) in {START.parts, (".cache", "hub")}


def _read_source(folder: Path) -> dict[str, Any]:
    source = read_object(folder / SOURCE)
    texts = [source.get(key) for key in ("repo", "revision", "licence", "digest")]
    if not all(isinstance(text, str) for text in texts) or not source.get("files"):
        raise WorkspaceError(
            f"{folder / SOURCE}: damaged. `dvc checkout {folder}` brings it back, or remove "
            f"{folder}, and it is downloaded again"
        )
    return source


def _head_of(card: Path) -> Mapping[str, Any]:
    """The YAML between two lines `---` that a model's page begins with."""
    try:
        text = card.read_text(encoding="utf-8")[:100_000]
        found = yaml.safe_load(text.split("\n---", 1)[0]) if text.startswith("---") else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _digest(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(said.items()))).encode()).hexdigest()


def kept(reference: Reference, places: Iterable[Path]) -> Path | None:
    """The folder of a revision among `places`, where its files are at hand.

    Raises:
        WorkspaceError: they are not the bytes that were brought.
    """
    if reference.revision is None:
        return None
    for place in places:
        for file in sorted(place.glob(f"*/{SOURCE}")):
            source = read_object(file)
            names = _names(source)
            if reference.repo.lower() in names and source.get("revision") == reference.revision:
                check(file.parent, _read_source(file.parent))
                return file.parent
    return None


def _names(source: Mapping[str, Any]) -> set[str]:
    """Of a model that was renamed on the hub the old and the new one."""
    return {str(source[key]).lower() for key in ("repo", "asked") if key in source}


def sources_in(places: Iterable[Path]) -> list[dict[str, Any]]:
    """What was downloaded into `places`; files are not looked at."""
    return [
        source
        for place in places
        for file in sorted(place.glob(f"*/{SOURCE}"))
        if (source := read_object(file)).get("repo")
    ]


def check(folder: Path, source: Mapping[str, Any]) -> None:
    """WorkspaceError where a file of `folder` is missing, or has other bytes than its source
    says.
    """
    for name, digest in source.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            raise WorkspaceError(f"{path}: missing. `dvc checkout {folder}` brings it back")
        if sha256_file(path) != digest:
            raise WorkspaceError(
                f"{path}: has other bytes than those of {source.get('repo')} at "
                f"{str(source.get('revision'))[:12]}. `dvc checkout {folder}` brings these back, "
                f"or remove {folder}, and they are downloaded again"
            )


def fetch(
    reference: Reference,
    place: Path,
    scratch: Path,
    accepted: str | None = None,
    elsewhere: Iterable[Path] = (),
) -> Path:
    """Download a model into `place/NAME-DIGEST` and return that folder; of one that is there
    already nothing is changed. scratch: where an unfinished download waits to go on. accepted: the
    setting train.accept_licence. elsewhere: where copies lie too, to be named when the hub does not
    answer. One process at a time; the next finds what this one brought.

    Raises:
        ConfigError: no such model or revision, not one that can be used, or a licence that is not
            free. WorkspaceError: the hub cannot be reached.
    """
    name = re.sub(r"[:/]", "--", reference.repo)
    waiting = scratch / f"{name}-{reference.revision or 'newest'}"
    scratch.mkdir(parents=True, exist_ok=True)
    with Lock(scratch / f"{waiting.name}.lock", transient=True, optional=True) as lock:
        lock.take()
        if found := kept(reference, (place,)):
            return found
        try:
            if reference.is_torchvision:
                return _fetch_torchvision(reference, place, waiting, scratch)
            return _fetch_from_hub(reference, place, waiting, accepted)
        except WorkspaceError as error:
            raise WorkspaceError(f"{error}{_at_hand(reference, (*elsewhere, place))}") from None


def _fetch_from_hub(reference: Reference, place: Path, waiting: Path, accepted: str | None) -> Path:
    _check_online(reference)
    told = _ask(reference, waiting, "ask")
    check_licence(f"model='{reference}'", told, accepted)
    exact = Reference(told["repo"], told["revision"])
    if found := kept(exact, (place,)):
        return found
    waiting.mkdir(parents=True, exist_ok=True)
    found = _ask(Reference(reference.repo, told["revision"]), waiting, "bring")
    asked = {} if found["repo"] == reference.repo else {"asked": reference.repo}
    folder = _publish(place, found["repo"].partition("/")[2], waiting, {**found, **asked})
    shutil.rmtree(waiting, ignore_errors=True)
    return folder


def _fetch_torchvision(reference: Reference, place: Path, made: Path, scratch: Path) -> Path:
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    found = torchvision_weights.bring(reference.repo, str(reference.revision), made, scratch)
    files = {WEIGHTS: sha256_file(made / WEIGHTS)}
    folder = _publish(place, reference.repo.partition(":")[2], made, {**found, "files": files})
    shutil.rmtree(made, ignore_errors=True)
    return folder


def _publish(place: Path, name: str, made: Path, found: Mapping[str, Any]) -> Path:
    """`place/NAME-DIGEST` with the files that lie in `made`; found: what `source.json` says."""
    source = {**found, "digest": _digest(found["files"])}
    folder = place / f"{name}-{_digest(source)[:12]}"
    if not (folder / SOURCE).is_file():
        with publish_folder(folder) as target:
            for file in found["files"]:
                shutil.move(made / file, target / file)
            write_text(target / SOURCE, json.dumps(source, indent=2) + "\n")
    return folder


def go_offline() -> None:
    """The hub's client in this process, and in those it starts, asks no network: what starts a
    training is a folder on this machine. To be called before the client is imported; a setting of
    the user's own stays.
    """
    if OFFLINE not in os.environ:
        os.environ[OFFLINE] = os.environ[OURS] = "1"


def _check_online(reference: Reference) -> None:
    for name in (OFFLINE, "TRANSFORMERS_OFFLINE"):
        is_ours = name == OFFLINE and os.environ.get(OURS) == "1"
        if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} and not is_ours:
            raise WorkspaceError(
                f"{reference}: not on this machine, and {name}={os.environ[name]} forbids to ask "
                f"the hub. Unset it, or {_by_hand(reference)}"
            )


def _ask(reference: Reference, waiting: Path, verb: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "engine.models.hub.download", verb, reference.repo]
    words += [str(waiting), reference.revision or ""]
    environment = {**os.environ, OFFLINE: "0", "TRANSFORMERS_OFFLINE": "0"}
    try:
        done = subprocess.run(
            words,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=LONGEST_S,
        )
        found = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        raise WorkspaceError(
            f"{reference}: not here after {LONGEST_S // 60} minutes. Try again: it goes on "
            "where it was"
        ) from None
    except (ValueError, IndexError):
        raise WorkspaceError(f"{reference}: the download ended without a word; see above") from None
    if "error" in found:
        raise _explained(reference, found["error"], found["said"])
    return found


def _explained(reference: Reference, error: str, said: str) -> Exception:
    if error == "Refused":
        return ConfigError(f"{reference}: {said}")
    if error == "RevisionNotFoundError":
        return ConfigError(f"{reference}: the hub has no such revision of {reference.repo}")
    if error in {"RepositoryNotFoundError", "GatedRepoError"}:
        return ConfigError(
            f"{reference}: the hub has no such model, or it is private or asks for consent. Look "
            "at the spelling; for one that you may use put HF_TOKEN=... into .env"
        )
    if error in {"HFValidationError", "UnsupportedProtocol", "InvalidURL", "ValueError"}:
        endpoint = os.environ.get("HF_ENDPOINT")
        also = f" HF_ENDPOINT={SECRETS.sub('***', endpoint)} is set." if endpoint else ""
        return ConfigError(f"{reference}: cannot be asked for ({error}: {said}).{also}")
    what = "the hub cannot be reached" if NO_WAY.search(error) else "the hub's client failed"
    return WorkspaceError(
        f"{reference}: {what} ({error}: {said}). On a machine with a network {_by_hand(reference)}"
    )


def _by_hand(reference: Reference) -> str:
    name = reference.repo.partition("/")[2]
    at = f" --revision {reference.revision}" if reference.revision else ""
    return (
        f"`hf download {reference.repo}{at} --local-dir {name}` brings the files; copy the folder "
        f"here and give train.model={PREFIX}./{name}"
    )


def _at_hand(reference: Reference, places: Iterable[Path]) -> str:
    """Revisions that are on this machine, where another or the newest was asked for."""
    found = [each for each in sources_in(places) if reference.repo.lower() in _names(each)]
    here = sorted({str(Reference(each["repo"], each["revision"])) for each in found})
    return f". Here already: {', '.join(here)}" if here else ""
