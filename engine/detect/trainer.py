"""Training of a detector: what `BaseTrainer` leaves open, filled with data, a family of networks
and metrics. The only reader of their settings.

Override one method to change one thing; the loop, events and checkpoints stay (`docs`: the engine
guide).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.config import DetectionTrainConfig, ValidateConfig
from engine.config.goal import MAX_F1, read_goal
from engine.core.checkpoint import Checkpoint, load_checkpoint
from engine.core.train_state import public_config
from engine.core.trainer import BaseTrainer
from engine.data.dataset import DetectionDataset
from engine.data.loader import build_loader, scaled_size, size_times
from engine.data.manifest import PreparedDataset, read_manifest
from engine.data.transforms import Augment
from engine.detect.batches import to_device
from engine.detect.choose_point import point_of
from engine.detect.data import open_data
from engine.detect.first_output import check_output
from engine.detect.methods import check_methods
from engine.detect.model_io import (
    check_meta,
    family_of_meta,
    is_weight_file,
    model_meta,
    read_weights,
)
from engine.detect.own_network import OwnNetwork, trainer_path_in
from engine.detect.validator import DetectionValidator
from engine.errors import CheckpointError, ConfigError, DataError, nearest
from engine.metrics.operating_point import KEY
from engine.metrics.reported import headline_keys
from engine.models.hub.origins import KEY as ORIGINS
from engine.models.hub.origins import Origin, in_words
from engine.models.registry import (
    Candidates,
    Criterion,
    Family,
    Spec,
    built_in,
    family_of,
)
from engine.types import ImageRecord

log = logging.getLogger("detectflow")

AUGMENT_KEYS = tuple(Augment.__dataclass_fields__)
FEWEST = 2  # images of a batch of which each gives one value: BatchNorm has something to average
NEAR_STEP = 32  # of multi_scale, pixels


@dataclass(frozen=True)
class Network:
    """Which network is trained: its family, what it is built from, and the published weights that
    it descends from.
    """

    family: Family
    spec: Spec
    origins: tuple[Origin, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        """`family, spec = network`."""
        return iter((self.family, self.spec))


class DetectionTrainer(BaseTrainer):
    """Train a detector: `DetectionTrainer(overrides={"model": "yolov8n", "data":
    "data/digits.yaml", "epochs": 3}).train()`.
    """

    config_class = DetectionTrainConfig
    validator_class = DetectionValidator  # what `get_validator` makes, and `detectflow val`
    loss_names = ("box_loss", "cls_loss", "dfl_loss")  # those of another family take their place
    sample_word = "images"
    memory_advice = "imgsz or model"
    epoch_line_metrics = headline_keys()
    # Of a network that `get_model` of a class of one's own makes:
    stride = 32  # input sides must be multiples of it, pixels
    needs_nms = True  # whether its candidates hold doubles of one object
    first_label = 1  # where it gives torchvision's dictionaries: the label of class 0
    live_params = BaseTrainer.live_params | {"box", "cls", "dfl", "class_weights", "multi_scale"}
    args: DetectionTrainConfig

    def __init__(
        self, overrides: dict[str, Any] | None = None, config: DetectionTrainConfig | None = None
    ):
        check_methods(type(self))
        super().__init__(overrides, config)
        self.add_callback("on_train_batch_end", check_output)
        self.dataset: PreparedDataset | None = None
        self.names: tuple[str, ...] = ()
        if self.args.resume:
            self._check_resumed()
        # Of a weight file, or a damaged checkpoint of the run, it is known when that is read.
        self.network: Network | None = self._in_last() if self._goes_on() else self._named_network()
        self._take_loss_names()

    # Data -----------------------------------------------------------------------------------------

    def get_dataset(self, data: str) -> dict[str, Any]:
        """{"train": path of the training manifest, "val": of the validation manifest}; sets
        `dataset` and `names`.

        Raises:
            DataError, ConfigError: the description or the data cannot be used.
        """
        self.read_network()
        # One process prepares, the others find the result.
        opened = open_data(data) if self.world.is_main else None
        self.world.barrier()
        self.dataset = opened if opened is not None else open_data(data)
        self.dataset.require("train", "val")
        if len(set(self.world.gather(self.dataset.digest))) > 1:
            raise DataError(
                f"{data}: the ranks read different data there; every machine needs the same files"
            )
        self.names = ("object",) if self.args.single_cls else self.dataset.names
        # here, so that a wrong name is an error before anything is built
        self._class_weights()
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
            least=FEWEST if training and self._may_see_one_cell() else 1,
            balanced=training and a.balanced,
            pin_memory=self.device.type == "cuda",
        )

    def _may_see_one_cell(self) -> bool:
        """Whether the coarsest feature map is a single cell, at the smallest size that comes."""
        return max(self.args.input_size) * (1 - self.args.multi_scale) < 2 * self.stride

    def preprocess_batch(self, batch: Any) -> Any:
        """Images to float in [0, 1] on the device; with `multi_scale` resized, the same for every
        rank.
        """
        batch = to_device(batch, self.device, self.args.channels_last)
        if self.args.multi_scale:
            step, least = self._scale_steps()
            size = scaled_size(
                self.args.input_size,
                self.args.multi_scale,
                seed=self.args.seed,
                epoch=self.epoch,
                batch_index=self.batch_index,
                stride=step,
                least=least,
            )
            batch["img"] = F.interpolate(
                batch["img"], size=size, mode="bilinear", align_corners=False
            )
        return batch

    def probe_batch(self, batch: Any) -> Any:
        """With `multi_scale` the largest size that may come."""
        batch = to_device(batch, self.device, self.args.channels_last)
        factor = 1 + self.args.multi_scale
        size = size_times(self.args.input_size, factor, *self._scale_steps())
        batch["img"] = F.interpolate(batch["img"], size=size, mode="bilinear", align_corners=False)
        return batch

    def _scale_steps(self) -> tuple[int, int]:
        """Of `multi_scale`: sides are multiples of the first, at least the second, pixels. Networks
        of a small stride take steps near 32 px too: more sizes would teach nothing more.
        """
        if self.network is None:
            return NEAR_STEP, NEAR_STEP
        family, spec = self.network
        stride = family.stride(spec)
        return stride * max(1, round(NEAR_STEP / stride)), family.smallest(spec)

    def batch_names(self, batch: Any) -> list[str]:
        return [str(file) for file in batch.get("im_file", ())]

    def data_digest(self) -> str:
        return self.dataset.digest if self.dataset is not None else ""

    # Model and loss -------------------------------------------------------------------------------

    @classmethod
    def as_family(cls, path: str) -> Family:
        """The networks of this class as a family, for weights that name it by `path`."""
        return OwnNetwork(path, cls)

    def _plain_family(self) -> Family:
        """What the methods here do where no class of the user's own overrides them."""
        family = self.network.family if self.network is not None else self._own_family()
        return family.without_trainer()

    def make_model(self, cfg: str, weights: Checkpoint | None) -> nn.Module:
        """`get_model`, and what the network is: a family builds it again where the weights are
        loaded. Weights of this class's own network are put into the one that `get_model` makes.
        """
        if not self.names:
            raise ConfigError(
                "no class names: a get_dataset of your own sets self.names to a tuple of them"
            )
        meta = self._own_meta(cfg, weights)
        if meta is not None:
            return self._start_from(cfg, weights, Network(self._own_family(), meta["architecture"]))
        model = self.get_model(cfg=cfg, weights=weights)
        if self._makes_networks() and isinstance(model, nn.Module):
            origins = self.network.origins if self.network is not None else ()
            self.network = replace(self._recognise(model, cfg), origins=origins)
        self._take_loss_names()
        return model

    def get_model(self, cfg: str, weights: Checkpoint | None) -> nn.Module:
        """The network `cfg` names, or that of a weight file with its weights, classes found again
        by name.
        """
        if is_weight_file(cfg):
            return self._start_from(cfg, weights, own=None)
        if weights is None or self._makes_networks():
            family = family_of(cfg)
            self.network = Network(family, family.spec(cfg, self.args))
        else:  # the run's own: what the name stands for may have gone, or be another one by now
            self.network = self._network_in_run(weights.meta)
        family = self.network.family
        model = family.build(self.network.spec, len(self.names))
        if weights is None:
            found = [family.pretrain(model, self.args, cache_dir())]
            if moved := family.start(model, self.network.spec, self.names):
                found.append(family.origin(self.network.spec))
                log.info("starting from %s: %s", cfg, moved)
            origins = tuple(each for each in found if each is not None)
            for each in origins:
                log.info("published weights: %s", in_words(each))
        else:
            origins = tuple(weights.meta.get(ORIGINS) or ())
        self.network = replace(self.network, origins=origins)
        return model

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """What `criterion` and `candidates` are given; override it for a network of your own that
        takes more than the images. Also called in validation, with `model` in eval mode.
        """
        return self._plain_family().forward(model, batch)

    def criterion(self, preds: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """(loss, items by `loss_names`): that of the network's family."""
        if self.components.loss is None:
            self.components.loss = self._build_loss()
        return self.components.loss(preds, batch)

    def candidates(self, preds: Any) -> Candidates:
        """Boxes (B, N, 4) xyxy px of the input, scores (B, N, C) in [0, 1], of what `forward` gave
        in eval mode. Override it where a network of your own says it in another form than
        `engine.detect.candidates.read_candidates` knows.
        """
        return self._plain_family().candidates(preds)

    def apply_params(self) -> None:
        self.components.loss = None  # its gains may have changed

    def val_loss_items(self, preds: Any, batch: Any) -> Tensor | None:
        """None too where the network's output in eval mode holds no loss."""
        ours = type(self).criterion is DetectionTrainer.criterion
        if ours and self.network is not None and not self.network.family.has_loss(preds):
            return None
        return super().val_loss_items(preds=preds, batch=batch)

    def val_loss_sums(
        self, preds: Any, batch: Any, images: int
    ) -> tuple[Tensor, Tensor | float] | None:
        """Where the items are means over something else than images (target scores), that
        counts.
        """
        before = self.components.loss.weight if self.components.loss is not None else None
        items = self.val_loss_items(preds=preds, batch=batch)
        weight = self.components.loss.weight if self.components.loss is not None else None
        if items is None:
            return None
        if weight is before:  # means over images, or a criterion that did not ask ours
            return items.detach().float() * images, float(images)
        return items.detach() * weight.clamp(min=1), weight

    def default_lr(self, optimizer: str) -> float:
        return self._plain_family().default_lr(optimizer)

    # Which network it is --------------------------------------------------------------------------

    @classmethod
    def _makes_networks(cls) -> bool:
        """Whether `get_model` is one of the user's own."""
        return cls.get_model is not DetectionTrainer.get_model

    def _named_network(self) -> Network | None:
        """The network that the settings name, where they and no file do. ConfigError: an unknown
        name, a size it cannot take, a setting it cannot heed.
        """
        model = self.args.model
        if self._makes_networks():
            family: Family = self._own_family()
        elif is_weight_file(model):
            return None
        else:
            family = family_of(model)
        network = Network(family, family.spec(model, self.args))
        network.family.check_size(network.spec, self.args.input_size)
        return network

    def read_network(self) -> None:
        """The network, known before data are read: a wrong name, file or size is an error at once.
        Where a run goes on its settings are known only now, and the file that it started from may
        have gone; its checkpoint holds it all.
        """
        file = self.args.model
        if self._goes_on() and (found := self._in_last()) is not None:
            self.network = found
            self.network.family.check_size(self.network.spec, self.args.input_size)
            self._take_loss_names()
            return
        self.network = self._named_network()
        if self.network is None and (Path(file).is_file() or not self.args.resume):
            self.network = self.network_in_file(read_weights(file)[0], file)
        self._take_loss_names()

    def _goes_on(self) -> bool:
        """Whether a run of this class goes on from a checkpoint, which holds the network: then
        neither a folder nor the hub is asked what the name of the network stands for.
        """
        return self.args.resume and not self._makes_networks() and self.last.is_file()

    def _in_last(self) -> Network | None:
        """The network of the run that is to go on; None where its checkpoint is damaged: that is
        mended or told where the run is opened.
        """
        try:
            return self._network_in_run(read_weights(self.last)[0])
        except CheckpointError:
            return None

    def _network_in_run(self, meta: Mapping[str, Any]) -> Network:
        """The network in a checkpoint of this run."""
        family = family_of_meta(meta, str(self.last))
        return Network(family, meta["architecture"], tuple(meta.get(ORIGINS) or ()))

    def _check_resumed(self) -> None:
        """ConfigError where another trainer class made the network of the run that is to go on: its
        settings mean nothing to this one. Asked before they are compared.
        """
        if not self.last.is_file():
            return
        try:
            made_by = trainer_path_in(load_checkpoint(self.last).meta)
        except CheckpointError:  # damaged: mended or told where the run is opened
            return
        module, _, name = (made_by or "").partition(":")
        mine = self._makes_networks() and type(self).__qualname__ == name
        if made_by is None or mine:
            return
        in_script = module == "__main__"
        how = "in the script that holds it" if in_script else f"`from {module} import {name}`"
        raise ConfigError(
            f"{self.last} holds a network that the class {made_by} makes, and this is "
            f"{type(self).__name__}. Go on with that run in Python, {how}: "
            f"{name}(overrides={{'model': {str(self.last)!r}, 'resume': True}}).train()"
        )

    def network_in_file(self, meta: Mapping[str, Any], file: str) -> Network:
        """The network of a weight file. ConfigError: settings that contradict it; one of the user's
        own, which is trained by the class that made it.
        """
        network = Network(family_of_meta(meta, file), meta["architecture"])
        if network.family.trainer_class is not None:
            raise ConfigError(
                f"{file} holds a network of your own, which trainer={network.family.name} made: "
                "give that trainer too"
            )
        network.family.check_start(network.spec, self.args, file)
        network.family.check_size(network.spec, self.args.input_size)
        return network

    def _start_from(self, cfg: str, weights: Checkpoint | None, own: Network | None) -> nn.Module:
        """The network of a weight file with its weights. own: what it is, where this class made
        it.
        """
        meta, state = (
            (check_meta(weights.meta, cfg), weights.weights)
            if weights is not None
            else read_weights(cfg)
        )
        network = own or self.network_in_file(meta, cfg)
        self.network = replace(network, origins=tuple(meta.get(ORIGINS) or ()))
        self._take_loss_names()
        family, spec = self.network
        model = family.build(spec, len(self.names))
        moved = family.transfer(model, state, meta["names"], self.names, spec)
        if not (self.args.resume or self.rows):  # else the weights are the run's own
            log.info("starting from %s: %s", cfg, moved)
            for each in self.network.origins:
                log.info("published weights: %s", in_words(each))
        return model

    def _own_meta(self, cfg: str, weights: Checkpoint | None) -> Mapping[str, Any] | None:
        """What a weight file says of itself where a class like this one made its network, else
        None: then `get_model` is given file and weights as they are.
        """
        if not (self._makes_networks() and is_weight_file(cfg)):
            return None
        meta = weights.meta if weights is not None else read_weights(cfg)[0]
        own = meta.get("family") == self._own_family().name
        return meta if own or family_of_meta(meta, cfg).trainer_class is not None else None

    def _recognise(self, model: nn.Module, cfg: str) -> Network:
        """What a network is that `get_model` of the user's own made: one that a family here can
        build again without that code, or one of its own.
        """
        for family in built_in():
            spec = family.spec_of(model)
            if spec is not None:
                return Network(family, spec)
        own = self._own_family()
        return Network(own, own.spec(cfg, self.args))

    def _own_family(self) -> OwnNetwork:
        path = self.args.trainer or f"{type(self).__module__}:{type(self).__qualname__}"
        return OwnNetwork(path, type(self), self)

    def _take_loss_names(self) -> None:
        """The family's names of the loss, unless a class of the user's own has others, and its
        recipe, where the settings say nothing else.
        """
        if self.network is not None:
            recipe = self.network.family.recipe(self.network.spec)
            left = {key: value for key, value in recipe.items() if not self.args.is_given(key)}
            if left:
                self.args = self.args.with_overrides(left)
        if type(self).loss_names is DetectionTrainer.loss_names and self.network is not None:
            self.loss_names = self.network.family.losses(self.network.spec)

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
        if self.network is not None:
            validator.family = self.network.family
        return validator

    def checkpoint_meta(self) -> dict[str, Any]:
        config, size = public_config(self.resolved), self.args.input_size
        family, spec = self.network
        meta = model_meta(family, spec, self.args.model, self.names, size, self.data_digest())
        origins = list(self.network.origins)
        return {**meta, "config": config, **({ORIGINS: origins} if origins else {})}

    def best_meta(self) -> dict[str, Any]:
        """The thresholds and the calibration that fit the `val` images, for predictions that name
        no `conf`: a goal of `validate.goal` is chosen for later, and trains nothing again.
        """
        point = None
        if isinstance(self.validator, DetectionValidator):
            point = point_of(self.validator, read_goal(MAX_F1))
        return {KEY: point.to_dict()} if point is not None else {}

    def _class_weights(self) -> Tensor | None:
        """(C,) factors. ConfigError: a class that the data have not."""
        given = self.args.class_weights or {}
        for name in given:
            if name not in self.names:
                known = ", ".join(self.names)
                raise ConfigError(
                    f"class_weights: no class '{name}'.{nearest(name, self.names)} There are: "
                    f"{known}"
                )
        return torch.tensor([given.get(name, 1.0) for name in self.names]) if given else None

    def _build_loss(self) -> Criterion:
        family, spec = self.network
        return family.criterion(
            spec,
            self.args,
            self._class_weights(),
            ranks=self.world.size,
            sum_over_ranks=self.world.sum if self.world.size > 1 else None,
        )

    # Plots ----------------------------------------------------------------------------------------

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
    """A fraction of the images, the same whenever it is asked for: those with the smallest content
    hashes, in their order.
    """
    count = max(1, round(len(records) * fraction))
    wanted = {id(r) for r in sorted(records, key=lambda r: (r.sha256, r.name))[:count]}
    return [r for r in records if id(r) in wanted]


def cache_dir() -> Path:
    """Where decoded images and downloaded weights are kept: with the project's other caches."""
    return Path(os.environ.get("DETECTFLOW_STATE", ".")) / ".cache"
