"""What an annotation format consists of: how it is recognised, read and, where it can be, written.

Each format's file ends with its `KIND`; `formats.KINDS` is the table of them. Detection, `format:`
in a description, `convert`, its help, the documentation and the error texts read that table.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.datasets.findings import Findings
from engine.datasets.formats.base import BoxNumbers, Reader, SourceImage
from engine.datasets.formats.elsewhere import report_elsewhere
from engine.datasets.formats.folder import Folder
from engine.datasets.formats.given_splits import GivenSplits
from engine.datasets.formats.split_lists import find_split_lists, report_unused
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
        """The given splits of the images. own: list files of the format, unless the request has
        some.
        """
        lists = dict(self.lists) or dict(own or {})
        return GivenSplits(self.folder, lists, self.findings, ignore=self.ignore_splits)


class AnnotationReader:
    """What the readers of folders have in common; see `base.Reader`.

    lists: split -> list files that the format itself brings; lists of the request replace them.
    """

    def __init__(self, request: ReadRequest, lists: Mapping[str, list[str]] | None = None) -> None:
        self._folder, self._findings = request.folder, request.findings
        self._splits = request.splits(lists)
        self._says_splits = bool(request.lists) or request.ignore_splits
        self._owner: dict[str, str] = {}  # image -> the annotation that described it
        self.names: tuple[str, ...] = ()
        self.total = len(request.folder.images)
        self.gives_splits = self._splits.given

    def _split_of(self, name: str) -> str:
        return self._splits.of(name)

    def _report_elsewhere(
        self,
        label_of: Mapping[str, str],
        read: Collection[str],
        looks_right: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """See `report_elsewhere`."""
        report_elsewhere(self._folder, self._findings, label_of, read, looks_right)

    def _without_entry(self, detail: str) -> Iterator[SourceImage]:
        """The images that no annotation has described, once all annotations have been read."""
        for name in self._folder.images:
            if name not in self._owner:
                yield from self._unlabelled(name, detail)
        self._report_lists()

    def _report_lists(self) -> None:
        """Findings about lists of images, once all images have been asked for: what they name and
        is not there, and lists that are not read. Only YOLO's datasets are split by what lies
        there.
        """
        self._splits.report_unused()
        if self.gives_splits or self._says_splits:
            return
        images = len(self._folder.images)
        for each in find_split_lists(self._folder, self._findings, ()):
            why = "and is not read: this format has no such lists"
            report_unused(each, self._findings, images, why)

    def _unlabelled(self, name: str, detail: str) -> Iterator[SourceImage]:
        """An image without annotation: a finding, and the image where its policy keeps it."""
        if self._findings.add("unlabelled_image", name, detail) == "warn":
            path = self._folder.path(name)
            yield SourceImage(name, (), name, path, split=self._split_of(name))


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
    numbers: BoxNumbers | None = None  # how it writes a box; None: not checked
    many_in_file: bool = False  # one annotation file holds the boxes of many images
