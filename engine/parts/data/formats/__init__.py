"""Labelled images on disk, in the formats people have them in: one reader a format behind one interface (`base.Reader`)."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import DataError
from engine.parts.data.checks import Findings
from engine.parts.data.formats.base import Reader
from engine.parts.data.formats.coco import CocoReader, is_coco
from engine.parts.data.formats.folder import Folder
from engine.parts.data.formats.splits import GivenSplits, find_lists
from engine.parts.data.formats.voc import LISTS, VocReader, annotation_files
from engine.parts.data.formats.yolo import YoloReader, find_settings, label_files

FORMATS = ("voc", "coco", "yolo")


def detect_format(folder: Folder) -> str:
    """The format of a folder.

    Raises:
        DataError: none of them, or more than one; says what was looked for.
    """
    found = {
        "voc": len(annotation_files(folder)),
        "coco": sum(is_coco(folder, name) for name in folder.with_suffix(".json")),
        "yolo": len(label_files(folder)) or bool(find_settings(folder)),
    }
    present = [name for name in FORMATS if found[name]]
    if len(present) == 1:
        return present[0]
    if present:
        raise DataError(
            f"{folder.root}: holds annotations in {' and '.join(present)}; write a description (data/NAME.yaml) with "
            "`format:` and `path:` that says which one counts"
        )
    raise DataError(
        f"{folder.root}: no annotations found. Looked for Pascal VOC (*.xml), COCO (*.json with images and annotations) and "
        f"YOLO (data.yaml, labels/*.txt, or *.txt beside images); there are {len(folder.images)} images"
    )


def open_reader(
    folder: Folder,
    format: str | None,
    findings: Findings,
    *,
    names: tuple[str, ...] = (),
    splits: str | Mapping[str, str] = "given",
) -> Reader:
    """The reader of a folder; its format is found out where `format` is None.

    names: classes in the order of their numbers, for YOLO folders that have no names of their own.
    splits: "given": the dataset's own; "none": they do not count; or {"train": list file, ...}, relative to the folder.

    Raises:
        DataError: no, or more than one format; a folder that a format's reader can make nothing of.
    """
    format = format or detect_format(folder)
    folder.report_loops(findings)
    ignore = splits == "none"
    lists = {split: [file] for split, file in splits.items()} if isinstance(splits, Mapping) else {}
    if format == "voc":
        return VocReader(folder, GivenSplits(folder, lists or find_lists(folder, LISTS), findings, ignore=ignore), findings)
    given = GivenSplits(folder, lists, findings, ignore=ignore)
    if format == "coco":
        return CocoReader(folder, given, findings, ignore_splits=ignore)
    return YoloReader(folder, given, findings, names=names, ignore_splits=ignore)
