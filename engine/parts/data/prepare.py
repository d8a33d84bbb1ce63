"""Labelled images become a prepared dataset: read, checked, split, copied, and written whole or not at all.

The source is only ever read. Equal content gives equal bytes: no times, no paths of the machine, an order that depends on
the images alone. What a finding leads to is decided by `checks.KINDS` and `DataConfig.policies`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from engine.config import DataConfig
from engine.errors import DataError
from engine.files import publish_folder, write_text
from engine.parts.data.checks import Findings
from engine.parts.data.description import DATASET_FILE, Description
from engine.parts.data.download import fetch, forget
from engine.parts.data.fingerprint import SourceDigest
from engine.parts.data.formats import detect_format, open_reader
from engine.parts.data.formats.base import Reader, SourceImage
from engine.parts.data.formats.folder import Folder
from engine.parts.data.generated import open_generated
from engine.parts.data.intake import Labels, check_labels, inspect_image
from engine.parts.data.prepared import LAYOUT_VERSION, class_hash, dataset_digest, default_cache_dir, write_manifest
from engine.parts.data.splits import Candidate, assign_splits, compile_group, group_of
from engine.types import SPLITS, ImageRecord, Size

log = logging.getLogger("detectflow.data")

Progress = Callable[[dict[str, Any]], None]

PROGRESS_CALLS = 100  # over the whole run
INCOMING = "incoming"  # copies wait here until their split is known


@dataclass(frozen=True)
class PrepareReport:
    """What was prepared and what was found. `info` is the content of dataset.json."""

    info: dict[str, Any]
    class_counts: list[dict[str, Any]]  # {"name": class, "train": boxes, "val": boxes, "test": boxes}
    findings: Findings

    def summary(self) -> dict[str, Any]:
        """Plain JSON without times and paths. `dvc metrics` shows and compares its numbers and text, and passes lists over."""
        shown = ("name", "licence", "digest", "source_digest", "class_hash", "counts", "names")
        return {**{key: self.info[key] for key in shown}, "findings": self.findings.summary(), "classes": self.class_counts}


def prepare(description: Description, target: Path, settings: DataConfig, progress: Progress | None = None) -> PrepareReport:
    """Make the prepared dataset `target` (layout: prepared.py) and say what was found.

    settings.path is relative to the current folder. progress is called now and then with plain values.

    Raises:
        DataError: there is no such dataset, or findings whose policy is `error`, listed; then nothing is written.
        ConfigError: settings that do not fit the dataset. WorkspaceError: the disk is full, or a folder refuses.
    """
    findings = Findings.with_policies(settings.policies)
    source = open_source(description, settings, findings)
    if source.folder is not None and Path(os.path.abspath(target)).is_relative_to(os.path.abspath(source.folder)):
        raise DataError(f"{source.folder}: holds {target}, where the result would go; give the folder of the images alone")
    known = description.content.names or source.reader.names
    digest = SourceDigest()
    with publish_folder(target) as folder:
        intake = Intake(folder / INCOMING, known, compile_group(settings.group_by), findings)
        for image in _watched(source.reader, progress):
            intake.take(image, digest)
        content = digest.content(source.reader.names)
        _compare_digest(description, source, content, findings)
        names = known or intake.class_names()
        records = _split(intake.entries(names), source.reader.gives_splits, settings, findings, description.name)
        _check_splits(records, known, names, findings)
        findings.stop_if_refused(description.name)
        records = _move(records, folder)
        shutil.rmtree(folder / INCOMING)
        info = _info(description, source, names, records, content, digest.layout())
        for split in SPLITS:
            write_manifest(folder / f"{split}.jsonl", [record for record in records if record.split == split])
        write_text(folder / DATASET_FILE, json.dumps(info, indent=2, ensure_ascii=False) + "\n")
    for line in findings.warnings():
        log.warning("%s: %s", description.name, line)
    return PrepareReport(info, _class_counts(names, records), findings)


# The source -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """An opened dataset: its reader, and where it came from."""

    reader: Reader
    format: str
    folder: Path | None = None  # None: generated
    downloaded: bool = False


def open_source(description: Description, settings: DataConfig, findings: Findings) -> Source:
    """Find the dataset, fetch it where it has only a url, and open its reader."""
    content = description.content
    folder = description.local_folder(settings)
    if description.generated:
        return Source(open_generated(content.generator, {**content.options, **settings.options}, settings.seed), "generated")
    downloaded = folder is None
    if folder is None:
        folder = fetch(
            content.url,
            default_cache_dir() / "downloads",
            folder=content.folder,
            max_mb=content.max_download_mb,
            check=lambda fresh: _check_download(description, settings, fresh),
            by_hand=f"{content.obtain} Then give the folder: -S data.path=FOLDER".strip(),
            tell=log.info,
        )
    return _open_folder(description, folder, findings, downloaded)


def _open_folder(description: Description, folder: Path, findings: Findings, downloaded: bool = False) -> Source:
    content, files = description.content, Folder(folder)
    found = content.format or detect_format(files)
    reader = open_reader(files, found, findings, names=content.names, splits=content.splits)
    return Source(reader, found, folder, downloaded)


def read_source_digest(description: Description, settings: DataConfig, folder: Path) -> tuple[str, str]:
    """(content, layout) of a dataset folder as `SourceDigest` has them, without preparing anything.

    Raises:
        DataError: nothing can be read there.
    """
    reader = _open_folder(description, folder, Findings.with_policies(settings.policies)).reader
    digest = SourceDigest()
    for image in reader:
        data = _bytes_of(image)
        digest.add(image, "" if data is None else hashlib.sha256(data).hexdigest())
    return digest.content(reader.names), digest.layout()


def _bytes_of(image: SourceImage) -> bytes | None:
    try:
        return image.read()
    except OSError:
        return None


def _check_download(description: Description, settings: DataConfig, folder: Path) -> None:
    expected = description.content.digest
    found, _ = read_source_digest(description, settings, folder)
    if expected is None:
        log.warning("%s: the download is not checked; add `digest: %s` to %s", description.name, found, description.origin.name)
    elif found != expected:
        raise DataError(
            f"{description.content.url}: the download's content has digest {found}, {description.origin.name} expects "
            f"{expected}. It was not kept. Try again; if it stays so, the address no longer holds that version."
        )


def _compare_digest(description: Description, source: Source, content: str, findings: Findings) -> None:
    expected = description.content.digest
    if expected is None or content == expected:
        return
    if source.downloaded:
        forget(source.folder)
        raise DataError(f"{source.folder}: the unpacked download was changed; it was removed, run again to fetch it anew")
    detail = f"content {content[:16]}..., `digest` says {expected[:16]}...: another version, or files were changed"
    findings.add("digest_mismatch", description.origin.name, detail)


# Images -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An image that was taken in; its copy waits in `file`."""

    file: Path
    name: str
    sha256: str
    size: Size
    labels: Labels
    given: str
    group: str


