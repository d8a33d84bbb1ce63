"""A prepared dataset: checked images in their splits, manifests of JSON lines, one digest. What
training reads.

    dataset.json                      name, class names, digests, counts
    train.jsonl, val.jsonl, test.jsonl   one image a line
    splits.jsonl                      content hash and split of every image: what data.keep_splits
                                      takes
    copies.jsonl                      images of val and test with a copy in train
    images/<split>/<file>             copies, byte for byte

`open_dataset` takes any kind of source and prepares it into a cache first, where that is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError, nearest
from engine.files import write_text
from engine.types import SPLITS, ImageRecord

COPIES_FILE = "copies.jsonl"  # one image of val or test with a copy in train a line
DATASET_FILE = "dataset.json"  # marks a prepared dataset

LAYOUT_VERSION = 1  # of the prepared folder


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared folder. `counts` is {"train": {"images": n, "boxes": n}, ...}, `info` all of
    dataset.json.
    """

    folder: Path
    name: str
    names: tuple[str, ...]
    digest: str
    class_hash: str
    counts: Mapping[str, Mapping[str, int]]
    info: Mapping[str, Any]

    def manifest(self, split: str) -> Path:
        """The file that lists the images of `split`. DataError for an unknown split."""
        if split not in SPLITS:
            raise DataError(
                f"no split '{split}'.{nearest(split, SPLITS)} Splits: {', '.join(SPLITS)}"
            )
        return self.folder / f"{split}.jsonl"

    def records(self, split: str) -> list[ImageRecord]:
        return read_manifest(self.manifest(split))

    def require(self, *splits: str) -> None:
        """DataError if one of `splits` has no images."""
        for split in splits:
            if not self.counts[split]["images"]:
                raise DataError(
                    f"dataset '{self.name}': split {split} has no images. Next: add images to it, "
                    "or let the pipeline take some from train: detectflow run -S "
                    "data.policies.empty_split=fix"
                )


def dataset_digest(names: Sequence[str], records: Iterable[ImageRecord]) -> str:
    """64 hex digits over what training sees: classes, images (content, split, size), boxes; not
    names, paths or order.
    """
    entries = []
    for record in records:
        crowd = [False] * len(record.classes) if record.crowd is None else record.crowd.tolist()
        rows = sorted(zip(record.classes.tolist(), record.boxes.tolist(), crowd, strict=True))
        entries.append(json.dumps([record.sha256, record.split, list(record.size), rows]))
    text = "\n".join([json.dumps(list(names), ensure_ascii=False), *sorted(entries)])
    return hashlib.sha256(text.encode()).hexdigest()


# Manifests ----------------------------------------------------------------------------------------


def write_manifest(path: Path, records: Iterable[ImageRecord]) -> None:
    """One image a line, in the given order; image paths relative to the manifest."""
    write_text(path, "".join(_line(record, path.parent) + "\n" for record in records))


def _line(record: ImageRecord, folder: Path) -> str:
    values: dict[str, Any] = {
        "image": record.file.relative_to(folder).as_posix(),
        "sha256": record.sha256,
        "size": list(record.size),
        "boxes": record.boxes.tolist(),
        "classes": record.classes.tolist(),
    }
    if record.crowd is not None and record.crowd.any():
        values["crowd"] = record.crowd.astype(int).tolist()
    if record.group:
        values["group"] = record.group
    if record.meta:
        values["meta"] = dict(record.meta)
    values["name"] = record.name
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def read_manifest(path: str | Path) -> list[ImageRecord]:
    """The records of a manifest, files as absolute paths.

    Raises:
        DataError: it is missing, or a line is damaged; names the line.
    """
    path = Path(os.path.abspath(path))
    try:
        # No splitlines(): a name may hold one of the rarer line ends of Unicode.
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such manifest; prepare the dataset first (detectflow run)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: manifest cannot be read ({error}); prepare the dataset again"
        ) from None
    records = []
    for number, line in enumerate(lines, 1):
        if line:
            try:
                records.append(_record(json.loads(line), path))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{path}, line {number}: damaged ({error!r}); prepare the dataset again"
                ) from None
    return records


def _record(values: dict[str, Any], manifest: Path) -> ImageRecord:
    image, size = values["image"], values["size"]
    if image.startswith("/") or ".." in image.split("/"):
        raise ValueError(f"{image} leaves the dataset folder")
    boxes = np.array(values["boxes"], np.float64).reshape(-1, 4)
    classes = np.array(values["classes"], np.int64)
    crowd = np.array(values["crowd"], bool) if "crowd" in values else None
    if not (len(boxes) == len(classes) == (len(classes) if crowd is None else len(crowd))):
        raise ValueError(f"{len(boxes)} boxes and {len(classes)} classes")
    return ImageRecord(
        file=manifest.parent / image,
        sha256=values["sha256"],
        size=(int(size[0]), int(size[1])),
        boxes=boxes,
        classes=classes,
        split=manifest.stem if manifest.stem in SPLITS else "",
        group=values.get("group", ""),
        crowd=crowd,
        name=values.get("name", ""),
        meta=values.get("meta", {}),
    )


def load_prepared(folder: str | Path) -> PreparedDataset:
    """Open a prepared folder.

    Raises:
        DataError: it is none, an incomplete one, or one of another version; says what to run.
    """
    folder = Path(os.path.abspath(folder))
    file = folder / DATASET_FILE
    again = "prepare the dataset again (detectflow run)"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder}: no prepared dataset ({DATASET_FILE} is missing); {again}"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: damaged ({error}); {again}") from None
    if not isinstance(info, dict) or info.get("version") != LAYOUT_VERSION:
        raise DataError(f"{file}: not a prepared dataset of this version; {again}")
    try:
        dataset = PreparedDataset(
            folder,
            info["name"],
            tuple(info["names"]),
            info["digest"],
            info["class_hash"],
            info["counts"],
            info,
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error!r}); {again}") from None
    missing = [split for split in SPLITS if not dataset.manifest(split).is_file()]
    if missing or class_hash(dataset.names) != dataset.class_hash:
        what = f"{missing[0]}.jsonl is missing" if missing else "its class names were edited"
        raise DataError(f"{folder}: {what}; {again}")
    return dataset


# Any source ---------------------------------------------------------------------------------------


def class_hash(names: Iterable[str]) -> str:
    """16 hex digits that change with any name and with their order: models and data of one hash
    mean the same classes.
    """
    return hashlib.sha256(json.dumps(list(names), ensure_ascii=False).encode()).hexdigest()[:16]
