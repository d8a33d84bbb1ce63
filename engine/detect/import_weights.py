"""Weights that another tool wrote, or published ones, as a weight file of this project."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.config import DetectionTrainConfig
from engine.core.checkpoint import Checkpoint, save_checkpoint
from engine.detect.model_io import model_meta
from engine.errors import ConfigError, WorkspaceError
from engine.files import sha256_file
from engine.models.family import Family
from engine.models.hub.files import PREFIX as HUB
from engine.models.hub.files import cache_dir, folder_of, source_of
from engine.models.hub.origins import KEY as ORIGINS
from engine.models.hub.origins import origin_of
from engine.models.hub.torchvision_weights import PREFIX as TORCHVISION
from engine.models.registry import families, family_of
from engine.version import __version__

SIDE_PX = 640  # where the file does not say for which size it was trained


class Imported(NamedTuple):
    """What came of it."""

    path: Path
    network: str
    names: tuple[str, ...]
    imgsz: tuple[int, int]  # (h, w) pixels
    is_assumed: bool  # nobody said which size
    licence: str  # of the weights


def import_weights(
    path: Path,
    family: str,
    licence: str,
    out: Path,
    names: Sequence[str] = (),
    imgsz: int | None = None,
) -> Imported:
    """Write the detector of family `family` in the file `path` as the checkpoint `out`; `path` is
    only read, and nothing of it is run.

    licence: under which the user has the weights; recorded with them and with all that is trained
    from them. names: of the classes, where the file has none or numbers. imgsz: pixels, where the
    file does not say.

    Raises:
        ConfigError: a wrong request; no names. CheckpointError: it holds no such network.
            WorkspaceError: `out` is there already, or cannot be written.
    """
    reader = _reader(family)
    if not licence.strip():
        raise ConfigError("import: licence= is empty: name the licence under which you have them")
    if out.exists():
        raise WorkspaceError(f"import: {out} is there already. Give another out=FILE.pt")
    found = reader.read_foreign(path)
    classes = tuple(names) or found.names
    if not classes:
        raise ConfigError(
            f"import: {path} does not name its {found.classes} classes: give names=[...] in the "
            "order of the network"
        )
    if len(classes) != found.classes:
        raise ConfigError(
            f"import: names={list(classes)}: {len(classes)} names, and the network in {path} has "
            f"{found.classes} classes"
        )
    if len(set(classes)) != len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise ConfigError(f"import: two classes are called '{twice}': give names=[...]")
    side = imgsz or found.imgsz or SIDE_PX
    reader.check_size(found.spec, (side, side))
    network = reader.build(found.spec, len(classes))
    network.load_state_dict({**network.state_dict(), **found.state})
    origin = origin_of({"digest": sha256_file(path), "licence": licence}, name=path.name)
    meta = model_meta(reader, found.spec, str(found.spec["name"]), classes, (side, side), "")
    save_checkpoint(Checkpoint({**meta, ORIGINS: [origin]}, network.state_dict()), out)
    is_assumed = not (imgsz or found.imgsz)
    return Imported(out, str(found.spec["name"]), classes, (side, side), is_assumed, licence)


def import_published(
    model: str,
    out: Path,
    imgsz: int | None = None,
    accept_licence: str | None = None,
) -> Imported:
    """Write the network of published weights, `hf:ORG/NAME` or `torchvision:NAME@WEIGHTS`, with all
    its classes as the checkpoint `out`; nothing is trained.

    imgsz: pixels; None: those its page says, or 640. accept_licence: as train.accept_licence.

    Raises:
        ConfigError: a name without weights, no such page, a size it cannot take, a licence that
            nobody accepted. WorkspaceError: the files cannot be had; `out` is there already, or
            cannot be written.
    """
    family = family_of(model)
    found = family.published(model, accept_licence)
    if found is None:
        raise ConfigError(f"import: {model} names a network without weights: `detectflow models`")
    if out.exists():
        raise WorkspaceError(f"import: {out} is there already. Give another out=FILE.pt")
    if not found.names:
        raise ConfigError(
            f"import: {model} does not name its classes (id2label in its config.json)"
        )
    side = imgsz or found.imgsz or SIDE_PX
    config = DetectionTrainConfig(model=model, imgsz=side, accept_licence=accept_licence)
    spec = family.spec(model, config)
    family.check_size(spec, (side, side))
    network = family.build(spec, len(found.names))
    family.start(network, spec, found.names)
    origin = family.origin(spec)
    meta = model_meta(family, spec, model, found.names, (side, side), "")
    origins = [] if origin is None else [origin]
    save_checkpoint(Checkpoint({**meta, ORIGINS: origins}, network.state_dict()), out)
    is_assumed = not (imgsz or found.imgsz)
    licence = str((origin or {}).get("licence", "unknown"))
    return Imported(out, model, found.names, (side, side), is_assumed, licence)


def short_name(model: str) -> str:
    """`hf:ORG/NAME@REVISION` -> NAME."""
    return model.rstrip("/").rpartition("/")[2].rpartition(":")[2].partition("@")[0]


def is_published(model: str) -> bool:
    """Whether `model` is a name that may stand for published weights."""
    return model.startswith((HUB, TORCHVISION))


def published_file(model: str) -> Path | None:
    """The weight file of published weights as they are, made once and kept in the cache; None where
    the name stands for none. Raises as `import_published` does.
    """
    family = family_of(model)
    if family.published(model) is None:
        return None
    source = json.dumps(source_of(folder_of(model)), sort_keys=True)  # its licence, too
    key = hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = cache_dir() / "published" / f"{key}-{__version__}"
    path = folder / f"{short_name(model)}.pt"
    return path if path.is_file() else import_published(model, path).path


def _reader(name: str) -> Family:
    known = [each for each in families() if type(each).read_foreign is not Family.read_foreign]
    for family in known:
        if family.name == name:
            return family
    raise ConfigError(
        f"import: family='{name}': weights of other tools are read of "
        f"{', '.join(each.name for each in known)}"
    )