class Intake:
    """Takes image after image: hashes, decodes, checks and copies it, or leaves it out with a finding."""

    def __init__(self, folder: Path, known: Sequence[str], group_by: re.Pattern[str] | None, findings: Findings) -> None:
        self._folder, self._known, self._group_by, self._findings = folder, known, group_by, findings
        self._entries: list[Entry] = []
        folder.mkdir()

    def take(self, image: SourceImage, digest: SourceDigest) -> None:
        data = _bytes_of(image)
        sha256 = "" if data is None else hashlib.sha256(data).hexdigest()
        digest.add(image, sha256)
        if data is None:
            self._findings.add("unreadable_image", image.name, "cannot be read: no permission, or a link to nothing")
            return
        try:
            shape = inspect_image(data)
        except ValueError as error:
            self._findings.add("unreadable_image", image.name, str(error))
            return
        labels = check_labels(image, shape, self._known, self._findings)
        if labels is None:
            return
        file = self._folder / str(len(self._entries))
        file.write_bytes(data)
        group = group_of(image.name, self._group_by)
        self._entries.append(Entry(file, image.name, sha256, shape.shown, labels, image.split, group))

    def class_names(self) -> tuple[str, ...]:
        """The classes that occur, by name, for a dataset that lists none."""
        return tuple(sorted({name for entry in self._entries for name in entry.labels.names}))

    def entries(self, names: Sequence[str]) -> list[ImageRecord]:
        """Records with the given split, in an order that depends on content first; repeated images by policy."""
        number = {name: index for index, name in enumerate(names)}
        first: dict[tuple[str, str], Entry] = {}
        records = []
        for entry in sorted(self._entries, key=lambda entry: (entry.sha256, entry.name)):
            same = first.setdefault((entry.sha256, entry.given), entry)
            if same is not entry:
                if self._findings.add("duplicate_image", entry.name, f"is the same as {same.name}") == "drop":
                    continue
            labels = entry.labels
            records.append(
                ImageRecord(
                    file=entry.file,
                    sha256=entry.sha256,
                    size=entry.size,
                    boxes=labels.boxes,
                    classes=np.array([number[name] for name in labels.names], np.int64),
                    split=entry.given,
                    group=entry.group,
                    crowd=labels.crowd if labels.crowd.any() else None,
                    name=entry.name,
                )
            )
        return records


