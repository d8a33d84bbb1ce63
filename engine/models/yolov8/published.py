"""Weights of this family under its published layer names (`model.0.conv.weight`, ...), as other
tools write them, brought under ours.

The file is read as tensors and plain data (`foreign_file`). Names are mapped by the place of a
layer in the network, and every shape is checked before a tensor is converted. The file, and its
licence, are the user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.errors import CheckpointError
from engine.models.finite import not_finite
from engine.models.yolov8.foreign_file import read, tensors_in
from engine.models.yolov8.network import BINS, build_model
from engine.models.yolov8.spec import SCALES

# Layer of the published network -> part of ours. The others (10, 11, 13, 14, 17, 20) have no
# weights: they enlarge a map or join two.
PARTS = {
    0: "backbone.stem",
    1: "backbone.stage2.0",
    2: "backbone.stage2.1",
    3: "backbone.stage3.0",
    4: "backbone.stage3.1",
    5: "backbone.stage4.0",
    6: "backbone.stage4.1",
    7: "backbone.stage5.0",
    8: "backbone.stage5.1",
    9: "backbone.stage5.2",
    12: "neck.up4",
    15: "neck.up3",
    16: "neck.down3",
    18: "neck.down4",
    19: "neck.down4_conv",
    21: "neck.down5",
}
HEAD, BRANCHES = 22, {"cv2": "head.box", "cv3": "head.cls"}
PROJECTION = "dfl.conv.weight"  # of the head: the numbers 0 to 15, no weights
MOST_CLASSES = 100_000
LARGEST_PX = 10_000  # of an input, beyond which a file's word is not taken
LONGEST_NAME = 200  # of a class


class Published(NamedTuple):
    """A network of the family in a file of another tool."""

    scale: str  # yolov8n, ...
    names: tuple[str, ...]  # of the classes; () where the file does not say
    imgsz: int | None  # it was trained for, pixels
    state: dict[str, Tensor]  # float32, under our names


def read_published(path: Path) -> Published:
    """The network in `path`.

    Raises:
        CheckpointError: it cannot be read as tensors and plain data, or holds no detector of this
            family; says what does not fit.
    """
    content = read(path)
    top = content if isinstance(content, Mapping) else {}
    # Averaged weights, where there are, are the ones to use.
    inside = [top[key] for key in ("ema", "model") if _is_there(top.get(key))]
    holder = inside[0] if inside else content
    tensors = tensors_in(holder, path)
    if not tensors:
        raise CheckpointError(f"{path}: holds no weights: neither a network nor a state dict")
    renamed = _renamed(tensors, path)
    scale = _scale_of(renamed, path)
    state = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in renamed.items()
    }
    if wrong := not_finite(state):
        raise CheckpointError(f"{path}: {wrong}")
    settings = top.get("train_args")
    imgsz = settings.get("imgsz") if isinstance(settings, Mapping) else None
    is_size = isinstance(imgsz, int) and not isinstance(imgsz, bool) and 0 < imgsz <= LARGEST_PX
    return Published(
        scale, _names(holder, top, _classes(state), path), imgsz if is_size else None, state
    )


def _is_there(value: Any) -> bool:
    return value is not None and not (isinstance(value, (Mapping, list, str)) and not value)


def _renamed(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        number, _, rest = name.removeprefix("module.").removeprefix("model.").partition(".")
        layer = int(number) if re.fullmatch("[0-9]{1,3}", number) else -1
        if layer == HEAD and rest == PROJECTION:
            if tensor.numel() != BINS or not torch.equal(
                tensor.float().flatten(), torch.arange(float(BINS))
            ):
                raise CheckpointError(f"{path}: {name} is not 0 to {BINS - 1}: another head")
            continue
        branch, _, of_branch = rest.partition(".")
        if layer == HEAD and branch in BRANCHES:
            target = f"{BRANCHES[branch]}.{of_branch}"
        elif layer in PARTS:
            target = f"{PARTS[layer]}.{rest}"
        else:
            raise CheckpointError(
                f"{path}: tensor '{name[:100]}' has no place in a detector of the YOLOv8 family: "
                "another network, or another task (segmentation, pose)"
            )
        found[target] = tensor
    return found


def _classes(state: Mapping[str, Tensor]) -> int:
    last = state.get("head.cls.0.2.bias")
    return len(last) if last is not None and last.ndim == 1 else 0


def _scale_of(state: Mapping[str, Tensor], path: Path) -> str:
    """The network of the family that has these tensors in these shapes."""
    classes, first = _classes(state), ""
    if not 0 < classes <= MOST_CLASSES:
        raise CheckpointError(f"{path}: no layer of class scores (22.cv3.0.2): not a detector")
    for name in SCALES:
        with torch.device("meta"):
            wanted = {
                key: tuple(tensor.shape)
                for key, tensor in build_model(name, classes).state_dict().items()
            }
        given = {key: tuple(tensor.shape) for key, tensor in state.items()}
        optional = {key for key in wanted if key.endswith("num_batches_tracked")}
        wrong = [
            key
            for key in sorted(wanted.keys() | given.keys())
            if wanted.get(key) != given.get(key) and not (key in optional and key not in given)
        ]
        if not wrong:
            return name
        if wanted.get("backbone.stem.conv.weight") == given.get("backbone.stem.conv.weight"):
            key = wrong[0]
            first = (
                f" It is nearest to {name}, of which {len(wrong)} tensors do not fit; first {key}: "
                f"{given.get(key, 'missing')} in place of {wanted.get(key, 'nothing')}"
            )
    raise CheckpointError(f"{path}: not a network of the YOLOv8 family.{first}")


def _names(holder: Any, top: Mapping[str, Any], classes: int, path: Path) -> tuple[str, ...]:
    for place in (getattr(holder, "__dict__", {}), top):
        names = place.get("names")
        if isinstance(names, Mapping):
            try:
                names = [names[number] for number in range(len(names))]
            except KeyError:
                continue
        if isinstance(names, (list, tuple)) and all(map(_is_name, names)):
            if len(names) != classes:
                raise CheckpointError(
                    f"{path}: has {len(names)} class names and scores for {classes} classes"
                )
            return tuple(names)
    return ()


def _is_name(value: Any) -> bool:
    """Whether it can be shown: a terminal obeys what is not printable."""
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= LONGEST_NAME
