"""Settings under the names that other trainers have for them: what a section accepts because it
means the same here, and what it answers otherwise. The tables are in `engine.config.known_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

TRUE_OR_FALSE = {"true": True, "false": False}


@dataclass(frozen=True)
class KnownName:
    """A name that people bring, with what it means there.

    here: our setting of the same section, `name` itself where it is called the same, empty where
        there is none. how: what differs, the way here, or why there is none, as a sentence or two.
    values: what a value is in our settings, {"true": {"schedule": "cosine"}}, keyed by its text;
        read: the same as a function, None where it has no such meaning.
    off_is_ours: whether switched off (false, 0, null) it means what happens here anyway.
    """

    name: str
    meaning: str = ""
    here: str = ""
    how: str = ""
    values: Mapping[str, Mapping[str, Any]] | None = None
    read: Callable[[Any], Mapping[str, Any] | None] | None = None
    off_is_ours: bool = False

    def in_ours(self, value: Any) -> Mapping[str, Any] | None:
        """Our settings that mean the same as `name=value` there; None: it stays as it is given."""
        text = str(value).strip().lower()
        if isinstance(value, (bool, str)) and text in (self.values or {}):
            return self.values[text]
        if self.off_is_ours and _is_off(value):
            return {}
        return self.read(value) if self.read is not None else None


def _is_off(value: Any) -> bool:
    if isinstance(value, str):
        return TRUE_OR_FALSE.get(value.strip().lower()) is False
    return value is None or (isinstance(value, (bool, int, float)) and not value)


def in_ours(known: Mapping[str, KnownName], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` with everything that has a meaning here under our names; what is unknown stays.

    Raises:
        ValueError: a value says something else than another that is given, too.
    """
    ours = dict(given)
    for name, value in given.items():
        meant = known[name].in_ours(value) if name in known else None
        if meant is None:
            continue
        del ours[name]
        for key, our_value in meant.items():
            if key != name and key in given and given[key] != our_value:
                raise ValueError(
                    f"{name}={value} means {key}={our_value} here, and {key}={given[key]} is given "
                    "too: leave one of them out"
                )
            ours[key] = our_value
    return ours