def _watched(reader: Reader, progress: Progress | None) -> Iterator[SourceImage]:
    """The reader's images, with a progress call now and then."""
    total, every = reader.total, max(reader.total // PROGRESS_CALLS, 1)
    done = 0
    for done, image in enumerate(reader, 1):
        yield image
        if progress is not None and done % every == 0 and done < total:
            progress({"stage": "prepare", "done": done, "total": total, "metrics": {}})
    if progress is not None:
        progress({"stage": "prepare", "done": done, "total": done, "metrics": {}})


# Splits -----------------------------------------------------------------------------------------------------------


def _split(records: list[ImageRecord], given: bool, settings: DataConfig, findings: Findings, name: str) -> list[ImageRecord]:
    if not records:
        findings.stop_if_refused(name)
        left_out = "; ".join(findings.warnings()) or "the dataset holds none"
        raise DataError(f"dataset '{name}': no image can be used: {left_out}")
    sides = assign_splits(
        [Candidate(record.name, record.sha256, record.group, record.split) for record in records],
        findings,
        given=given,
        seed=settings.seed,
        val_fraction=settings.val_fraction,
        test_fraction=settings.test_fraction,
    )
    if "train" not in sides:
        findings.stop_if_refused(name)
        raise DataError(f"dataset '{name}': no image of {len(records)} is left to train on; add images or change the splits")
    return [replace(record, split=side) for record, side in zip(records, sides, strict=True) if side]


def _check_splits(records: Sequence[ImageRecord], listed: Sequence[str], names: Sequence[str], findings: Findings) -> None:
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


# Writing ----------------------------------------------------------------------------------------------------------


def _move(records: Sequence[ImageRecord], folder: Path) -> list[ImageRecord]:
    """Bring every copy to images/<split>/<name>."""
    moved = []
    for split in SPLITS:
        (folder / "images" / split).mkdir(parents=True)
        mine = [record for record in records if record.split == split]
        for record, name in zip(mine, copy_names(mine), strict=True):
            file = folder / "images" / split / name
            os.replace(record.file, file)
            moved.append(replace(record, file=file))
    return moved


def copy_names(records: Iterable[ImageRecord]) -> list[str]:
    """A file name for each image: its own, and where several share one, that with eight digits of its hash added.

    No two differ in upper and lower case only, none holds anything but letters, digits, `. _ -` and blanks.
    """
    plain = []
    for record in records:
        path = PurePosixPath(record.name)
        stem = re.sub(r"[^\w.\- ]", "_", path.stem)[:80].strip(" .") or "image"
        plain.append((stem, path.suffix.lower(), record.sha256[:8]))
    uses = Counter((stem + suffix).casefold() for stem, suffix, _ in plain)
    taken: set[str] = set()
    names = []
    for stem, suffix, digits in plain:
        name, again = stem + suffix, 1
        if uses[name.casefold()] > 1:
            name = f"{stem}-{digits}{suffix}"
        while name.casefold() in taken:
            again += 1
            name = f"{stem}-{digits}-{again}{suffix}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _info(
    description: Description, source: Source, names: Sequence[str], records: Sequence[ImageRecord], content: str, layout: str
) -> dict[str, Any]:
    """The content of dataset.json."""
    counts = {split: {"images": 0, "boxes": 0} for split in SPLITS}
    for record in records:
        counts[record.split]["images"] += 1
        counts[record.split]["boxes"] += len(record.classes)
    return {
        "version": LAYOUT_VERSION,
        "name": description.name,
        "format": source.format,
        "licence": description.content.licence,
        "digest": dataset_digest(names, records),
        "source_digest": content,
        "source_layout": layout,
        "class_hash": class_hash(names),
        "splits": "given" if source.reader.gives_splits else "by content",
        "counts": counts,
        "names": list(names),
    }


def _class_counts(names: Sequence[str], records: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    table = {split: np.zeros(len(names), np.int64) for split in SPLITS}
    for record in records:
        table[record.split] += np.bincount(record.classes, minlength=len(names))
    return [{"name": name, **{split: int(table[split][index]) for split in SPLITS}} for index, name in enumerate(names)]
