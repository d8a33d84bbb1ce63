"""What an annotation format consists of: how it is recognised, read and, where it can be, written.

Each format's file ends with its `KIND`; `formats.KINDS` is the table of them. Detection, `format:`
in a description, `convert`, its help, the documentation and the error texts read that table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.datasets.findings import Findings
from engine.datasets.formats.base import Reader
from engine.datasets.formats.folder import Folder
from engine.datasets.formats.given_splits import GivenSplits
from engine.datasets.formats.writers import Writer
from engine.datasets.formats.yolo_yaml import YoloSettings


@dataclass(frozen=True)
class ReadRequest:
    """What a reader is opened with."""

    folder: Folder
    findings: Findings  # what the reader cannot use goes there
    names: tuple[str, ...] = ()  # classes by number, for folders that have numbers only
    lists: Mapping[str, list[str]] = field(default_factory=dict)  # split -> list files
    ignore_splits: bool = False  # the dataset's own splits do not count
    yolo: YoloSettings | None = None  # a data.yaml that was given as the dataset

    def splits(self, own: Mapping[str, list[str]] | None = None) -> GivenSplits:
        """The given splits of the images. own: list files that the format itself brings; lists of
        the request replace them.
        """
        lists = dict(self.lists) or dict(own or {})
        return GivenSplits(self.folder, lists, self.findings, ignore=self.ignore_splits)


@dataclass(frozen=True)
class ReaderKind:
    """One annotation format."""

    name: str  # `format:` in a description, `format=` of `detectflow convert`
    title: str  # as people call it
    looks_for: str  # the files it is recognised by, for messages and help
    read_as: str  # what is read, for the documentation's table
    detect: Callable[[Folder], bool]  # broken files count, so that the reader can say what is wrong
    open: Callable[[ReadRequest], Reader]
    write: Callable[[Path, Sequence[str]], Writer] | None = None  # (empty folder, class names)
