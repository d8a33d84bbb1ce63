"""One pass over a dataset: every image decoded once, hashed, checked and placed in a split; what is
wrong is in `Findings`.

The first act of prepare, and all of `detectflow check`. Writes nothing but the copies it is asked
for.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from engine.config import DataConfig
from engine.datasets.classes import ClassSchema, reconcile, rename_rows, with_pinned
from engine.datasets.conventions import Conventions, conventions_of
from engine.datasets.copies import Copy, Fingerprint, copies_in_train, find_links
from engine.datasets.description import Description
from engine.datasets.findings import Findings
from engine.datasets.formats.base import SourceImage
from engine.datasets.image_scan import (
    Mapper,
    ScanRequest,
    ScanResult,
    SerialMapper,
    Shape,
    scan_images,
)
from engine.datasets.image_table import MetaOf, nothing_known
from engine.datasets.label_checks import Labels, check_labels, with_right_masks
from engine.datasets.outliers import report_imbalance, report_outliers
from engine.datasets.source import Source, compare_digest, open_source
from engine.datasets.source_digest import SourceDigest
from engine.datasets.splits import Candidate, Link, assign_splits, read_kept_splits, split_groups
from engine.types import SPLITS, ImageRecord, Size

Progress = Callable[[dict[str, Any]], None]
T = TypeVar("T")

BY_NUMBER = ("yolo",)  # formats whose label files hold the numbers of classes
PROGRESS_CALLS = 100  # over the whole run
DARK_LEVELS = 16  # of 256: what 12 bits come to when they are taken as 16


@dataclass(frozen=True)
class Examination:
    """What a dataset holds after the checks. Records have their split; those a policy left out are
    not among them.
    """

    source: Source
    names: tuple[str, ...]  # classes
    records: list[ImageRecord]
    usable: int  # images that could be used, before splits left some out
    content: str  # digests of the source: `SourceDigest`
    layout: str
    files: Mapping[str, Path]  # image name -> its file, also of images that were left out
    copies: Sequence[Copy] = ()  # of training images, in val and test


def examine(
    description: Description,
    settings: DataConfig,
    findings: Findings,
    *,
    copies: Path | None = None,
    source: Source | None = None,
    schema: ClassSchema | None = None,
    progress: Progress | None = None,
    mapper: Mapper | None = None,
) -> Examination:
    """Read and check a dataset; findings whose policy is `error` are recorded like the others.

    copies: folder for a copy of each image that can be used; without it only images that have no
    file are written, nowhere.
    source: opened already. schema: the project's classes. progress is called now and then with
    plain values.
    mapper: who scans the images, by default this process; the result does not depend on it.

    Raises:
        DataError: there is no such dataset, or its classes are not the project's. ConfigError:
            settings that do not fit it.
        WorkspaceError: a worker was killed, or does not see the files.
    """
    source = source or open_source(description, settings, findings, schema.names if schema else ())
    kept = read_kept_splits(Path(settings.keep_splits)) if settings.keep_splits else {}
    known = reconcile(
        description, schema, source.reader.names, settings.class_map, source.format in BY_NUMBER
    )
    conventions = conventions_of(source.format)
    collector = SampleCollector(
        settings, known, source.group_of, findings, source.meta_of, conventions=conventions
    )
    with contextlib.closing(
        scan_images(source.reader, findings, copies, mapper or SerialMapper(), settings.find_crops)
    ) as results:
        for image, ask, result in _reported(results, source.reader.total, progress):
            collector.take(image, ask, result)
    if conventions:
        conventions.report(findings)
    content = collector.digest.content(source.reader.names)
    compare_digest(description, source, content, findings)
    names = with_pinned(schema, known or collector.class_names())
    records = collector.records(names)
    prints = collector.prints
    report = functools.partial(_report_pairs, progress, source.reader.total)
    links = find_links(
        [record.sha256 for record in records], prints, settings.near_duplicate_bits, report
    )
    _report_near_duplicates(records, links, findings)
    records = _without_near_duplicates(records, links, kept, source.reader.gives_splits, findings)
    usable = len(records)
    if records:
        records = _split(
            records, links, kept, names, source.reader.gives_splits, settings, findings
        )
        listed = names if known or (schema and schema.pinned) else ()
        _check_splits(records, listed, names, findings)
        report_imbalance(names, records, findings)
        report_outliers(names, records, findings)
    found = copies_in_train(records, links, prints, settings.near_duplicate_bits)
    layout = collector.digest.layout()
    return Examination(source, names, records, usable, content, layout, collector.files, found)


# Images -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An image that was taken in; `file` is its copy, or the image itself."""

    file: Path
    name: str
    sha256: str
    size: Size
    labels: Labels
    given: str
    group: str
    meta: Mapping[str, str]


