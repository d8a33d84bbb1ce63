"""Names that earlier versions called and that a user's class may still define. An override that
nothing calls would change a training in silence, so it is an error, where the class is defined or
the attribute is set.
"""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

from engine.errors import ConfigError


class OldName:
    """Stands on a base class for a name it had; instead: what takes its place, for messages."""

    def __init__(self, instead: str):
        self.instead = instead

    def __set_name__(self, _: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> OldName:
        if instance is None:
            return self
        raise AttributeError(self.explain(owner))  # so that hasattr says False

    def __set__(self, instance: Any, value: Any) -> NoReturn:
        raise ConfigError(self.explain(type(instance)))

    def explain(self, owner: type) -> str:
        """What to do about `owner.name`."""
        return (
            f"{owner.__module__}.{owner.__qualname__}: '{self.name}' is a name of earlier "
            f"versions that nothing calls or reads any more. Instead: {self.instead}. Something "
            "else of that name needs another one"
        )


def refuse_old_names(cls: type) -> None:
    """ConfigError where a class, or a mixin of it, overrides a name that is an `OldName` of a base;
    for `__init_subclass__`.
    """
    for base in cls.__mro__:
        for name, old in vars(base).items():
            if isinstance(old, OldName) and inspect.getattr_static(cls, name) is not old:
                raise ConfigError(old.explain(cls))
