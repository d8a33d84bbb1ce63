"""Published weights, their files kept on this machine: `hf:ORG/NAME@REVISION`, a model on Hugging
Face's hub, and `torchvision:NAME@WEIGHTS`.

A revision is 40 hex digits and means the same files for ever; a branch or tag may move, so it is
not taken. Files are brought once, into `NAME-DIGEST/` beside `source.json` that says where they
come from, and checked by their digests each time they are used. Whoever has the folder (DVC
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

from engine.errors import ConfigError, WorkspaceError
from engine.files import publish_folder, read_object, sha256_file, write_text
from engine.models.hub import torchvision_weights
from engine.models.hub.download import WANTED

PREFIX = "hf:"
SOURCE = "source.json"
WEIGHTS = "model.safetensors"  # of a model in one file, which all but the largest are
START = Path("models/start")  # of a project: versioned by DVC
LONGEST_S = 3600
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


def folder_of(model: str) -> Path:
    """The folder of published weights: downloaded, where it is not at hand; of `hf:./mine` that
    folder.

    Raises:
        ConfigError, WorkspaceError: see `reference_in`, `kept`, `fetch`.
    """
    reference = reference_in(model)
    if reference is None:
        return Path(model.removeprefix(PREFIX))
    cache = cache_dir()
    if reference in _newest:
        reference = _newest[reference]
    found = kept(reference, (START, cache / "hub"))
    if found is None:
        found = fetch(reference, cache / "hub", cache / "downloads")
        revision = read_object(found / SOURCE)["revision"]
        _newest[Reference(reference.repo, None)] = Reference(reference.repo, revision)
    return found


# What a name without a revision meant when this process first asked: the same until it ends.
_newest: dict[Reference, Reference] = {}


def with_revision(model: str, root: Path) -> str:
    """The name of published weights with the revision that it means now, its files at hand; that
    of a folder as it is.
    """
    reference = reference_in(model, root)
    if reference is None:
        return model
    if kept(reference, (root / START,)):
        return str(reference)
    return name_of(source_of(folder_of(model)))


def name_of(source: Mapping[str, Any]) -> str:
    """What names the weights of a folder; source: of `source_of`, downloaded."""
    return str(Reference(source["repo"], source["revision"]))


def cache_dir() -> Path:
    """Where downloaded networks are kept: with the project's other caches."""
    return Path(os.environ.get("DETECTFLOW_STATE", ".")) / ".cache"


def source_of(folder: Path) -> dict[str, Any]:
    """Where a folder comes from: `repo`, `revision`, `licence`, `digest`; of one that was not
    downloaded its digest alone.
    """
    source = read_object(folder / SOURCE)
    if source:
        return {key: source[key] for key in ("repo", "revision", "licence", "digest")}
    files = sorted(path for path in folder.iterdir() if WANTED.fullmatch(path.name))
    return {"digest": _digest({path.name: sha256_file(path) for path in files})}


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(sorted(files.items()))).encode()).hexdigest()


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
            if (source.get("repo"), source.get("revision")) == (reference.repo, reference.revision):
                check(file.parent, source)
                return file.parent
    return None


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


def fetch(reference: Reference, place: Path, scratch: Path) -> Path:
    """Download a model into `place/NAME-DIGEST` and return that folder; of one that is there
    already nothing is changed. scratch: where an unfinished download waits to go on.

    Raises:
        ConfigError: no such model or revision, not one that can be used. WorkspaceError: the hub
            cannot be reached.
    """
    if reference.is_torchvision:
        return _fetch_torchvision(reference, place, scratch)
    owner, _, name = reference.repo.partition("/")
    waiting = scratch / f"{owner}--{name}-{reference.revision or 'newest'}"
    waiting.mkdir(parents=True, exist_ok=True)
    there = {
        source["revision"]: file.parent
        for file in place.glob(f"*/{SOURCE}")
        if (source := read_object(file)).get("repo") == reference.repo
    }
    found = _ask(reference, waiting, there)
    if found["revision"] in there:
        shutil.rmtree(waiting, ignore_errors=True)
        return there[found["revision"]]
    files = found["files"]
    digest = _digest(files)
    folder = place / f"{name}-{digest[:12]}"
    if not (folder / SOURCE).is_file():
        with publish_folder(folder) as made:
            for file in files:
                (made / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(waiting / file, made / file)
            write_text(made / SOURCE, json.dumps({**found, "digest": digest}, indent=2) + "\n")
    shutil.rmtree(waiting, ignore_errors=True)
    return folder


def _fetch_torchvision(reference: Reference, place: Path, scratch: Path) -> Path:
    made = scratch / f"{reference.repo.replace(':', '-')}-{reference.revision}"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    found = torchvision_weights.bring(reference.repo, str(reference.revision), made, scratch)
    files = {WEIGHTS: sha256_file(made / WEIGHTS)}
    digest = _digest(files)
    folder = place / f"{reference.repo.partition(':')[2]}-{digest[:12]}"
    if not (folder / SOURCE).is_file():
        with publish_folder(folder) as target:
            shutil.move(made / WEIGHTS, target / WEIGHTS)
            source = {**found, "files": files, "digest": digest}
            write_text(target / SOURCE, json.dumps(source, indent=2) + "\n")
    shutil.rmtree(made, ignore_errors=True)
    return folder


def _ask(reference: Reference, waiting: Path, there: Iterable[str]) -> dict[str, Any]:
    words = [sys.executable, "-m", "engine.models.hub.download", reference.repo, str(waiting)]
    words += [reference.revision or "", *there]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
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
    name = reference.repo.partition("/")[2]
    at = f" --revision {reference.revision}" if reference.revision else ""
    return WorkspaceError(
        f"{reference}: the hub cannot be reached ({error}: {said}). On a machine with a network "
        f"`hf download {reference.repo}{at} --local-dir {name}` brings the files; copy the folder "
        f"here and give train.model={PREFIX}./{name}"
    )
