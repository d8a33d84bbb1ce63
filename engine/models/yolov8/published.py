"""Weights of this family under its published layer names (`model.0.conv.weight`, ...), as other
tools write them, brought under ours.

The file is read as tensors and plain data: every class that its pickle names is replaced by an
inert stand-in, so that nothing of it is imported and nothing runs. Names are mapped by the place of
a layer in the network, and every shape is checked. The file, and its licence, are the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.errors import CheckpointError
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
DEEPEST = 30  # modules in modules


class Published(NamedTuple):
    """A network of the family in a file of another tool."""

    scale: str  # yolov8n, ...
    names: tuple[str, ...]  # of the classes; () where the file does not say
    imgsz: int | None  # it was trained for, pixels
    state: dict[str, Tensor]  # float32, under our names


class Inert:
    """Stands for whatever class or function a file names: holds what it was given, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_published(path: Path) -> Published:
    """The network in `path`.

    Raises:
        CheckpointError: it cannot be read as tensors and plain data, or holds no detector of this
            family; says what does not fit.
    """
    content = _read(path)
    holder = content
    if isinstance(content, Mapping):  # averaged weights, where there are, are the ones to use
        holder = next((content[key] for key in ("ema", "model") if content.get(key)), content)
    state = holder if isinstance(holder, Mapping) else dict(_tensors(holder))
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no weights: neither a network nor a state dict")
    renamed = _renamed(tensors, path)
    scale = _scale_of(renamed, path)
    settings = content.get("train_args") if isinstance(content, Mapping) else None
    imgsz = settings.get("imgsz") if isinstance(settings, Mapping) else None
    return Published(
        scale,
        _names(holder, content, _classes(renamed), path),
        imgsz if isinstance(imgsz, int) and not isinstance(imgsz, bool) else None,
        renamed,
    )


def _read(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from None
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        inert = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in foreign]
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make the reader raise anything
        said = str(error).partition("WeightsUnpickler error:")[2] or str(error)  # torch's reason
        first = (said.strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: cannot be read as tensors and plain data: {first[:200]}"
        ) from None


def _tensors(module: Any, prefix: str = "", depth: int = 0) -> Any:
    """(name, tensor) of a network that was stored whole: stand-ins in stand-ins."""
    parts = getattr(module, "__dict__", {})
    for kind in ("_parameters", "_buffers"):
        for name, value in (parts.get(kind) or {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value
    if depth < DEEPEST:
        for name, inner in (parts.get("_modules") or {}).items():
            yield from _tensors(inner, f"{prefix}{name}.", depth + 1)


def _renamed(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        number, _, rest = name.removeprefix("module.").removeprefix("model.").partition(".")
        layer = int(number) if number.isascii() and number.isdigit() else -1
        if layer == HEAD and rest == PROJECTION:
            if not torch.equal(tensor.float().flatten(), torch.arange(float(BINS))):
                raise CheckpointError(f"{path}: {name} is not 0 to {BINS - 1}: another head")
            continue
        branch, _, of_branch = rest.partition(".")
        if layer == HEAD and branch in BRANCHES:
            target = f"{BRANCHES[branch]}.{of_branch}"
        elif layer in PARTS:
            target = f"{PARTS[layer]}.{rest}"
        else:
            raise CheckpointError(
                f"{path}: tensor '{name}' has no place in a detector of the YOLOv8 family: another "
                "network, or another task (segmentation, pose)"
            )
        found[target] = tensor.float() if tensor.is_floating_point() else tensor
    return found


def _classes(state: Mapping[str, Tensor]) -> int:
    last = state.get("head.cls.0.2.bias")
    return len(last) if last is not None and last.ndim == 1 else 0


def _scale_of(state: Mapping[str, Tensor], path: Path) -> str:
    """The network of the family that has these tensors in these shapes."""
    classes, first = _classes(state), ""
    if not classes:
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


def _names(holder: Any, content: Any, classes: int, path: Path) -> tuple[str, ...]:
    for place in (getattr(holder, "__dict__", {}), content if isinstance(content, Mapping) else {}):
        names = place.get("names")
        if isinstance(names, Mapping):
            try:
                names = [names[number] for number in range(len(names))]
            except KeyError:
                continue
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            if len(names) != classes:
                raise CheckpointError(
                    f"{path}: has {len(names)} class names and scores for {classes} classes"
                )
            return tuple(names)
    return ()
