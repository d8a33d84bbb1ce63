"""Lists of images by split that nothing names but themselves: `train.txt`, `splits/val.txt`,
`ImageSets/Main/test.txt`, `autosplit_train.txt`. Which of them a dataset means is decided here, or
said to be unclear; none is passed over without a word.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from engine.datasets.findings import Findings
from engine.datasets.formats.base import split_word
from engine.datasets.formats.folder import (
    IMAGE_SUFFIXES,
    Folder,
    base_name,
    tails,
    without_suffix,
)

SUFFIXES = (".txt", ".lst", ".list")

_FLAG = re.compile(r"(.*\S)\s+(?:-1|0|1)")  # "name -1": VOC's lists of one class


@dataclass(frozen=True)
class SplitList:
    """One list file."""

    file: str
    split: str
    images: frozenset[str]  # of the folder, that it names
    is_whole_name: bool = True  # "train.txt", not "car_train.txt"

    @property
    def place(self) -> str:
        return self.file.rpartition("/")[0]


def find_split_lists(
    folder: Folder, findings: Findings, labels: Collection[str]
) -> list[SplitList]:
    """Every list whose name has the word of one split, and whose lines name images, as they are or
    without suffix; those at the top first. labels: files that are labels, not lists.

    A file of such a name that cannot be read is a finding.
    """
    found = []
    for file in folder.with_suffix(*SUFFIXES):
        split, whole = _split_of(file)
        if not split or file in labels:
            continue
        try:
            lines = [line for line in folder.list_text(file).splitlines() if line.strip()]
        except ValueError as error:
            detail = f"is called like a list of {split}, and cannot be read: {error}"
            findings.add("unreadable_annotation", file, detail)
            continue
        images = [image_of(folder, line) for line in lines]
        if any(images) or (lines and all(map(_is_image_name, lines))):
            found.append(SplitList(file, split, frozenset(filter(None, images)), whole))
    return sorted(found, key=lambda each: (each.file.count("/"), each.file))


def settled(lists: Sequence[SplitList], findings: Findings, *, of: int) -> dict[str, list[str]]:
    """Split -> list files that count: those of all places, if they give no image two splits, and
    there is more than one split. Else {} and a finding that names them.

    of: images of the dataset.
    """
    lists = _without_lists_of_a_class(lists)
    splits = {each.split for each in lists}
    if len(splits) < 2:
        for each in lists:
            report_unused(each, findings, of, "and no other split has a list")
        return {}
    if contradiction := _contradiction(lists):
        findings.add("unclear_lists", *contradiction)
        return {}
    chosen: dict[str, list[str]] = defaultdict(list)
    for each in lists:
        chosen[each.split].append(each.file)
    return dict(chosen)


def report_unused(of: SplitList, findings: Findings, images: int, why: str) -> None:
    """images: of the dataset. why: the second half of a sentence."""
    detail = f"names {len(of.images):,} of {images:,} images as {of.split}, {why}"
    findings.add("unused_list", of.file, detail)


def image_of(folder: Folder, line: str) -> str | None:
    """The image that a line means, by the end of its path, with or without suffix."""
    flagged = _FLAG.fullmatch(line.strip())
    for text in (line.strip(), flagged[1] if flagged else ""):
        for tail in reversed(tails(text.replace("\\", "/"))) if text else ():
            found = folder.images_ending(tail) or folder.images_with_stem(tail)
            if found:
                return found[0] if len(found) == 1 else tail
    return None


def _split_of(file: str) -> tuple[str, bool]:
    """(split, whether the whole name is its word); ("", False) where the name has none, or two."""
    stem = without_suffix(base_name(file))
    if split := split_word(stem):
        return split, True
    found = {split_word(word) for word in re.split(r"[\W_]+", stem)} - {""}
    return (found.pop(), False) if len(found) == 1 else ("", False)


def _is_image_name(line: str) -> bool:
    return PurePosixPath(line.strip()).suffix.lower() in IMAGE_SUFFIXES


def _without_lists_of_a_class(lists: Sequence[SplitList]) -> list[SplitList]:
    """VOC puts car_train.txt beside train.txt."""
    whole = {(each.place, each.split) for each in lists if each.is_whole_name}
    return [each for each in lists if each.is_whole_name or (each.place, each.split) not in whole]


def _contradiction(lists: Sequence[SplitList]) -> tuple[str, str] | None:
    """(file, detail) where lists of two places, or several lists of one split, give an image two
    splits. An image in two of three plain lists is a leak, which is said line by line.
    """
    per_place = Counter((each.place, each.split) for each in lists)
    first: dict[str, SplitList] = {}
    for each in lists:
        several = per_place[each.place, each.split] > 1
        for image in sorted(each.images):
            other = first.setdefault(image, each)
            if other.split != each.split and (
                other.place != each.place or several or per_place[other.place, other.split] > 1
            ):
                return each.file, f"{image} is of {each.split} here, and of {other.split} in " + (
                    other.file
                )
    return None
