"""Labels that lie where their reader does not look: beside the images although there is a labels/,
in labels_2/, in a JSON file for the other half of the images. They would vanish without a word.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from engine.datasets.findings import Findings
from engine.datasets.formats.base import shown
from engine.datasets.formats.folder import IMAGE_SUFFIXES, Folder, base_name, without_suffix
from engine.datasets.formats.others import recognised_file

SUFFIXES = (".txt", ".xml", ".json", ".csv")
LONGEST_NAME = 256

_endings = "|".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
_NAME = re.compile(rf'[^"/\\<>,;\n\r]+?\.(?:{_endings})(?=["<,;\s])', re.IGNORECASE)


@dataclass
class _Place:
    """A file, or a folder of files, that holds labels and was not read."""

    files: int = 0
    first: str = ""
    missed: set[str] = field(default_factory=set)  # images that have no labels otherwise
    others: int = 0  # files that say otherwise than those that were read


def report_elsewhere(
    folder: Folder,
    findings: Findings,
    label_of: Mapping[str, str],
    read: Collection[str],
    looks_right: Callable[[str], bool],
) -> None:
    """A finding for each place with labels that were not read, and that are missed: their images
    have no others, or others that differ. Call once, when all was read.

    label_of: image -> its label file (or words for the entry in one). read: files that were read.
    looks_right: whether a file looks like one of the reader's format.
    """
    bare = set(folder.images).difference(label_of)
    by_base = {base_name(image): image for image in bare}
    places: dict[str, _Place] = defaultdict(_Place)
    for file in folder.with_suffix(*SUFFIXES):
        if file in read or (not bare and file.lower().endswith((".json", ".csv"))):
            continue
        own = looks_right(file)
        if not (own or recognised_file(folder, file)):
            continue
        of = folder.images_with_stem(base_name(without_suffix(file)))
        missed, differs = bare.intersection(of), False
        if own and not missed and len(of) == 1:  # the same in another format reads otherwise
            differs = _differ(folder, file, label_of[of[0]])
        if not of and bare:
            missed = {by_base[name] for name in _names(folder, file) if name in by_base}
        if not (missed or differs):
            continue
        place = places[(file.rpartition("/")[0] or ".") if of else file]
        place.files, place.first = place.files + 1, place.first or file
        place.missed |= missed
        place.others += differs
    for name, place in places.items():
        findings.add("labels_elsewhere", name, _said(place, label_of))


def _said(place: _Place, label_of: Mapping[str, str]) -> str:
    what = []
    if place.missed:
        count = len(place.missed)
        images = f"{count:,} images that have" if count > 1 else "1 image that has"
        what.append(f"labels of {images} no others, first {min(place.missed)}")
    if place.others:
        what.append(f"{place.others:,} that say otherwise than the labels that are read")
    where = sorted({file.rpartition("/")[0] or "." for file in label_of.values()})[:3]
    return (
        f"holds {' and '.join(what)} (first file {shown(base_name(place.first))}); labels are read "
        f"in {', '.join(where) or 'no other place'}"
    )


def _differ(folder: Folder, file: str, other: str) -> bool:
    """Whether two files of one kind say different things; blanks do not count."""
    if other not in folder or file.rpartition(".")[2].lower() != other.rpartition(".")[2].lower():
        return False
    try:
        return folder.read(file).split() != folder.read(other).split()
    except ValueError:
        return False


def _names(folder: Folder, file: str) -> set[str]:
    """The names of images that a file holds, without their folders."""
    found: set[str] = set()
    end = ""
    try:
        for chunk in folder.chunks(file):
            text = end + chunk.decode("utf-8", "replace")
            found.update(match[0].strip() for match in _NAME.finditer(text))
            end = text[-LONGEST_NAME:]
    except ValueError:
        pass
    return found
