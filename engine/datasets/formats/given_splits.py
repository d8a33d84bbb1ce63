"""Splits that a dataset brings along: lists of image names, one a line, or folders called train,
val, test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from engine.datasets.findings import Findings
from engine.datasets.formats.base import shown, split_of_path
from engine.datasets.formats.folder import Folder, base_name, inside, tails, without_suffix
from engine.errors import DataError
from engine.types import SPLITS

_VOC_FLAG = re.compile(r"(.*\S)\s+(?:-1|0|1)")  # "name -1": VOC's lists of one class


@dataclass
class _Listed:
    """One line of a list file."""

    name: str
    split: str
    file: str
    line: int
    seen: bool = False
    image: str = ""  # that it was taken for


class GivenSplits:
    """Which split each image was given. Lists decide where there are any, else the names of the
    folders.

    lists: split -> list files, relative to the folder. An image named in two lists is a finding.
    ignore: the dataset's own splits do not count.
    """

    def __init__(
        self,
        folder: Folder,
        lists: dict[str, list[str]],
        findings: Findings,
        *,
        ignore: bool = False,
    ) -> None:
        self._findings = findings
        self._lines: list[_Listed] = []
        self._by_name: dict[str, _Listed] = {}  # name or path, with or without suffix, as listed
        # A line that is the whole path of an image is about no other image.
        self._whole = (
            {key for name in folder.images for key in (name, without_suffix(name))}
            if lists and not ignore
            else set()
        )
        self._by_flagged: dict[
            str, _Listed
        ] = {}  # "name" of a line "name -1", unless a line says just "name"
        self.given_by_list = bool(lists) and not ignore
        if self.given_by_list:
            for split in SPLITS:
                for file in lists.get(split, []):
                    self._read(folder, split, file)
        self.given = self.given_by_list or (
            not ignore and any(split_of_path(name) for name in folder.images)
        )

    def _read(self, folder: Folder, split: str, file: str) -> None:
        try:
            lines = folder.list_text(file).splitlines()
        except ValueError as error:
            self._findings.add("unreadable_annotation", file, str(error))
            return
        except KeyError:
            raise DataError(
                f"{folder.root}: the split list '{file}' is not there; correct `splits` in the "
                "description"
            ) from None
        for number, text in enumerate(lines, 1):
            if text.strip():
                self._add(text.strip(), split, file, number)

    def _add(self, text: str, split: str, file: str, line: int) -> None:
        name = inside(text)
        if name not in self._whole:  # as seen from another folder, or on another machine
            name = self._end_of(text.replace("\\", "/")) or name
        if name is None:
            detail = f"{shown(text)} leaves the dataset folder"
            if self._findings.add("outside_folder", file, detail, line) != "fix":
                return
            name = base_name(text)
        listed = _Listed(name, split, file, line)
        earlier = self._by_name.setdefault(name, listed)
        if earlier.split != split:
            policy = self._findings.add(
                "split_leak",
                file,
                f"{shown(name)} is also in {earlier.file}, line {earlier.line}",
                line,
            )
            if (
                policy == "drop"
            ):  # the lists are read in the order train, val, test: the later one wins
                self._by_name[name] = listed
            listed.seen = earlier.seen = True
        elif earlier is not listed:
            return
        self._lines.append(listed)
        flagged = _VOC_FLAG.fullmatch(name)
        if flagged:
            self._by_flagged.setdefault(flagged[1], listed)

    def _end_of(self, path: str) -> str:
        """The longest end of a path that is the whole path of an image, "" where none is."""
        return next((tail for tail in reversed(tails(path)) if tail in self._whole), "")

    def of(self, image: str) -> str:
        """The split of the image with this path, or "" where it has none. To be asked once for each
        image.
        """
        if not self.given_by_list:
            return split_of_path(image) if self.given else ""
        listed = self._line_of(image)
        if listed is None:
            return ""
        self._see(image)
        if listed.image not in ("", image):
            detail = (
                f"{shown(listed.name)} fits {listed.image} and {image}; write their folders too"
            )
            if self._findings.add("ambiguous_image", listed.file, detail, listed.line) != "fix":
                return ""
        listed.image = listed.image or image
        return listed.split

    def excuse(self, image: str) -> None:
        """A list may name this image, which was found wanting, and said so: the list is not wrong
        as well.
        """
        if self.given_by_list:
            self._see(image)

    def _see(self, image: str) -> None:
        """Two lists may name one image in two ways: neither line names nothing."""
        for listed in self._lines_of(image):
            listed.seen = True

    def _line_of(self, image: str) -> _Listed | None:
        return next(self._lines_of(image), None)

    def _lines_of(self, image: str) -> Iterator[_Listed]:
        own = (image, without_suffix(image))
        keys = [
            key for tail in reversed(tails(image)) for key in (tail, without_suffix(tail))
        ]  # the whole path first
        keys = [key for key in keys if key in own or key not in self._whole]
        return (
            listed[key]
            for listed in (self._by_name, self._by_flagged)
            for key in keys
            if key in listed
        )

    def report_unused(self) -> None:
        """Once all images have been asked for: what the lists name and nobody has."""
        for listed in self._lines:
            if not listed.seen:
                detail = f"{shown(listed.name)} is listed, and there is no such annotated image"
                self._findings.add("missing_image", listed.file, detail, listed.line)


def find_lists(folder: Folder, tail: str) -> dict[str, list[str]]:
    """Split -> files whose path ends with `tail.format(split)`; {} where there is none."""
    found = {
        split: [n for n in folder.files if f"/{n}".endswith(f"/{tail.format(split)}")]
        for split in SPLITS
    }
    return {split: files for split, files in found.items() if files}
