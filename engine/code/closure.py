"""Which modules a piece of code imports, directly and through others, and what each of them does.

Imports inside functions count, those for type checkers do not, and a text that names a module of
the package ("engine.models.x.family") counts as an import. Of what a package (`__init__.py`) hands
on counts what is taken from it, and its own statements with what they use; its other modules do
not. Nothing is imported here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from engine.code import syntax
from engine.code.syntax import (
    Import,
    Source,
    SourceError,
    constant_of,
    read_definitions,
    read_source,
)
from engine.errors import ConfigError

MOST_KEPT = 1000  # what was read of so many versions of files; more are begun anew
Find = Callable[[str], Path | None]  # dotted name -> its file, None: not one of these sources
NONE: frozenset[str] = frozenset()


class Reached(NamedTuple):
    """A module to which an import leads."""

    module: str
    name: str  # taken from it; empty: the module itself
    follow: bool  # whether its own imports belong to it: not those of a package that hands on
    offer: Import | None = None  # of such a package: the import by which it hands on


@dataclass
class Sources:
    """Modules by name. What was read of a file is kept in `cache` by the file's content, so that
    only edited files are read again.

    whole_packages: an `__init__.py` is a module like any other; else see above.
    """

    find: Find
    cache: Path | None = None
    whole_packages: bool = False
    _known: dict[tuple[str, frozenset[str], frozenset[str]], Source] = field(default_factory=dict)
    _contents: dict[str, tuple[str, str]] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)  # read from the cache
    _used: dict[str, Any] = field(default_factory=dict)  # of it, and new

    def __post_init__(self) -> None:
        self.find = functools.cache(self.find)

    @classmethod
    def below(cls, folder: Path, cache: Path | None = None) -> Sources:
        """The modules whose packages lie in `folder`."""
        made = cls(lambda module: module_file(folder, module), cache)
        if cache is not None:
            with contextlib.suppress(OSError, ValueError):
                kept = json.loads(cache.read_text(encoding="utf-8"))
                if isinstance(kept, dict) and kept.get("rules") == _rules():
                    made._kept = kept["sources"] if isinstance(kept.get("sources"), dict) else {}
        return made

    def read(
        self, module: str, keep: frozenset[str] = NONE, without: frozenset[str] = NONE
    ) -> Source:
        """What `module` does; keep, without: see `read_source`. In whole packages `__all__` counts.

        Raises:
            ConfigError: its file is no Python, or cannot be read.
        """
        if self.whole_packages:
            keep |= {"__all__"}
        if (module, keep, without) not in self._known:
            content, key = self._content(module)
            hands_on = self.hands_on(module)
            options = [f"+{name}" for name in sorted(keep)] + [f"-{n}" for n in sorted(without)]
            found = self._once(
                f"{key}{'p' * hands_on}{''.join(options)}",
                module,
                lambda: dataclasses.astuple(read_source(content, hands_on, keep, without)),
            )
            self._known[module, keep, without] = _unpacked(found)
        return self._known[module, keep, without]

    def constant(self, module: str, name: str) -> Any:
        """The plain value (text, number, tuple, dictionary) that `module` gives to `name`, None
        where there is none.
        """
        return constant_of(self._content(module)[0], name) if self.find(module) else None

    def holds(self, module: str, text: str) -> bool:
        """Whether a text stands in the source of `module` as it is, between quotes."""
        content = self._content(module)[0]
        return f'"{text}"' in content or f"'{text}'" in content

    def definitions(self, module: str, names: set[str]) -> tuple[str, tuple[Import, ...]]:
        """`read_definitions` of a module. ConfigError as `read`."""
        content, key = self._content(module)

        def make() -> Any:
            digest, imports = read_definitions(content, names)
            return digest, [dataclasses.astuple(each) for each in imports]

        digest, imports = self._once(f"{key}:{','.join(sorted(names))}", module, make)
        return digest, tuple(Import(*each) for each in imports)

    def _content(self, module: str) -> tuple[str, str]:
        """The text of a module and its digest."""
        if module not in self._contents:
            file = self.find(module)
            assert file is not None, module
            try:
                text = file.read_bytes().decode()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{file}: cannot be read: {error}. Correct it.") from None
            self._contents[module] = text, hashlib.sha256(text.encode()).hexdigest()[:24]
        return self._contents[module]

    def _once(self, key: str, module: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, as plain JSON, remembered under `key`."""
        if key not in self._used:
            try:
                found = self._kept[key] if key in self._kept else make()
            except (SourceError, SyntaxError) as error:
                raise ConfigError(f"{self.find(module)}: no valid Python: {error}.") from None
            self._used[key] = found
        return self._used[key]

    def keep(self) -> None:
        """Write the cache, if something new was read; a cache that cannot be written is no harm."""
        if self.cache is None or self._used.keys() <= self._kept.keys():
            return
        beside = self.cache.with_name(f".{self.cache.name}.{os.getpid()}.new")
        with contextlib.suppress(OSError):
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            found = self._used if len(self._kept) > MOST_KEPT else self._kept | self._used
            beside.write_text(json.dumps({"rules": _rules(), "sources": found}))
            beside.replace(self.cache)

    # Names ----------------------------------------------------------------------------------------

    def is_package(self, module: str) -> bool:
        file = self.find(module)
        return file is not None and file.name == "__init__.py"

    def hands_on(self, module: str) -> bool:
        """Whether only what is taken from a module counts of its imports."""
        return self.is_package(module) and not self.whole_packages

    def behind(self, found: Import, importer: str) -> list[Reached]:
        """The modules that an import leads to."""
        module = self._absolute(found.module, importer)
        if found.name == "*":
            return self._behind_all(module)
        inner = f"{module}.{found.name}" if found.name else ""
        if inner and self.find(inner) is not None:
            return [Reached(inner, "", True)]
        if self.find(module) is None:
            return []
        if not inner or not self.hands_on(module):
            return [Reached(module, found.name, True)]
        offers = [i for i in self.read(module).imports if i.name and i.alias == found.name]
        if not offers:
            return [Reached(module, found.name, True)]
        return [
            *(Reached(module, "", False, offer) for offer in offers),
            *(each for offer in offers for each in self.behind(offer, module)),
        ]

    def _behind_all(self, module: str) -> list[Reached]:
        """What `from module import *` leads to: the module, and those of its package that `__all__`
        names; all of them where only running it would tell the names.
        """
        file = self.find(module)
        if file is None:
            return []
        names = set(self.read(module).public) if self.is_package(module) else set()
        if "*" in names:
            names |= {path.stem for path in file.parent.iterdir()} - {"__init__"}
        inner = (f"{module}.{name}" for name in sorted(names))
        return [Reached(module, "", True), *(Reached(i, "", True) for i in inner if self.find(i))]

    def parents(self, module: str) -> list[Reached]:
        """The packages around a module, which run when it is imported."""
        parts = module.split(".")
        names = [".".join(parts[:n]) for n in range(1, len(parts))]
        return [Reached(n, "", self.whole_packages) for n in names if self.find(n) is not None]

    def _absolute(self, module: str, importer: str) -> str:
        dots = len(module) - len(module.lstrip("."))
        if not dots:
            return module
        parts = importer.split(".")
        parts = parts[: len(parts) - dots + self.is_package(importer)]
        return ".".join([*parts, module[dots:]] if module[dots:] else parts)


