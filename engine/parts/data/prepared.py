"""A prepared dataset: checked images in their splits, manifests of JSON lines, one digest. What training reads.

    dataset.json                      name, class names, digests, counts
    train.jsonl, val.jsonl, test.jsonl   one image a line
    splits.jsonl                      content hash and split of every image: what data.keep_splits takes
    images/<split>/<file>             copies, byte for byte

`open_dataset` takes any kind of source and prepares it into a cache first, where that is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.config import DataConfig
from engine.errors import DataError, WorkspaceError, nearest
from engine.files import lies_in, locked, sha256_file, write_text
from engine.parts.data.classes import class_hash
from engine.parts.data.description import DATASET_FILE, Description, load_description
from engine.parts.data.fingerprint import Snapshot, recall, remember
from engine.parts.data.generated import generator_versions
from engine.types import SPLITS, ImageRecord

LAYOUT_VERSION = 1  # of the prepared folder


@dataclass(frozen=True)
class PreparedDataset:
    """A prepared folder. `counts` is {"train": {"images": n, "boxes": n}, ...}, `info` all of dataset.json."""

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
            raise DataError(f"no split '{split}'.{nearest(split, SPLITS)} Splits: {', '.join(SPLITS)}")
        return self.folder / f"{split}.jsonl"

    def records(self, split: str) -> list[ImageRecord]:
        return read_manifest(self.manifest(split))

    def require(self, *splits: str) -> None:
        """DataError if one of `splits` has no images."""
        for split in splits:
            if not self.counts[split]["images"]:
                raise DataError(
                    f"dataset '{self.name}': split {split} has no images. Next: add images to it, or let the pipeline take some "
                    "from train: detectflow run -S data.policies.empty_split=fix"
                )


def dataset_digest(names: Sequence[str], records: Iterable[ImageRecord]) -> str:
    """64 hex digits over what training sees: classes, images (content, split, size), boxes; not names, paths or order."""
    entries = []
    for record in records:
        crowd = [False] * len(record.classes) if record.crowd is None else record.crowd.tolist()
        rows = sorted(zip(record.classes.tolist(), record.boxes.tolist(), crowd, strict=True))
        entries.append(json.dumps([record.sha256, record.split, list(record.size), rows]))
    text = "\n".join([json.dumps(list(names), ensure_ascii=False), *sorted(entries)])
    return hashlib.sha256(text.encode()).hexdigest()


# Manifests --------------------------------------------------------------------------------------------------------


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
        raise DataError(f"{path}: no such manifest; prepare the dataset first (detectflow run)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: manifest cannot be read ({error}); prepare the dataset again") from None
    records = []
    for number, line in enumerate(lines, 1):
        if line:
            try:
                records.append(_record(json.loads(line), path))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError(f"{path}, line {number}: damaged ({error!r}); prepare the dataset again") from None
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
        raise DataError(f"{folder}: no prepared dataset ({DATASET_FILE} is missing); {again}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: damaged ({error}); {again}") from None
    if not isinstance(info, dict) or info.get("version") != LAYOUT_VERSION:
        raise DataError(f"{file}: not a prepared dataset of this version; {again}")
    try:
        dataset = PreparedDataset(
            folder, info["name"], tuple(info["names"]), info["digest"], info["class_hash"], info["counts"], info
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"{file}: damaged ({error!r}); {again}") from None
    missing = [split for split in SPLITS if not dataset.manifest(split).is_file()]
    if missing or class_hash(dataset.names) != dataset.class_hash:
        what = f"{missing[0]}.jsonl is missing" if missing else "its class names were edited"
        raise DataError(f"{folder}: {what}; {again}")
    return dataset


# Any source -------------------------------------------------------------------------------------------------------


def default_cache_dir() -> Path:
    """The project's .cache/ (the environment knows the project), or one in the current folder."""
    return Path(os.environ.get("DETECTFLOW_STATE", ".")) / ".cache"


