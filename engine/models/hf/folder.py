"""A folder that `save_pretrained` wrote: its configuration, class names, weights. Tensors and plain
data only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.errors import ConfigError
from engine.models.hf.library import transformers

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "*.safetensors"
PICKLED = {".bin", ".pt", ".pth", ".ckpt"}
LARGEST_JSON = 10_000_000  # bytes
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


def read_folder(path: Path) -> ModelFolder:
    """ConfigError: no such folder, no detector that this library builds, or weights in a format
    that can run code.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; hf: takes one that `save_pretrained` wrote")
    config = _json(path / CONFIG)
    kind = config.get("model_type")
    if "auto_map" in config:
        raise ConfigError(
            f"{path / CONFIG}: asks to run code that comes with the model (auto_map). That is "
            "never done; use a model whose code is part of the library"
        )
    library = transformers()
    known = library.models.auto.modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
    if kind not in known:
        raise ConfigError(
            f"{path / CONFIG}: model_type '{kind}' is no detector of transformers "
            f"{library.__version__}; there are {', '.join(sorted(known))}"
        )
    if not list(path.glob(WEIGHTS)):
        others = sorted(file.name for file in path.iterdir() if file.suffix in PICKLED)
        found = f" {', '.join(others)} can run code when opened and is not read." if others else ""
        raise ConfigError(
            f"{path}: no weights as .safetensors.{found} Save it once with the library: "
            "`model.save_pretrained(folder)`"
        )
    names = config.get("id2label") or {}
    said = _json(path / PROCESSOR) if (path / PROCESSOR).is_file() else {}
    mean, std = _normalisation(said, path / PROCESSOR)
    return ModelFolder(path, config, _names(names, path), mean, std, _side(said.get("size")))


def read_state(folder: ModelFolder) -> dict[str, Tensor]:
    """The weights, under the names that the library builds the network with.

    Raises:
        ConfigError: they are damaged or not those of the configuration.
    """
    library = transformers()
    try:
        network, said = library.AutoModelForObjectDetection.from_pretrained(
            folder.path,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            dtype="float32",
        )
    except Exception as error:  # the library raises what the reader below it raises
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{folder.path}: its weights cannot be used: {first}") from error
    if missing := sorted(said.get("missing_keys") or ()):
        raise ConfigError(
            f"{folder.path}: {len(missing)} tensors are not in its weights, first {missing[0]}: "
            "not the weights of this configuration"
        )
    return network.state_dict()


def _names(by_number: Mapping[str, str], path: Path) -> tuple[str, ...]:
    try:
        numbers = {int(number): str(name) for number, name in by_number.items()}
    except (TypeError, ValueError, AttributeError):
        raise ConfigError(f"{path / CONFIG}: id2label is not numbers and names") from None
    if sorted(numbers) != list(range(len(numbers))):
        raise ConfigError(f"{path / CONFIG}: id2label does not count from 0 to {len(numbers) - 1}")
    return tuple(numbers[i] for i in range(len(numbers)))


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
        and all(isinstance(value, (int, float)) for value in values)
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
