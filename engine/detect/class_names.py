"""Class names by number, for people and for code that was written for a dictionary or for a tuple.

`Results.names` was a tuple here, and is a dictionary elsewhere; this one answers both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from engine.errors import DataError


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
        try:
            number = int(key)
            is_whole = bool(number == key) and not isinstance(key, str)
        except (TypeError, ValueError, RuntimeError):
            self._refuse(key)
        number += len(self) if number < 0 else 0
        if not is_whole or number not in self.keys():
            self._refuse(key)
        return super().__getitem__(number)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or (isinstance(key, str) and key in self.values())

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

    def _refuse(self, key: Any) -> NoReturn:
        known = ", ".join(f"{number}: {name}" for number, name in list(self.items())[:10])
        more = f", and {len(self) - 10} more" if len(self) > 10 else ""
        way = " The number of a name is names.index(name)." if isinstance(key, str) else ""
        raise NoSuchClass(f"no class {key!r}; classes by number: {known}{more}.{way}")
