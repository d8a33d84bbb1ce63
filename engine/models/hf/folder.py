"""A folder that `save_pretrained` wrote: its configuration, class names, weights. Tensors and plain
data only.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.errors import ConfigError
from engine.models.finite import not_finite
from engine.models.hf.network import describe, load
from engine.models.hub.download import shards_of

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PICKLED = {".bin", ".pt", ".pth", ".ckpt"}
LARGEST_JSON = 10_000_000  # bytes
MOST_CLASSES = 100_000
OLDEST = 30  # of folders known to be whole
NOT_NORMALISED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
# Of ImageNet, the library's own where a processor normalises and says no more.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelFolder:
    """What config.json and preprocessor_config.json say."""

    path: Path
    config: Mapping[str, Any]
    names: tuple[str, ...]  # of the classes it was trained with
    mean: tuple[float, ...]  # per channel, of RGB in [0, 1]
    std: tuple[float, ...]
    imgsz: int | None  # the side its processor resizes images to, pixels
    files: tuple[Path, ...]  # of the weights


def read_folder(path: Path) -> ModelFolder:
    """ConfigError: no such folder, no detector that this library builds, or weights in a format
    that can run code.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; hf: takes one that `save_pretrained` wrote")
    config = _json(path / CONFIG)
    kind = describe(config, 1, str(path / CONFIG))
    said = _json(path / PROCESSOR) if (path / PROCESSOR).is_file() else {}
    mean, std = _normalisation(said, path / PROCESSOR)
    names = _names(config.get("id2label"), path) or _default_names(kind, config)
    side = _side(said.get("size"))
    return ModelFolder(path, config, names, mean, std, side, _weight_files(path))


def read_state(folder: ModelFolder) -> dict[str, Tensor]:
    """The weights, under the names that the library builds the network with.

    Raises:
        ConfigError: they are damaged, hold values that are no numbers, or are not those of the
            configuration.
    """
    state: dict[str, Tensor] = {}
    for file in folder.files:
        with _opened(file) as opened:
            state |= {name: opened.get_tensor(name) for name in opened.keys()}
    if wrong := not_finite(state):
        raise ConfigError(f"{folder.path}: {wrong}")
    found, said = load(folder.config, len(folder.names), state, str(folder.path / CONFIG))
    if other := sorted(said.get("mismatched_keys") or ()):
        name, given, wanted = (*other[0], None, None)[:3]
        raise ConfigError(
            f"{folder.path}: {len(other)} of its tensors have another shape than {CONFIG} asks "
            f"for, first {name}: {tuple(given or ())}, wanted {tuple(wanted or ())}. Not the "
            f"weights of this configuration, or id2label names another number of classes "
            f"({len(folder.names)})"
        )
    if missing := sorted(said.get("missing_keys") or ()):
        raise ConfigError(
            f"{folder.path}: {len(missing)} tensors are not in its weights, first {missing[0]}: "
            "not the weights of this configuration"
        )
    return found


@lru_cache(maxsize=OLDEST)
def check_state(path: Path, digest: str) -> None:
    """ConfigError where `read_state` would raise: asked before data are read. digest: of the
    files, for which the answer is kept.
    """
    read_state(read_folder(path))


def _weight_files(path: Path) -> tuple[Path, ...]:
    """The files of the weights, in the order of their index; each is whole as far as its header
    tells.
    """
    if (path / ADAPTER).exists():
        raise ConfigError(
            f"{path / ADAPTER}: these are changes to another model's weights. Merge them with it "
            "once and save the whole"
        )
    if (path / WEIGHTS).is_file():
        names = [WEIGHTS]
    elif (path / INDEX).is_file():
        names = _in_index(path / INDEX)
    else:
        others = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
        found = f" {', '.join(others)} can run code when opened and is not read." if others else ""
        raise ConfigError(
            f"{path}: no weights as .safetensors.{found} Save it once with the library: "
            "`model.save_pretrained(folder)`"
        )
    files = tuple(path / name for name in names)
    for file in files:
        with _opened(file):  # reads the header and compares it with the size of the file
            pass
    return files


def _in_index(index: Path) -> list[str]:
    try:
        names = sorted(shards_of(index))
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{index}: {error}") from None
    if not names:
        raise ConfigError(f"{index}: its weight_map names no file")
    return names


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise ConfigError(f"{file}: no such file; it holds a part of the weights")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            yield opened
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(
            f"{file}: damaged or not whole: {' '.join(str(error).split())[:200]}. Bring it again"
        ) from None


def _default_names(described: Any, config: Mapping[str, Any]) -> tuple[str, ...]:
    """LABEL_0, ...: as the library calls classes that have no names. It writes none where there
    are as many as its own default.
    """
    given = config.get("num_labels")
    is_said = isinstance(given, int) and not isinstance(given, bool) and 0 < given <= MOST_CLASSES
    count = given if is_said else type(described)().num_labels
    return tuple(f"LABEL_{i}" for i in range(count))


def _names(by_number: Any, path: Path) -> tuple[str, ...]:
    if by_number is None:
        return ()
    try:
        numbers = {int(number): str(name) for number, name in by_number.items()}
    except (TypeError, ValueError, AttributeError):
        raise ConfigError(f"{path / CONFIG}: id2label is not numbers and names") from None
    if sorted(numbers) != list(range(len(numbers))):
        raise ConfigError(f"{path / CONFIG}: id2label does not count from 0 to {len(numbers) - 1}")
    found = tuple(numbers[i] for i in range(len(numbers)))
    if odd := next((name for name in found if not name.isprintable()), None):
        raise ConfigError(f"{path / CONFIG}: id2label: {odd!r} is no name that can be shown")
    return found


def _side(size: Any) -> int | None:
    """{"height": 640, "width": 640}, or {"shortest_edge": 800, "longest_edge": 1333}."""
    values = size if isinstance(size, Mapping) else {}
    sides = [values[k] for k in ("height", "width", "shortest_edge") if k in values]
    is_said = sides and all(isinstance(each, int) and each > 0 for each in sides)
    return max(sides) if is_said else None


def _normalisation(
    said: Mapping[str, Any], file: Path
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel; images here are in [0, 1] already."""
    if not said.get("do_normalize"):
        return NOT_NORMALISED
    mean, std = said.get("image_mean", MEAN), said.get("image_std", STD)
    if not all(_three_numbers(each) for each in (mean, std)):
        raise ConfigError(f"{file}: image_mean and image_std must be three numbers each")
    return tuple(mean), tuple(std)


def _three_numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST_JSON:
            raise ConfigError(f"{file}: larger than {LARGEST_JSON / 1e6:.0f} MB, no configuration")
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; `save_pretrained` writes it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{file}: not an object of JSON")
    return found
