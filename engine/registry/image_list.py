"""Which images and labels a version was made and measured with: a line for each image, kept beside
the version's model, so that a later version can say what has changed since.

    sha256,split,labels      labels: a digest of the boxes with the names of their classes
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.types import SPLITS, ImageRecord

IMAGE_LIST = "images.csv"  # beside a version's model
HEAD = ("sha256", "split", "labels")
DIGITS = 16  # of the digest of an image's labels

Images = Mapping[str, Mapping[str, str]]  # split -> SHA-256 of an image -> digest of its labels


@dataclass(frozen=True)
class SplitChanges:
    """How many images of a split changed. An image is the same where its bytes are."""

    split: str
    kept: int  # in this split before and now
    added: int  # new to the dataset
    removed: int  # in no split any more
    came: int  # from another split
    went: int  # to another split
    relabelled: int  # of those that are in it now and were in any split: with other labels


def images_of(records: Iterable[ImageRecord], names: Sequence[str]) -> Images:
    """The images of all splits. names: of the classes: another number of a class is no change."""
    found: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    for record in records:
        found[record.split][record.sha256] = labels_digest(record, names)
    return found


def labels_digest(record: ImageRecord, names: Sequence[str]) -> str:
    """Of the boxes, in whatever order, with their classes' names."""
    crowd = [False] * len(record.classes) if record.crowd is None else record.crowd.tolist()
    called = [names[c] if c < len(names) else str(c) for c in record.classes.tolist()]
    rows = sorted(zip(called, record.boxes.tolist(), map(bool, crowd), strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:DIGITS]


def as_text(images: Images) -> str:
    """The content of the file; equal images give equal bytes."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(HEAD)
    for split in SPLITS:
        rows.writerows((sha256, split, labels) for sha256, labels in sorted(images[split].items()))
    return text.getvalue()


def read_images(file: Path) -> Images | None:
    """None where the file is not there (a version from before they were kept), or is no such
    list.
    """
    found: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                found[row["split"]][row["sha256"]] = row["labels"]
    except (OSError, UnicodeDecodeError, csv.Error, LookupError):
        return None
    return found


def changes(before: Images, now: Images) -> list[SplitChanges]:
    """Of each split, in the order of `SPLITS`."""
    everywhere = [
        {sha256: labels for split in SPLITS for sha256, labels in side[split].items()}
        for side in (before, now)
    ]
    found = []
    for split in SPLITS:
        old, new = before[split], now[split]
        there = new.keys() & everywhere[0].keys()
        found.append(
            SplitChanges(
                split,
                kept=len(old.keys() & new.keys()),
                added=len(new.keys() - everywhere[0].keys()),
                removed=len(old.keys() - everywhere[1].keys()),
                came=len(there - old.keys()),
                went=len((old.keys() & everywhere[1].keys()) - new.keys()),
                relabelled=sum(new[each] != old.get(each, everywhere[0][each]) for each in there),
            )
        )
    return found


def as_values(found: Iterable[SplitChanges]) -> list[dict[str, object]]:
    """Fit for JSON."""
    return [asdict(each) for each in found]
