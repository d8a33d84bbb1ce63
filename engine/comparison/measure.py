"""What a model finds in the images of one split, as a table of matches. Kept by what it depends on
(model, images and boxes, settings, our code), so that asking again costs nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.code.closure import Sources
from engine.code.rooms import code_of_stage, package_folder
from engine.comparison.models import Model
from engine.config import ValidateConfig
from engine.data.manifest import PreparedDataset
from engine.detect.validator import DetectionValidator, validator_class_of
from engine.errors import DataError
from engine.files import atomic_write, make_folder, sha256_file, write_text
from engine.metrics import DetectionMetrics, MatchTable
from engine.metrics.collector import pack, unpack
from engine.metrics.image_matches import Sample
from engine.types import Detections, ImageRecord

log = logging.getLogger("detectflow")

CACHE = Path(".cache/measured")
FILES = ("matches.npz", "detections.npz")
SETTINGS = ("conf", "iou", "max_det")  # of which the result depends; the same for both models


@dataclass(frozen=True, eq=False)
class Measured:
    """A model on a split. The images of `table` are named by `key_of`."""

    model: Model
    names: tuple[str, ...]  # the classes that the model knows, by the names of the data
    table: MatchTable  # of the classes of the data
    input_size: tuple[int, int] | None
    samples: tuple[Sample, ...]  # truth and detections of each image, in the order of `table`


def key_of(record: ImageRecord) -> str:
    """Who an image is, on any machine: its content and name."""
    return f"{record.sha256} {record.name or record.file.name}"


def measure(
    model: Model,
    data: PreparedDataset,
    settings: ValidateConfig,
    cache: Path | None = None,
    on_start: Callable[[DetectionValidator], None] = lambda validator: None,
) -> Measured:
    """Run the model on `settings.split`, or take what was found when it last ran.

    cache: the folder of a workspace that keeps results; None: nothing is kept. on_start: gets the
    validator, for a progress bar.

    Raises:
        DataError: no images in the split, or none of the model's classes in the data.
        CheckpointError: a model file that cannot be read.
    """
    records = data.records(settings.split)
    if not records:
        raise DataError(
            f"{data.folder}: no images in the split '{settings.split}', so nothing can be compared "
            "on it. Add images to it, or choose another: split=val"
        )
    if model.predictions:
        return _of_predictions(model, data, records)
    kept = None if cache is None else cache / CACHE / _key(model, data, settings)
    if kept is not None and (found := _kept(kept, model, records)) is not None:
        return found
    validator = validator_class_of(model.file)(config=settings, by_name=True)
    on_start(validator)
    validator(model=model.file, data=data.folder)
    table = replace(validator.match_table(), images=tuple(sorted(map(key_of, records))))
    samples = tuple(validator.samples())
    measured = Measured(model, validator.model_names, table, validator.input_size, samples)
    if kept is not None:
        _keep(kept, measured)
    return measured


def _key(model: Model, data: PreparedDataset, settings: ValidateConfig) -> str:
    values = {
        "model": model.digest,
        "split": sha256_file(data.manifest(settings.split)),
        "names": list(data.names),
        "settings": {name: getattr(settings, name) for name in SETTINGS},
        "code": _own_code(),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


@functools.cache
def _own_code() -> dict[str, str]:
    """What the code does that measures: it does not change while a process runs."""
    return code_of_stage("validate", Sources.below(package_folder()))


def _kept(folder: Path, model: Model, records: Sequence[ImageRecord]) -> Measured | None:
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if about["files"] != {name: sha256_file(folder / name) for name in FILES}:
            return None
        table = MatchTable.load(folder / "matches.npz")
        size = about["input_size"]
        names = tuple(about["names"])
        with np.load(folder / "detections.npz", allow_pickle=False) as arrays:
            samples = unpack({key.removeprefix("sample_"): arrays[key] for key in arrays})
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
    if len(table.images) != len(records):
        return None
    file_of = {key_of(record): str(record.file) for record in records}  # may lie elsewhere today
    here = tuple(replace(s, file=file_of.get(" ".join(s.key), s.file)) for s in samples)
    return Measured(model, names, table, tuple(size) if size else None, here)


def _keep(folder: Path, measured: Measured) -> None:
    make_folder(folder)
    measured.table.save(folder / "matches.npz")
    with atomic_write(folder / "detections.npz") as stream:
        # "file" is numpy's own word
        arrays = {f"sample_{key}": values for key, values in pack(measured.samples).items()}
        np.savez_compressed(stream, **arrays)
    about = {
        "model": measured.model.name,
        "names": list(measured.names),
        "input_size": list(measured.input_size) if measured.input_size else None,
        "files": {name: sha256_file(folder / name) for name in FILES},
    }
    write_text(folder / "about.json", json.dumps(about, ensure_ascii=False, indent=1) + "\n")


# Predictions of other tools -----------------------------------------------------------------------


def _of_predictions(
    model: Model, data: PreparedDataset, records: Sequence[ImageRecord]
) -> Measured:
    images, boxes, categories = _coco(model)
    of_image = _images_of(records, images, model)
    classes = _classes_of(boxes, categories, data, model)
    found: dict[int, list[tuple[list[float], float, int]]] = {}
    strangers = 0
    for row in boxes:
        index = of_image.get(row.get("image_id"))
        c = classes.get(row.get("category_id"))
        if index is None:
            strangers += 1
        elif c is not None:
            x, y, w, h = row["bbox"]
            found.setdefault(index, []).append(([x, y, x + w, y + h], row["score"], c))
    if boxes and strangers == len(boxes):
        raise DataError(
            f"{model.file}: none of its image_ids is an image of the split. An image_id is the "
            "image's file name, the number in it, or the id of a list `images` in the same file."
        )
    if strangers:
        log.warning(
            "%s: %d of %d boxes are of other images, and left out",
            model.file,
            strangers,
            len(boxes),
        )
    metrics = DetectionMetrics(data.names)
    for index, record in enumerate(records):
        mine = sorted(found.get(index, ()), key=lambda each: -each[1])
        metrics.update(
            Detections(
                np.array([each[0] for each in mine], np.float64).reshape(-1, 4),
                np.array([each[1] for each in mine], np.float64),
                np.array([each[2] for each in mine], np.int64),
            ),
            record,
        )
    table = replace(metrics.match_table(), images=tuple(sorted(map(key_of, records))))
    known = tuple(data.names[c] for c in sorted(set(classes.values())))
    return Measured(model, known, table, None, tuple(metrics.samples()))


def _coco(
    model: Model,
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Images, boxes and categories of a results list, or of a whole COCO file with scores."""
    try:
        content = json.loads(model.file.read_text(encoding="utf-8"))
        whole = isinstance(content, dict)
        boxes = list(content.get("annotations", ()) if whole else content)
        images, categories = (list(content.get(key, ())) if whole else [] for key in _LISTS)
        for number, row in enumerate(boxes):
            x, y, w, h = row["bbox"]
            named = (row.get("image_id"), row.get("category_id"))
            if not all(np.isfinite([x, y, w, h, row["score"]])) or not all(
                isinstance(each, int | str) for each in named
            ):
                raise DataError(f"{model.file}: box {number} is not complete: {row}")
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise DataError(
            f"{model.file}: no predictions in COCO's format ({error!r}): a list of "
            '{"image_id": ..., "category_id": ..., "bbox": [x, y, width, height], "score": ...}'
        ) from None
    return images, boxes, categories


