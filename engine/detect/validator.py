"""Validation of a detector: COCO AP, precision and recall at the best F1, the same inside training
and alone.

Alone it takes a weight file or an exported one and a dataset; inside training the trainer hands it
loader and model. Tables and plots are written for final metrics only, into `save_dir` where
there is one; `matches.npz` among them (`MatchTable`) is what AP of any choice of the images follows
from.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.config import ValidateConfig
from engine.core.distributed import World, select_device, world_from_environment
from engine.core.old_names import OldName
from engine.core.validator import BaseValidator
from engine.data.dataset import DetectionDataset
from engine.data.loader import build_loader
from engine.data.transforms import to_original
from engine.detect.batch_plots import plot_batch, plot_found
from engine.detect.batches import file_of, record_of, to_device
from engine.detect.candidates import read_candidates
from engine.detect.data import open_data
from engine.detect.model_io import is_weight_file, load_model, read_weights
from engine.detect.operating_point import point_in
from engine.detect.runtime import RuntimeModule, load_runtime
from engine.errors import ConfigError, DataError, EngineError
from engine.files import atomic_write, make_folder
from engine.metrics import DetectionMetrics, DetectionScores, MatchTable
from engine.metrics.confusion import confusion_rows
from engine.metrics.image_matches import Sample
from engine.metrics.operating_point import OperatingPoint
from engine.metrics.reported import headline_keys, metric_keys
from engine.models.nms import nms, warm_up
from engine.models.registry import Family, check_candidates, family_named
from engine.types import SPLITS, Detections, ImageRecord, Size

log = logging.getLogger("detectflow")

PLOTTED_BATCHES = 3

Found = tuple[
    np.ndarray, np.ndarray, np.ndarray
]  # boxes (K, 4) xyxy px of the input, scores (K,), classes (K,)


class DetectionValidator(BaseValidator):
    """Measure a detector.

    `DetectionValidator(overrides={"split": "test"})(model="weights/best.pt", data="data/prepared")`
    -> metrics by name.

    Args:
        config: settings, or `overrides` by name.
        save_dir: where tables and plots of final metrics go; None: nowhere.
        loader, names, device, world: from a trainer; else made from the model and the dataset of
            the call.
        by_name: a model file may know other classes than the data, or in another order: its boxes
            are taken by the names of their classes, and those of a class that the data have not
            are left out.
    """

    metric_names = metric_keys()
    epoch_figures = OldName("`epoch_metrics`")

    def __init__(
        self,
        config: ValidateConfig | None = None,
        save_dir: Path | str | None = None,
        loader: Any = None,
        names: tuple[str, ...] = (),
        device: torch.device | None = None,
        world: World | None = None,
        overrides: dict[str, Any] | None = None,
        by_name: bool = False,
    ):
        self.config = config if config is not None else ValidateConfig.build(overrides, "validate")
        world = world if world is not None else world_from_environment()
        super().__init__(
            loader,
            device if device is not None else select_device(self.config.device, world),
            world,
        )
        self.save_dir = Path(save_dir) if save_dir is not None else None
        self.names = names  # of the metrics
        self.by_name = by_name
        self.model_names: tuple[str, ...] = ()  # of a model file, where they are others
        self.input_size: Size | None = None  # of a model file
        # what the model's output means; None: boxes and scores, as exported files give them
        self.family: Family | None = None
        self.needs_nms = True  # of such a file
        # of an epoch's line in results.csv; a trainer adds the one it monitors
        self.epoch_metrics = headline_keys()
        # of the last validation: curves, confusion, per class, per image
        self.scores: DetectionScores | None = None
        self._collected = DetectionMetrics(names)  # of this rank
        self._merged = self._collected  # of all ranks
        self._table: MatchTable | None = None  # of `_merged`, where it was asked for
        self._said_empty = False
        # of a model file: from which scores on it reports; metrics do not depend on it
        self.operating_point: OperatingPoint | None = None
        self._records: dict[str, ImageRecord] = {}
        self._final = False
        self._single_cls = False  # the weights were trained with every class as one
        self._batches = 0

    def __call__(
        self,
        model: nn.Module | str | Path | None = None,
        trainer: Any = None,
        final: bool = False,
        data: str | Path | None = None,
    ) -> dict[str, float | None]:
        """Metrics by name, None where the images have nothing to say them about.

        model: a module, a weight file or an exported one; inside training the trainer's averaged
        weights. data: a prepared folder, a dataset description or a folder of labelled images;
        needed with a file.

        Raises:
            CheckpointError: weights that cannot be read. DataError: no images in the split, classes
                that differ.
        """
        imgsz: Size | None = None
        if model is None and trainer is None:
            raise ConfigError("nothing to validate: give model=, a weight file or an exported one")
        if isinstance(model, (str, Path)):
            model, imgsz = self._load(Path(model))
            self.model_names, self.input_size = self.names, imgsz
        if data is not None:
            self.loader = self._open(data, imgsz or (640, 640))
        if self.loader is None:
            raise DataError(
                "nothing to validate on: give data=, a prepared folder or a dataset description"
            )
        self._final = final or trainer is None
        return super().__call__(model=model, trainer=trainer, final=self._final)

    def _load(self, path: Path) -> tuple[nn.Module, Size]:
        """The network of a file and its input size; sets `names`."""
        if not is_weight_file(str(path)):
            runtime = load_runtime(path, str(self.device))
            self.names, self.family = runtime.names, None
            self.needs_nms = runtime.needs_nms
            self.operating_point = runtime.operating_point
            return RuntimeModule(runtime), runtime.input_size(None)
        loaded = load_model(path, self.device)
        self.names, self.family = loaded.names, loaded.family
        self.operating_point = point_in(loaded.meta, len(loaded.names), path)
        self._single_cls = bool((loaded.meta.get("config") or {}).get("single_cls", False))
        return loaded.module, loaded.imgsz

    def _open(self, data: str | Path, imgsz: Size) -> Any:
        dataset = open_data(data)
        split = self.config.split
        if not self.names:
            raise ConfigError(
                "the classes of a model that is no file are not known: "
                "DetectionValidator(names=...) says them"
            )
        differ = tuple(dataset.names) != tuple(self.names) and not self._single_cls
        if differ and self.by_name and set(dataset.names) & set(self.names):
            self.names = dataset.names
        elif differ:
            raise DataError(
                f"{data}: the model's classes and the dataset's differ. Model: "
                f"{', '.join(self.names)}. Dataset: {', '.join(dataset.names)}. Order counts: "
                "metrics would compare one class with another."
            )
        records = dataset.records(split)
        if not records:
            there = [
                f"{name} ({dataset.counts[name]['images']} images)"
                for name in SPLITS
                if dataset.counts[name]["images"]
            ]
            raise DataError(
                f"{data}: no images in the split '{split}'. There are: "
                f"{', '.join(there) or 'none in any split'}. Choose one with split=, or add images "
                "to this one"
            )
        samples = DetectionDataset(records, imgsz, cache="none", single_cls=self._single_cls)
        return build_loader(
            samples,
            self.config.batch,
            shuffle=False,
            workers=self.config.workers,
            rank=self.world.rank,
            world_size=self.world.size,
        )

    # One validation -------------------------------------------------------------------------------

    def init_metrics(self, model: nn.Module) -> None:
        warm_up()
        self._collected = DetectionMetrics(self.names)
        self._batches = 0
        if self._final and self.save_dir is not None and self.world.is_main:
            make_folder(self.save_dir)  # now, not after all images were validated
        dataset = getattr(self.loader, "dataset", None)
        self._records = {str(record.file): record for record in getattr(dataset, "records", ())}

    def preprocess(self, batch: Any) -> Any:
        return to_device(batch, self.device)

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """What the model says of a batch; inside training the trainer's `forward` is asked."""
        return model(batch["img"]) if self.family is None else self.family.forward(model, batch)

    def batch_size(self, batch: Any) -> int:
        return len(batch["img"])

    def postprocess(self, preds: Any) -> list[Found]:
        """The detections of each image in pixels of the input. preds: what `forward` gave, of the
        family of the model; else anything that `read_candidates` knows.
        """
        classes = len(self.model_names or self.names)
        if self.family is None:
            boxes, scores = read_candidates(preds, classes)
        else:
            boxes, scores = check_candidates(
                self.family.candidates(preds),
                self.batch_size(self.batch),
                classes,
                self.family.candidates_owner,
            )
        c = self.config
        needs_nms = self.needs_nms if self.family is None else self.family.needs_nms
        iou = c.iou if needs_nms else None
        found = nms(boxes.float(), scores.float(), c.conf, iou, c.max_det, multi_label=True)
        return [self._by_name(*(part.cpu().numpy() for part in one)) for one in found]

    def _by_name(self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> Found:
        """The detections with the classes of the data."""
        if not self.model_names or self.model_names == self.names:
            return boxes, scores, classes
        place = {name: c for c, name in enumerate(self.names)}
        classes = np.array([place.get(name, -1) for name in self.model_names])[classes]
        known = classes >= 0
        return boxes[known], scores[known], classes[known]

    def update_metrics(self, results: list[Found], batch: Any) -> None:
        for index, (boxes, scores, classes) in enumerate(results):
            record = self._truth(batch, index)
            mine = to_original(boxes, batch["ratio_pad"][index], batch["ori_shape"][index])
            self._collected.update(Detections(mine, scores, classes), record)
        if (
            self._final
            and self.config.plots
            and self.save_dir
            and self.world.is_main
            and self._batches < PLOTTED_BATCHES
        ):
            stem = f"val_batch{self._batches}"
            plot_batch(batch, self.names, self.save_dir / f"{stem}_labels.jpg")
            plot_found(batch, results, self.names, self.save_dir / f"{stem}_pred.jpg")
        self._batches += 1

    def get_stats(self) -> dict[str, float | None]:
        """The metrics over all ranks. Final ones hold all there are, an epoch's those of
        `epoch_metrics`. What the images say nothing about (no box to find at all, none of that
        size) is None, never 0.
        """
        self._merged = own = self._collected
        self._table = None
        if self.world.size > 1:
            self._merged = DetectionMetrics(self.names)
            for state in self.world.gather(own.state()):
                self._merged.merge(state)
        self.scores = scores = self._merged.compute()
        if not scores.instances and self.world.is_main and not self._said_empty:
            self._said_empty = True
            log.warning(
                "split '%s': no boxes to find in its %d images, so precision, recall and AP are "
                "left empty; choose another split, or check the labels",
                self.config.split,
                scores.images,
            )
        metrics = scores.to_dict()
        if self._final:
            return metrics
        return {key: metrics[key] for key in self.epoch_metrics if key in metrics}

    def match_table(self) -> MatchTable:
        """What the last validation found, as a table from which AP of any images follows."""
        if self._table is None:
            self._table = self._merged.match_table()
        return self._table

    def image_groups(self) -> list[str] | None:
        """Of each image of `match_table` the group that must not be parted (`data.group_by`); an
        image without one is its own. None: the data do not say.
        """
        records = getattr(getattr(self.loader, "dataset", None), "records", ())
        group_of = {
            (record.sha256 or str(record.file), record.name or record.file.name): record.group
            for record in records
        }
        if sorted(name for _, name in group_of) != sorted(self.match_table().images):
            return None
        return [
            f"group {group_of[key]}" if group_of[key] else f"image {number}"
            for number, key in enumerate(sorted(group_of))
        ]

    def samples(self) -> list[Sample]:
        """Truth and detections of every image of the last validation."""
        return self._merged.samples()

    def plot_metrics(self) -> None:
        if self.save_dir is None or self.scores is None:
            return
        table = self.match_table()
        table.save(self.save_dir / "matches.npz")
        write_table(self.save_dir / "per_class.csv", self.scores.per_class)
        rows = zip(self.scores.per_image, table.image_ap50(), strict=True)
        write_table(
            self.save_dir / "per_image.csv",
            [{**_without_path(row), "ap50": ap50} for row, ap50 in rows],
        )
        with atomic_write(self.save_dir / "confusion_matrix.csv", "w", newline="") as stream:
            rows = confusion_rows(self.scores.confusion, self.names)
            csv.writer(stream, lineterminator="\n").writerows(rows)
        if self.config.plots:
            from engine.plots import plot_confusion, plot_curves

            plot_curves(self.scores, self.save_dir)
            plot_confusion(
                self.scores.confusion, self.names, self.save_dir / "confusion_matrix.png"
            )

    def _truth(self, batch: Any, index: int) -> ImageRecord:
        record = self._records.get(file_of(batch, index))
        if record is None:
            return record_of(batch, index)
        if getattr(self.loader.dataset, "single_cls", False) and record.classes.any():
            return replace(record, classes=np.zeros_like(record.classes))
        return record


def validator_class_of(weights: str | Path) -> type[DetectionValidator]:
    """The class that measures a file: that of the trainer class that made its network, where it is
    one of the user's own.
    """
    if not is_weight_file(str(weights)):
        return DetectionValidator
    meta: dict[str, Any] = {}
    try:
        meta, _ = read_weights(weights)
        family: Any = family_named(meta.get("family"))
    except EngineError:
        return DetectionValidator  # which says what is wrong with the file
    owner = getattr(family, "trainer_class", None)
    return owner.validator_class if owner is not None else DetectionValidator


def _without_path(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table that is the same on every machine."""
    return {key: value for key, value in row.items() if key != "file"}


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV of dictionaries with equal keys; None is an empty cell."""
    with atomic_write(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
        )