@dataclass
class SampleCollector:
    """Takes image after image with what was seen of it: checks its labels, or leaves it out with a
    finding.
    """

    settings: DataConfig
    known: Sequence[str]
    group_of: Callable[[str], str]
    findings: Findings
    meta_of: MetaOf = nothing_known
    conventions: Conventions | None = None
    digest: SourceDigest = field(default_factory=SourceDigest)
    entries: list[Entry] = field(default_factory=list)
    prints: dict[str, Fingerprint] = field(default_factory=dict)  # sha256 -> what copies share
    files: dict[str, Path] = field(default_factory=dict)

    def take(self, image: SourceImage, ask: ScanRequest, result: ScanResult) -> None:
        group = self.group_of(image.name)
        meta = self.meta_of(image.name)
        self.digest.add(image, result.sha256, group, meta)
        if result.shape is None:
            self.findings.add("unreadable_image", image.name, result.wrong)
            return
        file = image.path or ask.copy
        if file is not None:
            self.files[image.name] = file
        if self._is_left_out_for_its_pixels(image.name, result.shape):
            return
        image = with_right_masks(image, result.shape, self.findings)
        if self.conventions:
            self.conventions.add(image, result.shape.shown)
        image = rename_rows(image, self.settings.class_map)
        labels = check_labels(
            image, result.shape, self.known, self.findings, tiny_px=self.settings.tiny_box_px
        )
        if labels is None:
            return
        shape = result.shape
        self.prints[result.sha256] = Fingerprint(
            shape.dhash, shape.exchanged, shape.keypoints, shape.thumb
        )
        file = ask.copy or image.path or Path()
        size = result.shape.shown
        self.entries.append(
            Entry(file, image.name, result.sha256, size, labels, image.split, group, meta)
        )

    def _is_left_out_for_its_pixels(self, name: str, shape: Shape) -> bool:
        """Findings about what only one who decodes an image sees; True where a policy leaves it
        out.
        """
        policies = []
        if shape.pages > 1:
            policies.append(
                self.findings.add(
                    "several_pages", name, f"holds {shape.pages} pages or frames", image=name
                )
            )
        if shape.brightest < DARK_LEVELS:
            detail = f"its brightest pixel has grey level {shape.brightest} of 255"
            policies.append(self.findings.add("dark_image", name, detail, image=name))
        return "drop" in policies

    def class_names(self) -> tuple[str, ...]:
        """The classes that occur, by name, for a dataset that lists none."""
        return tuple(sorted({name for entry in self.entries for name in entry.labels.names}))

    def records(self, names: Sequence[str]) -> list[ImageRecord]:
        """Records with the given split, in an order that depends on content first; repeated images
        by policy.
        """
        number = {name: index for index, name in enumerate(names)}
        first: dict[tuple[str, str], Entry] = {}
        records = []
        for entry in sorted(self.entries, key=lambda entry: (entry.sha256, entry.name)):
            same = first.setdefault((entry.sha256, entry.given), entry)
            if same is not entry:
                detail = f"is the same as {same.name}{_difference(entry.labels, same.labels)}"
                if (
                    self.findings.add(
                        "duplicate_image", entry.name, detail, image=entry.name, other=same.name
                    )
                    == "drop"
                ):
                    continue
            records.append(_record(entry, number))
        return records


def _difference(labels: Labels, others: Labels) -> str:
    """Words for it where two images of the same bytes are labelled differently: one of them is
    wrong.
    """
    rows, other_rows = (
        sorted(zip(each.names, each.boxes.tolist(), each.crowd.tolist(), strict=True))
        for each in (labels, others)
    )
    if rows == other_rows:
        return ""
    return ", and their labels differ" + (
        f": {len(rows)} and {len(other_rows)} boxes" if len(rows) != len(other_rows) else ""
    )


