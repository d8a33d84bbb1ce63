"""Which modules a piece of code imports, directly and through others, and what each of them does.

Imports inside functions count, those for type checkers do not, and a text that names a module of
the package ("engine.models.x.family") counts as an import. Of a package that only hands names on,
the module behind the name counts and its other modules do not. Nothing is imported here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.code import syntax
from engine.code.syntax import Import, Source, SourceError, read_definitions, read_source
from engine.errors import ConfigError

MOST_KEPT = 1000  # what was read of so many versions of files; more are begun anew
Find = Callable[[str], Path | None]  # dotted name -> its file, None: not one of these sources


@dataclass
class Sources:
    """Modules by name. What was read of a file is kept in `cache` by the file's content, so that
    only edited files are read again.
    """

    find: Find
    cache: Path | None = None
    _known: dict[str, Source] = field(default_factory=dict)
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

    def read(self, module: str) -> Source:
        """What `module` does.

        Raises:
            ConfigError: its file is no Python, or cannot be read.
        """
        if module not in self._known:
            self._known[module] = self._read(module)
        return self._known[module]

    def _read(self, module: str) -> Source:
        content, key = self._content(module)
        is_package = self.is_package(module)
        return _unpacked(
            self._once(
                f"{key}{'p' * is_package}",
                module,
                lambda: dataclasses.astuple(read_source(content, is_package)),
            )
        )

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

    def behind(self, found: Import, importer: str) -> list[tuple[str, bool]]:
        """The modules that an import leads to: (name, whether its own imports belong to it)."""
        module = self._absolute(found.module, importer)
        inner = f"{module}.{found.name}" if found.name else ""
        if inner and self.find(inner) is not None:
            return [(inner, True)]
        if self.find(module) is None:
            return []
        if not inner or not self.is_package(module):
            return [(module, True)]
        offers = [i for i in self.read(module).imports if i.name and i.alias == found.name]
        if not offers:
            return [(module, True)]
        return [(module, False), *(m for offer in offers for m in self.behind(offer, module))]

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

    modules: tuple[str, ...]
    outside: tuple[tuple[Import, str], ...]  # import, and who imports it


def closure(
    sources: Sources, starts: Iterable[str], counts: Callable[[str], bool] = lambda module: True
) -> Closure:
    """All modules that `starts` lead to, as far as `counts` says so: behind a module that does not
    count nothing is looked for.

    Raises:
        ConfigError: a file is no Python.
    """
    waiting = [(module, True) for module in starts]
    seen: set[tuple[str, bool]] = set()
    outside: dict[tuple[Import, str], None] = {}
    while waiting:
        module, follow = entry = waiting.pop()
        if entry in seen or not counts(module):
            continue
        seen.add(entry)
        if not follow:
            continue
        source = sources.read(module)
        mentioned = [Import(text.partition(":")[0]) for text in source.mentions]
        for found in (*source.imports, *mentioned):
            behind = sources.behind(found, module)
            waiting += behind
            if not all(counts(name) for name, _ in behind) or not behind:
                outside[found, module] = None
    return Closure(tuple(sorted({module for module, _ in seen})), tuple(outside))


def digests(sources: Sources, modules: Iterable[str], whole: bool = False) -> dict[str, str]:
    """module -> what it does, 16 hex digits; modules that do nothing but import are left out.

    A private helper that only messages use may still be used by another of the modules: then the
    digest is that of all of it. whole: messages count everywhere.
    """
    read = {module: sources.read(module) for module in modules}
    found = {}
    for module, source in read.items():
        others = {name for m, s in read.items() if m != module for name in s.private}
        digest = source.whole if whole or others & set(source.left_out) else source.digest
        if digest:
            found[module] = digest
    return found


def combined(values: object) -> str:
    """One digest of plain values, 16 hex digits."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of the modules, settings and packages in which two records of a stage's code differ."""
    found = []
    for kind in ("modules", "own", "packages", "settings"):
        old, new = before.get(kind) or {}, now.get(kind) or {}
        names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
        found += [f"setting {name}" if kind == "settings" else name for name in names]
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
    digest, whole, imports, mentions, left_out, private = kept
    return Source(
        digest,
        whole,
        tuple(Import(*each) for each in imports),
        tuple(mentions),
        tuple(left_out),
        tuple(private),
    )


@functools.cache
def _rules() -> str:
    """What the cached digests were made by: the source of the rules itself."""
    return hashlib.sha256(Path(syntax.__file__).read_bytes()).hexdigest()[:16]
