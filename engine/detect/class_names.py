"""Class names by number, for people and for code that was written for a dictionary or for a tuple.

`Results.names` was a tuple here, and is a dictionary elsewhere; this one answers both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from engine.errors import DataError
from engine.settings.yaml_io import dumped_as


class NoSuchClass(DataError, KeyError, IndexError):
    """A number or a name that is not among the classes. Also what a dictionary and what a tuple
    would raise.
    """

    __str__ = Exception.__str__  # a KeyError shows its message in quotes


class ClassNames(dict):
    """`{0: "cat", 1: "dog"}`, and all that a tuple of the names can do but one thing: `names[0]`,
    `names[-1]`, `names[:2]`, `"cat" in names`, `names.index("cat")`, `names == ("cat", "dog")`.
    That one: iterating gives the numbers, as of every dictionary; `names.values()` gives the names.

    names: in the order of their numbers, or by number.
    """

    def __init__(self, names: Iterable[str] | Mapping[int, str] = ()):
        super().__init__(names if isinstance(names, Mapping) else enumerate(names))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return tuple(self.values())[key]
        return super().__getitem__(key)

    def __missing__(self, key: Any) -> str:
        """Numbers from the end, and those that are a tensor or an array of one element."""
        number = _whole(key)
        if number is not None and number < 0:
            number += len(self)
        if number is None or number not in self.keys():
            self._refuse(key)
        return super().__getitem__(number)

    def get(self, key: Any, default: Any = None) -> Any:
        """The name of a number, also one that is a tensor or an array of one element."""
        return super().get(self._own(key), default)

    def __contains__(self, key: object) -> bool:
        if isinstance(key, str):
            return super().__contains__(key) or key in self.values()
        return super().__contains__(self._own(key))

    def __setitem__(self, key: Any, name: str) -> None:
        super().__setitem__(self._own(key), name)

    def pop(self, key: Any, *default: Any) -> Any:
        """As of a dictionary; a number may be a tensor or an array of one element."""
        return super().pop(self._own(key), *default)

    def setdefault(self, key: Any, name: Any = None) -> Any:
        """As of a dictionary; a number may be a tensor or an array of one element."""
        return super().setdefault(self._own(key), name)

    def copy(self) -> ClassNames:
        return ClassNames(self)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (tuple, list)):
            return tuple(self.values()) == tuple(other)
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def index(self, name: str) -> int:
        """The number of a class. ValueError, as of a tuple: there is none of that name."""
        for number, known in self.items():
            if known == name:
                return number
        raise ValueError(f"no class '{name}'; there are: {', '.join(self.values())}")

    def count(self, name: str) -> int:
        """How many classes have that name: 0 or 1."""
        return list(self.values()).count(name)

    def _own(self, key: Any) -> Any:
        """The number that a tensor or an array of one element is; anything else as it is given."""
        number = None if isinstance(key, (int, str)) else _whole(key)
        return key if number is None else number

    def _refuse(self, key: Any) -> NoReturn:
        known = ", ".join(f"{number}: {name}" for number, name in list(self.items())[:10])
        more = f", and {len(self) - 10} more" if len(self) > 10 else ""
        way = " The number of a name is names.index(name)." if isinstance(key, str) else ""
        raise NoSuchClass(f"no class {key!r}; classes by number: {known}{more}.{way}")


def _whole(key: Any) -> int | None:
    """The whole number that a number, a tensor or an array of one element is; None: it is none."""
    try:
        number = int(key)
        return number if bool(number == key) and not isinstance(key, str) else None
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


dumped_as(ClassNames, dict)
