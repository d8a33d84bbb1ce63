"""Training of a detector: what `BaseTrainer` leaves open, filled with the parts. The only reader of their settings.

Override one method to change one thing; the loop, events and checkpoints stay (`docs`: the engine guide).
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
from engine.detect.batches import is_resident, to_device
from engine.detect.model_io import is_weight_file, model_meta, read_weights
from engine.detect.transfer import transfer
from engine.detect.validator import DetectionValidator
from engine.errors import CheckpointError, ConfigError, nearest
from engine.kernel.checkpoint import Checkpoint
from engine.kernel.state import public_config
from engine.kernel.trainer import BaseTrainer
from engine.parts.data.dataset import DetectionDataset
from engine.parts.data.loader import build_loader, scaled_size
from engine.parts.data.prepared import PreparedDataset, class_hash, open_dataset, read_manifest
from engine.parts.data.transforms import Augment
from engine.parts.loss import DetectionLoss
from engine.parts.model import build_model, find_spec, load_pretrained
from engine.types import ImageRecord

log = logging.getLogger("detectflow")

AUGMENT_KEYS = tuple(Augment.__dataclass_fields__)


class DetectionTrainer(BaseTrainer):
    """`DetectionTrainer(overrides={"model": "yolov8n", "data": "data/digits.yaml", "epochs": 3}).train()`."""

    config_class = DetectionTrainConfig
    loss_names = ("box_loss", "cls_loss", "dfl_loss")
    args: DetectionTrainConfig

    def __init__(self, overrides: dict[str, Any] | None = None, config: DetectionTrainConfig | None = None):
        super().__init__(overrides, config)
        self.dataset: PreparedDataset | None = None
        self.names: tuple[str, ...] = ()
        self._loss: DetectionLoss | None = None

    # Data ---------------------------------------------------------------------------------------------------------

    def get_dataset(self, data: str) -> dict[str, Any]:
        """{"train": path of the training manifest, "val": of the validation manifest}; sets `dataset` and `names`.

        Raises:
            DataError, ConfigError: the description or the data cannot be used.
        """
        # One process prepares, the others find the result.
        opened = open_dataset(data) if self.world.is_main else None
        self.world.barrier()
        self.dataset = opened if opened is not None else open_dataset(data)
        self.names = ("object",) if self.args.single_cls else self.dataset.names
        self._loss = self._build_loss()
        return {"train": str(self.dataset.manifest("train")), "val": str(self.dataset.manifest("val"))}

    def get_dataloader(self, dataset_path: Any, batch_size: int, mode: str = "train", rank: int = 0) -> Any:
        """Batches of the images a manifest lists: shuffled and augmented for `train`, as they are for `val`."""
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
            cache_dir=image_cache_dir() if a.cache == "disk" else None,
            single_cls=a.single_cls,
            mosaic_until_epoch=a.mosaic_until_epoch,
        )
        return build_loader(
            dataset, batch_size, shuffle=training, workers=a.workers, seed=a.seed, rank=rank,
            world_size=self.world.size, balanced=training and a.balanced, pin_memory=self.device.type == "cuda",
        )  # fmt: skip

    def preprocess_batch(self, batch: Any) -> Any:
        """Images to float in [0, 1] on the device; with `multi_scale` resized, the same for every rank."""
        if is_resident(batch):
            return batch
        batch = to_device(batch, self.device, self.args.channels_last)
        if self.args.multi_scale:
            size = scaled_size(self.args.input_size, self.args.multi_scale, seed=self.args.seed, epoch=self.epoch,
                               batch_index=self.batch_index)  # fmt: skip
            batch["img"] = F.interpolate(batch["img"], size=size, mode="bilinear", align_corners=False)
        return batch

    def batch_names(self, batch: Any) -> list[str]:
        return [Path(file).name for file in batch.get("im_file", ())]

    def data_digest(self) -> str:
        return self.dataset.digest if self.dataset is not None else ""

    # Model and loss -----------------------------------------------------------------------------------------------

    def get_model(self, cfg: str, weights: Checkpoint | None) -> nn.Module:
        """The network `cfg` names, or that of a weight file with its weights, classes found again by name."""
        if not is_weight_file(cfg):
            spec = find_spec(cfg)
            model = build_model(replace(spec, backbone=self.args.backbone or spec.backbone), len(self.names) or 80)
            if self.args.pretrained:
                load_pretrained(model.backbone, self.args.pretrained)
            return model
        meta, state = (weights.meta, weights.weights) if weights is not None else read_weights(cfg)
        if "architecture" not in meta:
            raise CheckpointError(f"{cfg}: does not say which network it is; not a detector of this project")
        names = self.names or tuple(meta["names"])
        model = build_model(meta["architecture"], len(names))
        log.info("starting from %s: %s", cfg, transfer(model, state, meta["names"], names))
        return model

    def criterion(self, preds: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """(loss, items [box, cls, dfl]); see `DetectionLoss`."""
        return self._loss(preds, batch)

    def default_lr(self, optimizer: str) -> float:
        return 0.01 if optimizer == "SGD" else 0.002

    def get_validator(self) -> DetectionValidator:
        """Validation on the `val` images with this run's settings."""
        a = self.args
        settings = ValidateConfig(split="val", batch=a.batch, conf=a.val_conf, iou=a.val_iou, max_det=a.max_det, plots=a.plots)
        loader = self.get_dataloader(self.data["val"], max(a.batch // self.world.size, 1), mode="val", rank=self.world.rank)
        return DetectionValidator(
            settings, save_dir=self.save_dir, loader=loader, names=self.names, device=self.device, world=self.world
        )

    def checkpoint_meta(self) -> dict[str, Any]:
        spec = getattr(self.model, "spec", None)
        config, size = public_config(self.args), self.args.input_size
        if spec is None:  # a network of the user's own: it cannot be rebuilt from its file, only by its trainer
            name = Path(self.args.model).name
            return {"model": name, "names": list(self.names), "imgsz": list(size), "config": config}
        return {**model_meta(spec, self.names, size, class_hash(self.names), self.data_digest()), "config": config}

    def _build_loss(self) -> DetectionLoss:
        weights = None
        for name in self.args.class_weights or {}:
            if name not in self.names:
                known = ", ".join(self.names)
                raise ConfigError(f"class_weights: no class '{name}'.{nearest(name, self.names)} There are: {known}")
        if self.args.class_weights:
            weights = torch.tensor([self.args.class_weights.get(name, 1.0) for name in self.names])
        return DetectionLoss(self.args.box, self.args.cls, self.args.dfl, weights)

    # Pictures -----------------------------------------------------------------------------------------------------

    def plot_training_samples(self, batch: Any, index: int) -> None:
        if self.args.plots:
            from engine.detect.pictures import plot_batch

            plot_batch(batch, self.names, self.save_dir / f"train_batch{index}.jpg")

    def plot_metrics(self) -> None:
        if not self.args.plots:
            return
        from engine.parts.plots import plot_labels, plot_results

        plot_results(self.rows, self.save_dir / "results.png")
        records: list[ImageRecord] = getattr(getattr(self.train_loader, "dataset", None), "records", [])
        if records:
            plot_labels(records, self.names, self.save_dir / "labels.png")


def some_of(records: list[ImageRecord], fraction: float) -> list[ImageRecord]:
    """A share of the images, the same whenever it is asked for: those with the smallest content hashes, in their order."""
    count = max(1, round(len(records) * fraction))
    wanted = {id(r) for r in sorted(records, key=lambda r: (r.sha256, r.name))[:count]}
    return [r for r in records if id(r) in wanted]


def image_cache_dir() -> Path:
    """Where decoded images are kept on disk: with the project's other caches."""
    return Path(os.environ.get("DETECTFLOW_STATE", ".")) / ".cache"

