"""A model is asked about a labelled dataset and about a folder without labels; tasks come of it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from engine.comparison.measure import measure
from engine.comparison.models import Model
from engine.config import ValidateConfig
from engine.data.manifest import PreparedDataset
from engine.detect.predictor import DetectionPredictor
from engine.detect.results import Box, Results
from engine.detect.sources import IMAGE_SUFFIXES
from engine.error_analysis.pair import best_confidence
from engine.errors import ConfigError, DataError
from engine.files import sha256_file
from engine.labelling.choice import LEAST_SCORE, choose, features, uncertainty
from engine.labelling.relabel import relabel_tasks
from engine.labelling.task import Task, TaskBox, can_be_seen
from engine.types import SPLITS

log = logging.getLogger("detectflow")

SHOWN_SCORE = 0.25  # of a detection that is worth correcting, where no labels say a better one


def tasks_of_labelled(
    model: Model,
    data: PreparedDataset,
    splits: Sequence[str],
    settings: ValidateConfig,
    number: int,
    cache: Path | None = None,
) -> tuple[list[Task], float]:
    """At most `number` labelled images to look at again, and the confidence where the model's mean
    F1 is best on them.

    splits: those that are looked through; empty ones are passed over. cache: as for `measure`.

    Raises:
        DataError: no images in any of them, or no class that model and data have in common.
    """
    samples, records = [], []
    for split in splits:
        if data.counts[split]["images"]:
            of_split = settings.with_overrides({"split": split, "plots": False}, "tasks")
            samples += measure(model, data, of_split, cache).samples
            records += data.records(split)
    if not samples:
        raise DataError(f"{data.folder}: no images in {' or '.join(splits)}; choose another split=")
    confidence = best_confidence(samples, len(data.names))
    return relabel_tasks(samples, records, data.names, confidence, number), confidence


def tasks_of_folder(
    model: Model,
    folder: Path,
    device: str,
    number: int,
    known: Collection[str] = (),
    least_score: float = SHOWN_SCORE,
) -> tuple[list[Task], tuple[str, ...], int]:
    """At most `number` images of a folder, and of the folders in it, that are worth labelling; the
    classes of the model; how many images are in the dataset already, and left out.

    known: SHA-256 of the images of the dataset. least_score: of the boxes to begin with.

    Raises:
        DataError, ConfigError: no such folder, or no image in it.
    """
    if model.predictions:
        raise ConfigError(
            f"{model.name}: predictions say nothing about new images. Give model=, a file or a "
            "registered model"
        )
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give unlabelled=, a folder of images")
    files = _images_below(folder)
    if not files:
        raise DataError(
            f"{folder}: no image in it. Looked for {', '.join(sorted(IMAGE_SUFFIXES))}, in its "
            "folders too"
        )
    predictor = DetectionPredictor(
        {"model": str(model.file), "device": device, "conf": LEAST_SCORE, "save": False}
    )
    results: list[Results] = []
    shas, described = [], []
    in_dataset = 0
    for result in predictor([str(file) for file in files], stream=True):
        sha256 = sha256_file(result.path)
        if sha256 in known or sha256 in shas:
            in_dataset += sha256 in known
            continue
        described.append(features(result.image))
        shas.append(sha256)
        results.append(result)
    bits = [uncertainty(result.scores) for result in results]
    names = tuple(results[0].names.values()) if results else ()
    tasks = []
    for index in choose(bits, np.array(described).reshape(len(results), -1), number):
        result = results[index]
        boxes = (_box(each) for each in result if each.score >= least_score)
        kept = tuple(each for each in boxes if can_be_seen(each.box))
        doubtful = int((result.scores >= LEAST_SCORE).sum())
        tasks.append(
            Task(
                Path(result.path).resolve(),
                Path(result.path).relative_to(folder).as_posix()
                if Path(result.path).is_relative_to(folder)
                else Path(result.path).name,
                shas[index],
                result.size,
                "uncertain",
                round(bits[index], 4),
                f"{bits[index]:.1f} bits in {doubtful} detections",
                found=kept,
                suggested=kept,
            )
        )
    return tasks, names, in_dataset


def _images_below(folder: Path) -> list[Path]:
    """Image files, in the order of their paths, without hidden ones. Videos are none: an annotation
    tool wants a file for each image.
    """
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _box(each: Box) -> TaskBox:
    return TaskBox(each.name, tuple(map(float, each.xyxy)), float(each.score))


def splits_of(text: str) -> tuple[str, ...]:
    """`all`, or one split. ConfigError for anything else."""
    if text == "all":
        return SPLITS
    if text not in SPLITS:
        raise ConfigError(f"tasks: split={text}: expected all, {', '.join(SPLITS)}")
    return (text,)
