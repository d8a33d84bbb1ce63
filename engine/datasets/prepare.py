"""Labelled images become a prepared dataset: read, checked, split, copied, and written whole or not
at all.

The source is only ever read. Equal content gives equal bytes: no times, no paths of the machine, an
order that depends on the images alone. What a finding leads to is decided by `checks.KINDS` and
`DataConfig.policies`.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from engine.config import DataConfig
from engine.data.manifest import (
    COPIES_FILE,
    DATASET_FILE,
    LAYOUT_VERSION,
    class_hash,
    dataset_digest,
    write_manifest,
)
from engine.datasets.classes import ClassSchema
from engine.datasets.copies import copies_text
from engine.datasets.description import Description
from engine.datasets.findings import Findings
from engine.datasets.formats.base import safe_stem
from engine.datasets.image_scan import Mapper
from engine.datasets.scan import Examination, Progress, examine
from engine.datasets.source import open_source, refuse_result_in
from engine.datasets.splits import SPLITS_FILE, splits_text
from engine.errors import DataError
from engine.files import publish_folder, write_text
from engine.types import SPLITS, ImageRecord

log = logging.getLogger("detectflow.data")

INCOMING = "incoming"  # copies wait here until their split is known


@dataclass(frozen=True)
class PrepareReport:
    """What was prepared and what was found. `info` is the content of dataset.json."""

    info: dict[str, Any]
    class_counts: list[
        dict[str, Any]
    ]  # {"name": class, "train": boxes, "val": boxes, "test": boxes}
    findings: Findings

    def summary(self) -> dict[str, Any]:
        """Plain JSON without times and paths. `dvc metrics` shows and compares its numbers and
        text, and passes lists over.
        """
        shown = ("name", "licence", "digest", "source_digest", "class_hash", "counts", "names")
        return {
            **{key: self.info[key] for key in shown},
            "findings": self.findings.summary(),
            "classes": self.class_counts,
        }


def prepare(
    description: Description,
    target: Path,
    settings: DataConfig,
    progress: Progress | None = None,
    schema: ClassSchema | None = None,
    mapper: Mapper | None = None,
) -> PrepareReport:
    """Make the prepared dataset `target` (layout: engine.data.manifest) and say what was found.

    Paths in the settings are relative to the current folder. progress is called now and then with
    plain values.
    schema: the classes of the project, where they are fixed. mapper: who scans the images and
    copies them, by default this process alone (`workers.LocalWorkers`: all cores); the result does
    not depend on it. Two processes with one `target` work one after the other.

    Raises:
        DataError: there is no such dataset, or findings whose policy is `error`, listed; then
            nothing is written.
        ConfigError: settings that do not fit the dataset. WorkspaceError: the disk is full, a
            folder refuses, or a worker was killed.
    """
    findings = Findings.with_policies(settings.policies)
    source = open_source(description, settings, findings, schema.names if schema else ())
    if source.folder is not None:
        refuse_result_in(source.folder, target)
    with publish_folder(target) as folder:
        copies = folder / INCOMING
        copies.mkdir()
        found = examine(
            description,
            settings,
            findings,
            copies=copies,
            source=source,
            schema=schema,
            progress=progress,
            mapper=mapper,
        )
        findings.stop_if_refused(description.name)
        if why := why_unusable(found, findings):
            raise DataError(f"dataset '{description.name}': {why}")
        records = _move(found.records, folder)
        shutil.rmtree(copies)
        info = _info(description, found, records)
        for split in SPLITS:
            write_manifest(
                folder / f"{split}.jsonl", [record for record in records if record.split == split]
            )
        write_text(
            folder / SPLITS_FILE, splits_text({record.sha256: record.split for record in records})
        )
        write_text(folder / COPIES_FILE, copies_text(found.copies))
        write_text(folder / DATASET_FILE, json.dumps(info, indent=2, ensure_ascii=False) + "\n")
    for line in findings.warnings():
        log.warning("%s: %s", description.name, line)
    return PrepareReport(info, class_counts(found.names, records), findings)


def why_unusable(found: Examination, findings: Findings) -> str:
    """Why policies left nothing, or nothing to train on; "" where they left enough."""
    if not found.usable:
        return f"no image can be used: {'; '.join(findings.warnings()) or 'the dataset holds none'}"
    if not any(record.split == "train" for record in found.records):
        return (
            f"no image of {found.usable} is left to train on, all are in val or test (an image "
            "listed for train and for val is not trained on); add images or change the splits"
        )
    return ""


# Writing ------------------------------------------------------------------------------------------


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
    """A file name for each image: its own, and where several share one, that with eight digits of
    its hash added.

    No two differ in upper and lower case only, none holds anything but letters, digits, `. _ -` and
    blanks.
    """
    plain = []
    for record in records:
        path = PurePosixPath(record.name)
        plain.append((safe_stem(path.stem), path.suffix.lower(), record.sha256[:8]))
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
    description: Description, found: Examination, records: Sequence[ImageRecord]
) -> dict[str, Any]:
    """The content of dataset.json."""
    counts = {split: {"images": 0, "boxes": 0} for split in SPLITS}
    for record in records:
        counts[record.split]["images"] += 1
        counts[record.split]["boxes"] += len(record.classes)
    return {
        "version": LAYOUT_VERSION,
        "name": description.name,
        "format": found.source.format,
        "licence": description.content.licence,
        "digest": dataset_digest(found.names, records),
        "source_digest": found.content,
        "source_layout": found.layout,
        "class_hash": class_hash(found.names),
        "splits": "given" if found.source.reader.gives_splits else "by content",
        "counts": counts,
        "names": list(found.names),
    }


def class_counts(names: Sequence[str], records: Sequence[ImageRecord]) -> list[dict[str, Any]]:
    """{"name": class, "train": boxes, "val": boxes, "test": boxes} of each class."""
    table = {split: np.zeros(len(names), np.int64) for split in SPLITS}
    for record in records:
        table[record.split] += np.bincount(record.classes, minlength=len(names))
    return [
        {"name": name, **{split: int(table[split][index]) for split in SPLITS}}
        for index, name in enumerate(names)
    ]
