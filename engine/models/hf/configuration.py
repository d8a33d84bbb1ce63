"""The content of a config.json as data from outside: what the code here reads of it has the right
type, and nothing of it leads the library to fetch something or to run code that is not its own.

Holds for the file of a folder and for the copy of it that travels in a weight file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from engine.errors import ConfigError

WHERE = "the configuration in the weight file"
DEEPEST = 20  # objects in objects
LARGEST = 1_000_000  # of a number of pixels, cells, queries
# Code of the model's page, and weights that only another library can read.
REFUSED = {
    "auto_map": "asks to run code that comes with the model. That is never done; use a model whose "
    "code is part of the library",
    "quantization_config": "its weights are quantised, which cannot be trained. Take the weights "
    "in float",
}
# How the library computes, not what: a name with a `/` in it is code on a hub. Left to the library.
CHOICES = ("attn_implementation", "experts_implementation")
INTERNAL = tuple(f"_{key}{end}" for key in CHOICES for end in ("", "_internal"))
OWN_CODE = ("eager", "sdpa")  # of the library and of torch
DROPPED = {
    *INTERNAL,
    "use_kernels",
    "kernel_config",
    "fusion_config",
    "distributed_config",
    "custom_pipelines",
    "transformers_weights",
    "use_pretrained_backbone",
    "dtype",
    "torch_dtype",
}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _is_scale(value: Any) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 1 / LARGEST <= value <= LARGEST


def _is_list_of(is_one: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_one, value))


_WHOLE = (f"a whole number of at least 1, at most {LARGEST}", _is_whole)
_SIDES = ("a whole number of at least 1, or a list of such", _is_list_of(_is_whole))
_SCALES = ("a list of numbers above 0", _is_list_of(_is_scale))
# Key -> what it has to be where it is there and not null; here, and in `backbone_config`.
TYPES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "num_queries": _WHOLE,
    "num_windows": _WHOLE,
    "patch_size": (_SIDES[0], lambda value: _is_whole(value) or _SIDES[1](value)),
    "feat_strides": _SCALES,
    "projector_scale_factors": _SCALES,
}
BACKBONE = "backbone_config"


def check(config: Any, where: str = WHERE) -> None:
    """ConfigError with file and key where a value is of another type than the code here reads, or
    would fetch something or run code. where: the file, for messages.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{where}: not an object of JSON")
    kind, backbone = config.get("model_type"), config.get(BACKBONE)
    if not isinstance(kind, str):
        raise _wrong(where, "model_type", kind, "a text")
    if backbone is not None and not isinstance(backbone, Mapping):
        raise _wrong(where, BACKBONE, backbone, "an object of JSON")
    for part, at in ((config, ""), (backbone or {}, f"{BACKBONE}.")):
        for key, (wanted, is_right) in TYPES.items():
            value = part.get(key)
            if value is not None and not is_right(value):
                raise _wrong(where, at + key, value, wanted)
    for part in _objects(config, where):
        for key, why in REFUSED.items():
            if part.get(key) is not None:
                raise ConfigError(f"{where}: {key}: {why}")
        _check_backbone_name(part, where)


def _check_backbone_name(part: Mapping[str, Any], where: str) -> None:
    """A backbone by name is one of timm, built here with fresh weights. Every other name is looked
    up on the hub.
    """
    name = part.get("backbone")
    if name is None or part.get(BACKBONE) is not None:
        return
    is_timm = part.get("use_timm_backbone", True) is True
    if not (isinstance(name, str) and is_timm and name.replace(".", "_").isidentifier()):
        raise ConfigError(
            f"{where}: backbone={str(name)[:80]!r} would be looked up on the hub, and a training "
            f"asks no network. Give its configuration as {BACKBONE}, or a network of timm by name"
        )


def harmless(value: Any) -> Any:
    """A copy without the settings, at whatever depth, that only say how the library computes or
    where it finds things.
    """
    if isinstance(value, list):
        return [harmless(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: harmless(each)
        for key, each in value.items()
        if key not in DROPPED and (key not in CHOICES or each in OWN_CODE)
    }


def _objects(config: Any, where: str) -> Iterator[Mapping[str, Any]]:
    """Every object of JSON in `config`, itself first."""
    waiting = [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ConfigError(f"{where}: nested more than {DEEPEST} deep, no configuration")
        if isinstance(value, Mapping):
            yield value
        inner = value.values() if isinstance(value, Mapping) else value
        if isinstance(value, (Mapping, list)):
            waiting += [(each, depth + 1) for each in inner]


def _wrong(where: str, key: str, value: Any, wanted: str) -> ConfigError:
    return ConfigError(f"{where}: {key}={str(value)[:80]!r}: must be {wanted}")