def refuse_result_in(folder: Path, target: Path) -> None:
    """DataError where `target`, which is to be written, lies in the dataset `folder`."""
    if lies_in(target, folder):
        raise DataError(
            f"{folder}: holds {target}, where the result would go; give the folder of the images alone, or start elsewhere"
        )


def open_dataset(source: str | Path, cache_dir: Path | None = None) -> PreparedDataset:
    """Open a prepared folder, a description (.yaml) or a folder of labelled images.

    The last two are prepared into `cache_dir`/datasets/ once, with default settings, and found again while the content of
    the source, its description and the code that prepares are the same. A folder there never changes: who works with it
    keeps it, whatever happens to the source. Several processes may call this at once; one prepares, the others wait.
    A split may be empty here, for example test of a set to train on: who needs images of one says so (`require`).

    Raises:
        DataError, ConfigError: there is no such dataset, or it cannot be used as it is.
    """
    source = Path(source)
    if (source / DATASET_FILE).is_file():
        return load_prepared(source)
    description = load_description(source)
    cache = (cache_dir or default_cache_dir()) / "datasets"
    settings = DataConfig(source=str(source), policies={"empty_split": "warn"})
    key = _cache_key(description, settings)
    index = cache / f"{key}.json"
    if folder := description.local_folder(settings):
        refuse_result_in(folder, cache)
    with locked(cache / f".{key}.lock"):
        found = _find_entry(index, cache, description, settings)
        return found or _make_entry(index, cache, description, settings)


def _cache_key(description: Description, settings: DataConfig) -> str:
    """Everything a prepared dataset depends on, except what lies in the source folder."""
    folder = description.local_folder(settings)
    code = [sha256_file(file) for file in sorted(Path(__file__).parent.rglob("*.py"))]
    parts = [
        LAYOUT_VERSION,
        description.content.model_dump(mode="json"),
        settings.model_dump(mode="json", exclude={"source"}),
        os.path.abspath(folder) if folder else None,
        generator_versions(description.content.generator) if description.generated else None,
        code,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _find_entry(index: Path, cache: Path, description: Description, settings: DataConfig) -> PreparedDataset | None:
    """The prepared folder that the index knows, if the source is unchanged and the folder whole."""
    folder = description.local_folder(settings)
    if folder is not None:
        noted = recall(index, folder)
    else:  # generated, or a download pinned by its digest: the key says it all
        try:
            noted = json.loads(index.read_text(encoding="utf-8"))["value"]
        except (OSError, ValueError, KeyError, TypeError):
            noted = None
    if not isinstance(noted, dict) or not isinstance(noted.get("entry"), str):
        return None
    return _whole(cache / noted["entry"])


def _whole(entry: Path) -> PreparedDataset | None:
    """The prepared folder, if nothing of it was deleted."""
    with contextlib.suppress(DataError, OSError):
        dataset = load_prepared(entry)
        if all(_count_files(dataset.folder / "images" / split) == dataset.counts[split]["images"] for split in SPLITS):
            return dataset
    return None


def _count_files(folder: Path) -> int:
    return sum(1 for _ in os.scandir(folder)) if folder.is_dir() else 0


def _make_entry(index: Path, cache: Path, description: Description, settings: DataConfig) -> PreparedDataset:
    from engine.parts.data.prepare import prepare  # prepares with the functions above
    from engine.parts.data.workers import LocalWorkers

    folder = description.local_folder(settings)
    before = Snapshot.of(folder) if folder is not None and folder.is_dir() else Snapshot("", 0, 0)
    building = cache / f"building-{index.stem}"
    report = prepare(description, building, settings, mapper=LocalWorkers())
    entry = cache / f"{index.stem}-{report.info['source_digest'][:12]}{report.info['source_layout'][:4]}"
    try:
        if _whole(entry) is None:
            shutil.rmtree(entry, ignore_errors=True)
            os.replace(building, entry)
        else:  # the same content, perhaps in use
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise WorkspaceError(f"{entry}: cannot be written ({error.strerror}); free space, or use another folder") from None
    remember(index, before, {"entry": entry.name})
    return load_prepared(entry)
