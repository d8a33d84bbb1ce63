"""Datasets that are made rather than read. One table: the name in a description -> the module that
makes it.

Such a module has `open_reader(options, seed) -> Reader` and `versions() -> list[str]` of the
libraries its output depends on.
"""

from __future__ import annotations

from types import ModuleType

from engine.datasets import demo_digits
from engine.errors import ConfigError, nearest

GENERATORS: dict[str, ModuleType] = {"digits": demo_digits}


def generator(name: str) -> ModuleType:
    """The module that makes the images. ConfigError for an unknown one."""
    if name not in GENERATORS:
        raise ConfigError(
            f"no generator '{name}'.{nearest(name, GENERATORS)} There are: {', '.join(GENERATORS)}"
        )
    return GENERATORS[name]
