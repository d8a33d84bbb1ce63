"""Training of a detector: what `BaseTrainer` leaves open, filled with the parts. The only reader of
their settings.

Override one method to change one thing; the loop, events and checkpoints stay (`docs`: the engine
guide).
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import DetectionTrainConfig, ValidateConfig
from engine.core.checkpoint import Checkpoint
from engine.core.train_state import public_config
from engine.core.trainer import BaseTrainer
from engine.data.dataset import DetectionDataset
from engine.data.loader import build_loader, scaled_size
from engine.data.manifest import PreparedDataset, class_hash, read_manifest
from engine.data.transforms import Augment
from engine.datasets.open import open_dataset
from engine.detect.batches import to_device
from engine.detect.model_io import check_meta, is_weight_file, model_meta, read_weights
from engine.detect.transfer import transfer
from engine.detect.validator import DetectionValidator
from engine.errors import ConfigError, DataError, nearest
from engine.metrics.reported import headline_keys
from engine.models.yolov8 import build_model, find_spec, load_pretrained
from engine.models.yolov8.loss import DetectionLoss
from engine.types import ImageRecord

log = logging.getLogger("detectflow")

AUGMENT_KEYS = tuple(Augment.__dataclass_fields__)


class DetectionTrainer(BaseTrainer):
    """Train a detector: `DetectionTrainer(overrides={"model": "yolov8n", "data":
    "data/digits.yaml", "epochs": 3}).train()`.
    """

    config_class = DetectionTrainConfig
    validator_class = DetectionValidator  # what `get_validator` makes
    loss_names = ("box_loss", "cls_loss", "dfl_loss")
    sample_word = "images"
    memory_advice = "imgsz or model"
    epoch_line_metrics = headline_keys()
    live_params = BaseTrainer.live_params | {"box", "cls", "dfl", "class_weights", "multi_scale"}
    args: DetectionTrainConfig

    def __init__(
        self, overrides: dict[str, Any] | None = None, config: DetectionTrainConfig | None = None
    ):
        super().__init__(overrides, config)
        self.dataset: PreparedDataset | None = None
        self.names: tuple[str, ...] = ()
        self._loss: DetectionLoss | None = None

    # Data -----------------------------------------------------------------------------------------

    def get_dataset(self, data: str) -> dict[str, Any]:
        """{"train": path of the training manifest, "val": of the validation manifest}; sets
        `dataset` and `names`.

        Raises:
            DataError, ConfigError: the description or the data cannot be used.
        """
        # One process prepares, the others find the result.
        opened = open_dataset(data) if self.world.is_main else None
        self.world.barrier()
        self.dataset = opened if opened is not None else open_dataset(data)
        self.dataset.require("train", "val")
        if len(set(self.world.gather(self.dataset.digest))) > 1:
            raise DataError(
                f"{data}: the ranks read different data there; every machine needs the same files"
            )
        self.names = ("object",) if self.args.single_cls else self.dataset.names
        # here, so that a wrong class weight is told before anything is built
        self._loss = self._build_loss()
        return {
            "train": str(self.dataset.manifest("train")),
            "val": str(self.dataset.manifest("val")),
        }

    def get_dataloader(
        self, dataset_path: Any, batch_size: int, mode: str = "train", rank: int = 0
    ) -> Any:
        """Batches of the images a manifest lists: shuffled and augmented for `train`, as they are
        for `val`.
        """
        a, training = self.args, mode == "train"
        records = read_manifest(Path(dataset_path))
        if training and a.fraction < 1:
            records = some_of(records, a.fraction)
        dataset = DetectionDataset(
            records,
            a.input_size,
            augment=Augment(**{key: getattr(a, key) for key in AUGMENT_KEYS}) if training else None,
            seed=a.seed,
            cache=a.cache,
            cache_dir=cache_dir() if a.cache == "disk" else None,
            single_cls=a.single_cls,
            mosaic_until_epoch=a.mosaic_until_epoch,
        )
        return build_loader(
            dataset,
            batch_size,
            shuffle=training,
            workers=a.workers,
            seed=a.seed,
            rank=rank,
            world_size=self.world.size,
            balanced=training and a.balanced,
            pin_memory=self.device.type == "cuda",
        )

    def preprocess_batch(self, batch: Any) -> Any:
        """Images to float in [0, 1] on the device; with `multi_scale` resized, the same for every
        rank.
        """
        batch = to_device(batch, self.device, self.args.channels_last)
        if self.args.multi_scale:
            size = scaled_size(
                self.args.input_size,
                self.args.multi_scale,
                seed=self.args.seed,
                epoch=self.epoch,
                batch_index=self.batch_index,
            )
            batch["img"] = F.interpolate(
                batch["img"], size=size, mode="bilinear", align_corners=False
            )
        return batch

    def probe_batch(self, batch: Any) -> Any:
        """With `multi_scale` the largest size that may come."""
        batch = to_device(batch, self.device, self.args.channels_last)
        h, w = (
            round(side * (1 + self.args.multi_scale) / 32) * 32 for side in self.args.input_size
        )
        batch["img"] = F.interpolate(
            batch["img"], size=(h, w), mode="bilinear", align_corners=False
        )
        return batch

    def batch_names(self, batch: Any) -> list[str]:
        return [str(file) for file in batch.get("im_file", ())]

    def data_digest(self) -> str:
        return self.dataset.digest if self.dataset is not None else ""

    # Model and loss -------------------------------------------------------------------------------

    def get_model(self, cfg: str, weights: Checkpoint | None) -> nn.Module:
        """The network `cfg` names, or that of a weight file with its weights, classes found again
        by name.
        """
        if not self.names:
            raise ConfigError(
                "no class names: a get_dataset of your own sets self.names to a tuple of them"
            )
        if is_weight_file(cfg):
            return self._model_of_weights(cfg, weights)
        spec = find_spec(cfg)
        model = build_model(
            replace(spec, backbone=self.args.backbone or spec.backbone), len(self.names)
        )
        if self.args.pretrained and weights is None:
            load_pretrained(
                model.backbone, self.args.pretrained, download_dir=cache_dir() / "pretrained"
            )
        return model

    def _model_of_weights(self, cfg: str, weights: Checkpoint | None) -> nn.Module:
        meta, state = (
            (check_meta(weights.meta, cfg), weights.weights)
            if weights is not None
            else read_weights(cfg)
        )
        own = meta["architecture"].get("backbone", "")
        if self.args.backbone not in ("", own) or self.args.pretrained:
            asked = (
                "pretrained"
                if self.args.backbone in ("", own)
                else f"backbone={self.args.backbone}"
            )
            raise ConfigError(
                f"{asked}: {cfg} brings its own network ({meta['model']}, backbone "
                f"{own or 'of the family'}) and weights; leave it out, or give a model name such "
                "as yolov8n instead of the file"
            )
        model = build_model(meta["architecture"], len(self.names))
        moved = transfer(model, state, meta["names"], self.names)
        if not (self.args.resume or self.rows):  # else the weights are the run's own
            log.info("starting from %s: %s", cfg, moved)
        return model

    def forward(self, model: nn.Module, batch: Any) -> Any:
        return model(batch["img"])

    def criterion(self, preds: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """(loss, items [box, cls, dfl]); see `DetectionLoss`."""
        if self._loss is None:
            self._loss = self._build_loss()
        return self._loss(preds, batch)

    def apply_params(self) -> None:
        self._loss = None  # its gains may have changed

    def val_loss_sums(
        self, preds: Any, batch: Any, images: int
    ) -> tuple[Tensor, Tensor | float] | None:
        """The items are means over the target scores, so these count, not the images."""
        before = self._loss.targets if self._loss is not None else None
        items = self.val_loss_items(preds=preds, batch=batch)
        targets = self._loss.targets if self._loss is not None else None
        if (
            items is None or targets is before
        ):  # a criterion of the user's own, which did not ask ours
            return None if items is None else (items.detach().float() * images, float(images))
        return items.detach() * targets.clamp(min=1), targets

    def default_lr(self, optimizer: str) -> float:
        return 0.01 if optimizer == "SGD" else 0.002

    def get_validator(self) -> DetectionValidator:
        """Validation on the `val` images with this run's settings."""
        a = self.args
        settings = ValidateConfig(
            split="val",
            batch=self.batch_size,
            conf=a.val_conf,
            iou=a.val_iou,
            max_det=a.max_det,
            plots=a.plots,
        )
        per_rank = max(self.batch_size // self.world.size, 1)
        loader = self.get_dataloader(
            dataset_path=self.data["val"], batch_size=per_rank, mode="val", rank=self.world.rank
        )
        validator = self.validator_class(
            settings,
            save_dir=self.save_dir,
            loader=loader,
            names=self.names,
            device=self.device,
            world=self.world,
        )
        validator.epoch_metrics = tuple(dict.fromkeys((*headline_keys(), a.monitor)))
        return validator

    def checkpoint_meta(self) -> dict[str, Any]:
        spec = getattr(self.model, "spec", None)
        config, size = public_config(self.resolved), self.args.input_size
        if (
            spec is None
        ):  # a network of the user's own: it cannot be rebuilt from its file, only by its trainer
            name = Path(self.args.model).name
            return {"model": name, "names": list(self.names), "imgsz": list(size), "config": config}
        return {
            **model_meta(spec, self.names, size, class_hash(self.names), self.data_digest()),
            "config": config,
        }

    def _build_loss(self) -> DetectionLoss:
        weights = None
        for name in self.args.class_weights or {}:
            if name not in self.names:
                known = ", ".join(self.names)
                raise ConfigError(
                    f"class_weights: no class '{name}'.{nearest(name, self.names)} There are: "
                    f"{known}"
                )
        if self.args.class_weights:
            weights = torch.tensor([self.args.class_weights.get(name, 1.0) for name in self.names])
        shared = self.world.size > 1
        return DetectionLoss(
            self.args.box,
            self.args.cls,
            self.args.dfl,
            weights,
            ranks=self.world.size,
            sum_over_ranks=self.world.sum if shared else None,
        )

    # Pictures -------------------------------------------------------------------------------------

    def plot_training_samples(self, batch: Any, index: int) -> None:
        if self.args.plots:
            from engine.detect.batch_plots import plot_batch

            plot_batch(batch, self.names, self.save_dir / f"train_batch{index}.jpg")

    def plot_metrics(self) -> None:
        if not self.args.plots:
            return
        from engine.plots import plot_labels, plot_results

        plot_results(self.rows, self.save_dir / "results.png")
        records: list[ImageRecord] = getattr(
            getattr(self.train_loader, "dataset", None), "records", []
        )
        if records:
            plot_labels(records, self.names, self.save_dir / "labels.png")


def some_of(records: list[ImageRecord], fraction: float) -> list[ImageRecord]:
    """A share of the images, the same whenever it is asked for: those with the smallest content
    hashes, in their order.
    """
    count = max(1, round(len(records) * fraction))
    wanted = {id(r) for r in sorted(records, key=lambda r: (r.sha256, r.name))[:count]}
    return [r for r in records if id(r) in wanted]


def cache_dir() -> Path:
    """Where decoded images and downloaded weights are kept: with the project's other caches."""
    return Path(os.environ.get("DETECTFLOW_STATE", ".")) / ".cache"
