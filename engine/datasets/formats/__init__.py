"""Labelled images on disk, in the formats people have them in: one reader a format behind one
interface (`base.Reader`).
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.datasets.findings import Findings
from engine.datasets.formats.base import Reader
from engine.datasets.formats.coco import CocoReader, is_coco
from engine.datasets.formats.cvat import CvatReader, is_cvat
from engine.datasets.formats.folder import Folder
from engine.datasets.formats.given_splits import GivenSplits, find_lists
from engine.datasets.formats.labelstudio import LabelStudioReader, is_label_studio
from engine.datasets.formats.voc import LISTS, VocReader, annotation_files
from engine.datasets.formats.yolo import YoloReader, label_files
from engine.datasets.formats.yolo_yaml import YoloSettings, find_settings
from engine.errors import DataError

FORMATS = ("voc", "coco", "yolo", "cvat", "labelstudio")


def detect_format(folder: Folder) -> str:
    """The format of a folder.

    Raises:
        DataError: none of them, or more than one; says what was looked for.
    """
    cvat = {name for name in folder.with_suffix(".xml") if is_cvat(folder, name)}
    found = {
        "voc": any(name not in cvat for name in annotation_files(folder)),
        "coco": any(is_coco(folder, name) for name in folder.with_suffix(".json")),
        "yolo": bool(label_files(folder) or find_settings(folder).content),
        "cvat": bool(cvat),
        "labelstudio": any(is_label_studio(folder, name) for name in folder.with_suffix(".json")),
    }
    present = [name for name in FORMATS if found[name]]
    if len(present) == 1:
        return present[0]
    if present:
        raise DataError(
            f"{folder.root}: holds annotations in {' and '.join(present)}; write a description "
            "(data/NAME.yaml) with `format:` and `path:` that says which one counts"
        )
    raise DataError(
        f"{folder.root}: no annotations found. Looked for Pascal VOC (*.xml), CVAT "
        "(annotations.xml), COCO (*.json with images and annotations), Label Studio (*.json with "
        "a list of tasks) and YOLO (data.yaml, labels/*.txt, or *.txt beside images); there are "
        f"{len(folder.images)} images"
    )


def open_reader(
    folder: Folder,
    format: str | None,
    findings: Findings,
    *,
    names: tuple[str, ...] = (),
    splits: str | Mapping[str, str] = "given",
    yolo: YoloSettings | None = None,
) -> Reader:
    """The reader of a folder; its format is found out where `format` is None.

    names: classes in the order of their numbers, for YOLO folders that have no names of their own.
    splits: "given": the dataset's own; "none": they do not count; or {"train": list file, ...},
    relative to the folder.
    yolo: a data.yaml that was given as the dataset, in place of the one in the folder.

    Raises:
        DataError: no, or more than one format; a folder that a format's reader can make nothing of.
    """
    format = format or detect_format(folder)
    folder.report_links(findings)
    ignore = splits == "none"
    lists = {split: [file] for split, file in splits.items()} if isinstance(splits, Mapping) else {}
    if format == "voc":
        return VocReader(
            folder,
            GivenSplits(folder, lists or find_lists(folder, LISTS), findings, ignore=ignore),
            findings,
        )
    given = GivenSplits(folder, lists, findings, ignore=ignore)
    if format == "coco":
        return CocoReader(folder, given, findings, ignore_splits=ignore)
    if format == "cvat":
        return CvatReader(folder, given, findings, ignore_splits=ignore)
    if format == "labelstudio":
        return LabelStudioReader(folder, given, findings)
    return YoloReader(folder, given, findings, names=names, ignore_splits=ignore, settings=yolo)