def _record(entry: Entry, number: Mapping[str, int]) -> ImageRecord:
    labels = entry.labels
    return ImageRecord(
        file=entry.file,
        sha256=entry.sha256,
        size=entry.size,
        boxes=labels.boxes,
        classes=np.array([number[name] for name in labels.names], np.int64),
        split=entry.given,
        group=entry.group,
        crowd=labels.crowd if labels.crowd.any() else None,
        name=entry.name,
        meta=entry.meta,
    )


def _reported(images: Iterable[T], total: int, progress: Progress | None) -> Iterator[T]:
    """The images, of which `total` are expected; calls `progress` now and then and at the end."""

    def report(total: int) -> None:
        if progress is not None:
            progress({"stage": "prepare", "done": done, "total": total, "metrics": {}})

    done, every = 0, max(total // PROGRESS_CALLS, 1)
    for done, image in enumerate(images, 1):
        yield image
        if done % every == 0 and done < total:
            report(total)
    report(done)


# Near duplicates ----------------------------------------------------------------------------------


def _report_near_duplicates(
    records: Sequence[ImageRecord], links: Sequence[Link], findings: Findings
) -> None:
    """A finding for each link between two images of one split."""
    first = {record.sha256: record for record in reversed(records)}
    for link in links:
        one, other = first[link.one], first[link.other]
        if one.split == other.split:
            detail = f"shows nearly the same as {one.name}, {link}"
            findings.add("near_duplicate", other.name, detail, image=other.name, other=one.name)


def _report_pairs(progress: Progress | None, images: int, done: int, total: int) -> None:
    """The search for crops, after all images were read."""
    if progress is not None:
        metrics = {"pairs compared": done, "pairs": total}
        progress({"stage": "prepare", "done": images, "total": images, "metrics": metrics})


def _without_near_duplicates(
    records: list[ImageRecord],
    links: Sequence[Link],
    kept: Mapping[str, str],
    given: bool,
    findings: Findings,
) -> list[ImageRecord]:
    """One image of those that resemble each other in a split, where the policy says so: an earlier
    version's, if there is one.
    """
    if findings.policies["near_duplicate"] != "drop":
        return records
    linked = {sha for link in links for sha in (link.one, link.other)}
    keys = split_groups([Candidate(record.name, record.sha256, "") for record in records], links)
    first: dict[tuple[str, str], ImageRecord] = {}
    for record, key in sorted(
        zip(records, keys, strict=True),
        key=lambda pair: (pair[0].sha256 not in kept, pair[0].sha256),
    ):
        first.setdefault((key, record.split if given else ""), record)
    stay = {record.sha256 for record in first.values()}
    return [record for record in records if record.sha256 in stay or record.sha256 not in linked]


# Splits -------------------------------------------------------------------------------------------


def _split(
    records: Sequence[ImageRecord],
    links: Sequence[Link],
    kept: Mapping[str, str],
    names: Sequence[str],
    given: bool,
    settings: DataConfig,
    findings: Findings,
) -> list[ImageRecord]:
    present = {record.sha256 for record in records}
    sides = assign_splits(
        [
            Candidate(
                record.name,
                record.sha256,
                record.group,
                record.split,
                tuple(np.unique(record.classes).tolist()),
            )
            for record in records
        ],
        findings,
        given=given,
        seed=settings.seed,
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
        links=[link for link in links if link.one in present and link.other in present],
        kept=kept,
        names=names,
    )
    return [
        replace(record, split=side) for record, side in zip(records, sides, strict=True) if side
    ]


def _check_splits(
    records: Sequence[ImageRecord], listed: Sequence[str], names: Sequence[str], findings: Findings
) -> None:
    """Every split that has images must have boxes, every listed class too."""
    boxes = Counter({record.split: 0 for record in records})
    classes: set[int] = set()
    for record in records:
        boxes[record.split] += len(record.classes)
        classes.update(record.classes.tolist())
    for split in SPLITS:
        if split in boxes and not boxes[split]:
            findings.add("split_without_boxes", f"split {split}", "none of its images has a box")
    for index, name in enumerate(names if listed else ()):
        if index not in classes:
            findings.add("unused_class", "", f"class '{name}' has no box")