@dataclass(frozen=True)
class Closure:
    """Modules that count, and the imports that lead out of them."""

    modules: Mapping[str, frozenset[str]]  # name -> definitions in it that do not count
    offers: Mapping[str, frozenset[Import]]  # package -> its imports that others take from it
    outside: tuple[tuple[Import, str], ...]  # import, and who imports it


def closure(
    sources: Sources,
    starts: Iterable[Import],
    counts: Callable[[str], bool] = lambda module: True,
    without: Callable[[str], frozenset[str]] = lambda module: NONE,
) -> Closure:
    """All modules that `starts` lead to, as far as `counts` says so: behind a module that does not
    count nothing is looked for. without: definitions in a module that nobody uses for a result.

    Raises:
        ConfigError: a file is no Python.
    """
    waiting: list[tuple[Import, str]] = [(start, "") for start in starts]
    seen: set[tuple[str, bool]] = set()
    offers: dict[str, set[Import]] = {}
    outside: dict[tuple[Import, str], None] = {}
    while waiting:
        found, importer = waiting.pop()
        reached = sources.behind(found, importer)
        if not reached or not all(counts(each.module) for each in reached):
            outside[found, importer] = None
        around = [parent for each in reached for parent in sources.parents(each.module)]
        for module, _, follow, offer in (*reached, *around):
            if not counts(module):
                continue
            if offer is not None:
                offers.setdefault(module, set()).add(offer)
            if (module, follow) in seen:
                continue
            seen.add((module, follow))
            source = sources.read(module, without=without(module))
            mentioned = [Import(text.partition(":")[0]) for text in source.mentions]
            imports = (*source.imports, *mentioned) if follow else source.needed
            waiting += [(each, module) for each in imports]
    return Closure(
        {module: without(module) for module in sorted({module for module, _ in seen})},
        {module: frozenset(taken) for module, taken in offers.items()},
        tuple(outside),
    )


