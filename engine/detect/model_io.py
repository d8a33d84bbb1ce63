"""A detector and its file: what is written beside the weights, and a network built from what a file
says of itself.

Reads `.pt` (our checkpoints) and the formats that hold weights (`engine.model_formats`): tensors
and plain data only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.core.checkpoint import load_checkpoint
from engine.data.manifest import class_hash
from engine.errors import CheckpointError, cause_of
from engine.model_formats.metadata import decode_meta
from engine.model_formats.table import check_suffix, format_of, weight_suffixes
from engine.models import catalogue
from engine.models.registry import Family, Spec, family_named
from engine.types import Size


@dataclass(frozen=True)
class LoadedModel:
    """A detector ready to run, and what its file says of it."""

    module: nn.Module  # eval mode, on the device
    names: tuple[str, ...]
    imgsz: Size  # (h, w) it was trained for
    # of the file; also `stride`, `needs_nms` and `selects` of its family
    meta: Mapping[str, Any]
    state: Mapping[str, Tensor]  # the weights as trained, on the CPU
    family: Family

    def check_size(self, size: Size) -> None:
        """ConfigError with near sizes that fit, where the network cannot take `size`."""
        self.family.check_size(self.spec, size)

    @property
    def spec(self) -> Spec:
        """What the family built the network from."""
        return self.meta["architecture"]


def model_meta(
    family: Family,
    spec: Spec,
    model: str,
    names: tuple[str, ...],
    imgsz: Size,
    data_digest: str,
) -> dict[str, Any]:
    """What travels with the weights: enough to build the network and to check that classes and data
    fit. model: the setting, shown where the spec has no name of its own.
    """
    return {
        "family": family.name,
        "model": str(spec.get("name", Path(model).name)),
        "architecture": spec,
        "names": list(names),
        "imgsz": list(imgsz),
        "class_hash": class_hash(names),
        "data_digest": data_digest,
    }


def is_weight_file(cfg: str) -> bool:
    """Whether `model=` names a weight file rather than a kind of network."""
    return Path(cfg).suffix.lower() in weight_suffixes()


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(meta, state) of a weight file.

    Raises:
        CheckpointError: missing, damaged, or made by another program.
    """
    path = Path(path)
    check_suffix(path)
    if not is_weight_file(str(path)):
        raise CheckpointError(f"{path}: weights are {' or '.join(weight_suffixes())} files")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint{_network_named(path)}")
    format = format_of(path)
    if format is None:
        checkpoint = load_checkpoint(path)
        return check_meta(checkpoint.meta, path), dict(checkpoint.weights)
    texts, state = format.read_weights(path)
    floats = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    return check_meta(decode_meta(texts, path), path), floats


def _network_named(path: Path) -> str:
    """What to do where a missing file is called like a network: elsewhere such a one is fetched."""
    near = catalogue.in_words(path.name) if path.name == str(path) else ""
    if not near:
        return ""
    return (
        f". Weights are a file of yours, such as runs/train/weights/best.pt; those of other tools "
        f"become one by `detectflow import`. None are fetched by this name.{near}"
    )


def load_model(path: str | Path, device: str | torch.device = "cpu") -> LoadedModel:
    """The network of a weight file, in eval mode.

    Raises:
        CheckpointError: missing, damaged, foreign, or weights that do not fit the network the file
            names.
    """
    meta, state = read_weights(path)
    family = family_of_meta(meta, path)
    module = family.build(meta["architecture"], len(meta["names"]))
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: its weights are not those of a {meta['model']}: {cause_of(error)} Was the "
            "code of a network of your own changed since?"
        ) from None
    module = module.to(device).eval()
    h, w = meta["imgsz"]
    spec = meta["architecture"]
    meta |= {
        "stride": family.stride(spec),
        "needs_nms": family.needs_nms,
        "selects": family.selects(spec),
    }
    return LoadedModel(module, tuple(meta["names"]), (int(h), int(w)), meta, state, family)


def family_of_meta(meta: Mapping[str, Any], path: str | Path) -> Family:
    """The family that a file's metadata name. CheckpointError: it is not known here."""
    try:
        return family_named(meta.get("family"))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error.__cause__


def check_meta(meta: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """What a file says of itself, where that is enough to build the network again.

    Raises:
        CheckpointError: no detector of this project, or a network of the user's own in a file of
            the time before it could be named.
    """
    missing = [key for key in ("architecture", "names", "imgsz") if not meta.get(key)]
    if missing == ["architecture"]:
        raise CheckpointError(
            f"{path}: holds the weights of a network of your own and does not say what made it: it "
            "was written by an older version. Load it with the class that made it, "
            "Trainer(...).best_model(), or train again"
        )
    if missing:
        raise CheckpointError(
            f"{path}: does not say its {', '.join(missing)}: not a detector of this project"
        )
    check_class_hash(meta, path)
    return dict(meta)


def check_class_hash(meta: Mapping[str, Any], path: str | Path) -> None:
    """CheckpointError where the class names are not those that the hash in the file was made of."""
    known, found = meta.get("class_hash"), class_hash(meta["names"])
    if known and known != found:
        raise CheckpointError(
            f"{path}: its class names ({', '.join(map(str, meta['names']))}) have hash {found}, "
            f"and it says {known}: names or order were changed after it was written. Take the file "
            "as it was written"
        )
