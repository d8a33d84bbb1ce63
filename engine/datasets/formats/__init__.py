"""Labelled images on disk, in the formats people have them in: one file a format, each ending with
its `KIND`.

A new format is one file and its entry in `KINDS`; detection, `format:` in a description, `convert`,
help, documentation and errors follow from the table. Readers decode no image and write nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.datasets.findings import Findings
from engine.datasets.formats import coco, cvat, labelme, labelstudio, voc, yolo
from engine.datasets.formats.base import Reader
from engine.datasets.formats.folder import Folder
from engine.datasets.formats.kinds import ReaderKind, ReadRequest
from engine.datasets.formats.others import recognised
from engine.datasets.formats.yolo_yaml import YoloSettings
from engine.errors import DataError, nearest

KINDS: dict[str, ReaderKind] = {
    kind.name: kind
    for kind in (voc.KIND, coco.KIND, yolo.KIND, cvat.KIND, labelstudio.KIND, labelme.KIND)
}


def writable() -> list[str]:
    """The names of the formats that can be written."""
    return [kind.name for kind in KINDS.values() if kind.write is not None]


def detect_format(folder: Folder) -> str:
    """The format of a folder.

    Raises:
        DataError: none of them, or more than one; says what was looked for.
    """
    present = [kind.name for kind in KINDS.values() if kind.detect(folder)]
    if len(present) == 1:
        return present[0]
    if present:
        found = "; ".join(f"{KINDS[name].title}: {KINDS[name].looks_for}" for name in present)
        raise DataError(
            f"{folder.root}: holds annotations in {' and '.join(present)}; write a description, "
            f"data/NAME.yaml, that says which one counts, `format: {present[0]}` (or "
            f"{' or '.join(present[1:])}) and `path: {folder.root}`, and give that as the dataset. "
            f"They were known by {found}"
        )
    if other := recognised(folder):
        raise DataError(f"{folder.root}: annotations in a format that is not read. {other}")
    if folder.images:
        raise DataError(
            f"{folder.root}: {len(folder.images)} images, and no annotations found. Draw boxes "
            "with labelme, CVAT or Label Studio (free; their exports are read as they are). If "
            f"there are labels already, they are in none of these formats: {_all_formats()}"
        )
    raise DataError(
        f"{folder.root}: no annotations found. Looked for {_all_formats()}; there are no images"
    )


def _all_formats() -> str:
    return ", ".join(f"{kind.title} ({kind.looks_for})" for kind in KINDS.values())


def open_reader(
    folder: Folder,
    format: str | None,
    findings: Findings,
    *,
    names: tuple[str, ...] = (),
    splits: str | Mapping[str, str] = "given",
    yolo: YoloSettings | None = None,
) -> Reader:
    """The reader of a folder; its format is detected where `format` is None.

    names: classes in the order of their numbers, for YOLO folders that have no names of their own.
    splits: "given": the dataset's own; "none": they do not count; or {"train": list file, ...},
    relative to the folder.
    yolo: a data.yaml that was given as the dataset, in place of the one in the folder.

    Raises:
        DataError: no, or more than one format, or an unknown one; a folder that a format's reader
            can make nothing of.
    """
    kind = KINDS.get(format or detect_format(folder))
    if kind is None:
        raise DataError(
            f"no annotation format '{format}'.{nearest(format, KINDS)} There are: "
            f"{', '.join(KINDS)}"
        )
    folder.report_links(findings)
    lists = {split: [file] for split, file in splits.items()} if isinstance(splits, Mapping) else {}
    return kind.open(
        ReadRequest(
            folder,
            findings,
            names=names,
            lists=lists,
            ignore_splits=splits == "none",
            yolo=yolo,
        )
    )