def joined(one: Closure, other: Closure) -> Closure:
    """What counts for one of two reasons."""
    modules = {
        module: one.modules.get(module, other.modules.get(module, NONE))
        & other.modules.get(module, one.modules.get(module, NONE))
        for module in sorted({*one.modules, *other.modules})
    }
    offers = {
        module: one.offers.get(module, frozenset()) | other.offers.get(module, frozenset())
        for module in {*one.offers, *other.offers}
    }
    return Closure(modules, offers, (*one.outside, *other.outside))


def digests(
    sources: Sources, reached: Closure, whole: bool = False, users: Collection[str] = ()
) -> dict[str, str]:
    """module -> what it does, 16 hex digits; modules that do nothing are left out.

    A helper that only messages of its module use may still be used by another of the modules, or
    be among `users`, names that others use: then it counts. whole: messages count everywhere.
    """
    kept: dict[str, frozenset[str]] = {}
    read = {m: sources.read(m, without=methods) for m, methods in reached.modules.items()}
    while True:
        users_of = Counter(name for source in read.values() for name in source.used)
        users_of.update(users)
        changed = False
        for module, source in read.items():
            elsewhere = {n for n in source.left_out if users_of[n] > (n in source.used)}
            if elsewhere and not whole:
                keep = kept.get(module, NONE) | elsewhere
                read[module] = sources.read(module, keep, reached.modules[module])
                kept[module], changed = keep, True
        if not changed:
            break
    found = {}
    for module, source in read.items():
        digest = source.whole if whole else source.digest
        offers = sorted(map(list, map(dataclasses.astuple, reached.offers.get(module, ()))))
        if offers:
            digest = combined([digest, offers])
        if digest:
            found[module] = digest
    return found


def combined(values: object) -> str:
    """One digest of plain values, 16 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the modules, settings, packages, classes and raw data in which two records of a
    stage's code differ."""
    found = []
    for kind in ("modules", "own", "packages", "settings", "classes", "inputs"):
        old, new = before.get(kind) or {}, now.get(kind) or {}
        names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
        word = {"settings": "setting ", "classes": "data/classes.yaml "}.get(kind, "")
        found += [f"{word}{name}".rstrip() for name in names]
    if before.get("family") != now.get("family"):
        found.append(f"family {now.get('family') or 'of the network'}")
    return found


def module_file(folder: Path, module: str) -> Path | None:
    """The file of a module whose top-level package lies in `folder`."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    path = folder.joinpath(*parts)
    for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
        if file.is_file():
            return file
    return None


def _unpacked(kept: Any) -> Source:
    digest, whole, imports, mentions, left_out, used, needed, public = kept
    return Source(
        digest,
        whole,
        tuple(Import(*each) for each in imports),
        tuple(mentions),
        tuple(left_out),
        tuple(used),
        tuple(Import(*each) for each in needed),
        tuple(public),
    )


@functools.cache
def _rules() -> str:
    """What the cached digests were made by: the source of the rules itself."""
    return hashlib.sha256(Path(syntax.__file__).read_bytes()).hexdigest()[:16]