_LISTS = ("images", "categories")


def _images_of(
    records: Sequence[ImageRecord], images: Sequence[Mapping[str, Any]], model: Model
) -> dict[Any, int]:
    """image_id -> index of the record."""
    places: dict[Any, int] = {}
    for index, record in enumerate(records):
        path = Path(record.name or record.file.name)
        for name in (record.name, path.name, path.stem, record.file.name):
            if name and places.setdefault(name, index) != index:
                places[name] = -1  # two images of this name
    for name in [n for n, index in places.items() if index >= 0 and n.isdecimal()]:
        places.setdefault(int(name), places[name])
    known = {name: index for name, index in places.items() if index >= 0}
    if not images:
        return known
    of_id = {}
    for image in images:
        name = str(image.get("file_name", ""))
        index = known.get(name, known.get(Path(name).name))
        if index is not None:
            of_id[image.get("id")] = index
    return of_id


def _classes_of(
    boxes: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]],
    data: PreparedDataset,
    model: Model,
) -> dict[Any, int]:
    """category_id -> class of the data: by name where the file has categories, or says names; else
    numbers from 0 where one is 0, or from 1 where one is the number of classes.
    """
    place = {name: c for c, name in enumerate(data.names)}
    used = {row.get("category_id") for row in boxes}
    if categories:
        named = {each.get("id"): each.get("name") for each in categories}
        found = {key: place[name] for key, name in named.items() if name in place}
    elif all(isinstance(key, str) for key in used):
        found = {key: place[key] for key in used if key in place}
    else:
        numbers = {key for key in used if isinstance(key, int)}
        first = 1 if numbers and max(numbers) == len(data.names) else 0
        if numbers and 0 not in numbers and not first:
            raise DataError(
                f"{model.file}: category_id goes from {min(numbers)} to {max(numbers)}, with "
                f"neither 0 nor {len(data.names)}: whether classes count from 0 or from 1 cannot "
                "be told. "
                "Give the file a list `categories` with id and name."
            )
        found = {c + first: c for c in range(len(data.names))}
        if outside := sorted(numbers - found.keys()):
            raise DataError(
                f"{model.file}: category_id {outside[0]} is no class of the data, which has "
                f"{len(data.names)}. Give the file a list `categories` with id and name."
            )
    if boxes and not used & found.keys():
        raise DataError(
            f"{model.file}: none of its categories is a class of the data "
            f"({', '.join(data.names)})."
        )
    return found
