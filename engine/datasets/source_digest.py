"""What a source holds, as one digest, and whether it still does, without reading it all again.

The digest covers images (their bytes) and annotations (classes, boxes, splits as read), not file
names, places, order or the machine. Between two scans a list of (size, times, inode) of every file
stands for the content: an index that cannot be fooled by copying times, since the change time is
the system's, and that does not trust files younger than itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.datasets.formats.base import SourceImage
from engine.errors import WorkspaceError
from engine.files import file_state, write_text

NOTHING_KNOWN: Mapping[str, str] = {}
RACY_NS = 2_000_000_000  # coarsest clock of a file system in use


@dataclass
class SourceDigest:
    """Collects the images of a source."""

    _entries: list[str] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)

    def add(
        self,
        image: SourceImage,
        sha256: str,
        group: str = "",
        meta: Mapping[str, str] = NOTHING_KNOWN,
    ) -> None:
        rows = sorted(
            [row.name, [round(value, 6) + 0.0 for value in row.box], row.crowd]
            for row in image.rows
        )
        entry = json.dumps(
            [sha256, image.split, image.size, image.fractions, rows], ensure_ascii=False
        )
        self._entries.append(hashlib.sha256(entry.encode()).hexdigest())
        columns = json.dumps(dict(meta), ensure_ascii=False, sort_keys=True) if meta else ""
        self._names.append(" ".join([f"{sha256} {image.name}", *filter(None, (group, columns))]))

    def content(self, class_names: Iterable[str]) -> str:
        """64 hex digits; the order in which images were added does not matter."""
        return _digest([json.dumps(list(class_names), ensure_ascii=False), *sorted(self._entries)])

    def layout(self) -> str:
        """16 hex digits over the images' names, groups and columns of a table: they decide on what
        is written beside content and boxes.
        """
        return _digest(sorted(self._names))[:16]


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


# Standing in for the content between two scans ----------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """The state of every file below a folder, without their content."""

    digest: str
    newest_ns: int  # latest change of any file
    taken_ns: int

    @classmethod
    def of(cls, folder: Path) -> Snapshot:
        """Links are followed, unless they lead back; what cannot be read counts as such."""
        taken_ns = time.time_ns()
        states = list(_states(folder, ()))
        return cls(
            _digest(sorted(line for line, _ in states)),
            max((newest for _, newest in states), default=0),
            taken_ns,
        )

    @property
    def decides(self) -> bool:
        """Whether a later change would show: a file written just now may be written again within
        the same tick.
        """
        return self.newest_ns < self.taken_ns - RACY_NS


def _states(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[tuple[str, int]]:
    """(state as text, latest time) of every file."""
    try:
        stat = folder.stat()
        here = (stat.st_dev, stat.st_ino)
        with os.scandir(folder) as listing:
            entries = [] if here in above else list(listing)
    except OSError as error:
        yield f"{str(folder)!r} {error.errno}", 0
        return
    for entry in entries:
        try:
            if entry.is_dir():
                yield from _states(Path(entry.path), (*above, here))
                continue
            stat = entry.stat()
        except OSError as error:
            yield f"{entry.path!r} {error.errno}", 0
            continue
        state = (entry.path, stat.st_dev, *file_state(stat))
        yield repr(state), max(stat.st_mtime_ns, stat.st_ctime_ns)


def recall(index: Path, folder: Path) -> dict[str, Any] | None:
    """What `remember` noted about `folder`, if its files are still the same; else None."""
    try:
        noted = json.loads(index.read_text(encoding="utf-8"))
        before = Snapshot(**noted["snapshot"])
        return (
            noted["value"]
            if before.decides and Snapshot.of(folder).digest == before.digest
            else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(index: Path, before: Snapshot, value: dict[str, Any]) -> None:
    """Note `value` about the folder that `before` was taken of, before its content was read. A
    courtesy: it may fail.
    """
    with contextlib.suppress(OSError, WorkspaceError):
        write_text(index, json.dumps({"snapshot": asdict(before), "value": value}))
