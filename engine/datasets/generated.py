"""Datasets that are made rather than read. One table: the name in a description -> the module that
makes it.

Such a module has `open_reader(options, seed) -> Reader` and `versions() -> list[str]` of the
libraries its output depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from engine.datasets import demo_digits
from engine.datasets.formats.base import Reader
from engine.errors import ConfigError, nearest

GENERATORS: dict[str, ModuleType] = {"digits": demo_digits}


def _module(name: str) -> ModuleType:
    if name not in GENERATORS:
        raise ConfigError(
            f"no generator '{name}'.{nearest(name, GENERATORS)} There are: {', '.join(GENERATORS)}"
        )
    return GENERATORS[name]


def open_generated(name: str, options: Mapping[str, Any], seed: int) -> Reader:
    """A reader that makes the images. ConfigError for an unknown generator or option."""
    return _module(name).open_reader(options, seed)


def generator_versions(name: str) -> list[str]:
    """What a generated dataset depends on besides our code, as text."""
    return _module(name).versions()
