"""Detectors of `transformers` as a family: `train.model: hf:./folder`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.boxes import xyxy_to_xywh
from engine.errors import ConfigError
from engine.models.family import (
    CandidateModule,
    Candidates,
    Criterion,
    Family,
    Published,
    Spec,
    refuse_yolov8s,
)
from engine.models.hf import configuration, sizes
from engine.models.hf.folder import check_state, read_folder, read_state
from engine.models.hf.library import traceable
from engine.models.hf.network import FOCAL_PRIOR, Output, build, decode, in_words
from engine.models.hub.files import PREFIX, folder_of, source_of
from engine.models.hub.licences import check_licence, licence_of_parts
from engine.models.hub.origins import Origin, origin_of
from engine.models.targets import image_targets
from engine.models.transfer import ClassRows, Transfer
from engine.types import Size

if TYPE_CHECKING:  # settings of a training: what validates or exports does not depend on them
    from engine.config import DetectionTrainConfig

# Terms of a layer before the last (`_aux_0`, `_enc`, `_0`), and of noisy copies of the targets.
DENOISING, AUXILIARY = re.compile(r"_dn(_\d+)?$"), re.compile(r"_(aux|enc)(_\d+)?$|_\d+$")
AUX, DN = "aux_loss", "dn_loss"
BACKBONE = "model.backbone."
WITH_BACKBONE = {"d_fine", "rt_detr", "rt_detr_v2", "rf_detr", "deimv2", "lw_detr"}
ONNX = "onnx"
# Kinds whose ONNX file finds what PyTorch finds: tests/export/test_kinds_of_transformers.py.
COMPARED = {
    *("conditional_detr", "d_fine", "dab-detr", "deformable_detr", "detr", "lw_detr", "rf_detr"),
    *("rt_detr", "rt_detr_v2", "table-transformer", "yolos"),
}
OLDEST = 30  # of trials kept


class HfFamily(Family):
    """D-FINE, RT-DETR, RF-DETR and what else `AutoModelForObjectDetection` builds."""

    name = "hf"
    needs_nms = False

    def knows(self, model: str) -> bool:
        return model.startswith(PREFIX)

    def names(self) -> tuple[str, ...]:
        return (f"{PREFIX}ORG/NAME", f"{PREFIX}./FOLDER")

    def spec(self, model: str, config: DetectionTrainConfig) -> Spec:
        refuse_yolov8s(config, model)
        path = folder_of(model, config.accept_licence)
        folder = read_folder(path)
        source = source_of(path)
        if part := licence_of_parts(folder.config):
            source["part"] = part
        spec = {
            "name": model,
            "config": dict(folder.config),
            "mean": list(folder.mean),
            "std": list(folder.std),
            "source": source,
        }
        check_licence(f"model='{model}'", spec["source"], config.accept_licence)
        self.check_size(spec, config.input_size)
        check_state(path, spec["source"]["digest"])
        return {**spec, "losses": list(_tried(json.dumps(spec), config.input_size))}

    def hub_names(self, settings: Mapping[str, Any]) -> Mapping[str, str]:
        return {"model": settings["model"]}

    def build(self, spec: Spec, classes: int) -> nn.Module:
        return build(spec["config"], classes, spec["mean"], spec["std"])

    def origin(self, spec: Spec) -> Origin | None:
        return origin_of(spec["source"], name=spec["name"])

    def start(self, module: nn.Module, spec: Spec, names: Sequence[str]) -> Transfer | None:
        folder = read_folder(folder_of(spec["name"]))
        return self.transfer(module, read_state(folder), folder.names, names, spec)

    def published(self, model: str, accepted: str | None = None) -> Published | None:
        folder = read_folder(folder_of(model, accepted))
        return Published(folder.names, folder.imgsz)

    def check_start(self, spec: Spec, config: DetectionTrainConfig, file: str) -> None:
        refuse_yolov8s(config, f"{spec['name']} of {file}")

    def stride(self, spec: Spec) -> int:
        return sizes.step_px(spec["config"])

    def smallest(self, spec: Spec) -> int:
        return sizes.smallest_px(spec["config"])

    def check_size(self, spec: Spec, size: Size) -> None:
        configuration.check(spec["config"])  # may come from a weight file
        sizes.check(spec["config"], size)

    def losses(self, spec: Spec) -> tuple[str, ...]:
        return tuple(spec["losses"])

    def criterion(
        self,
        spec: Spec,
        config: DetectionTrainConfig,
        class_weights: Tensor | None = None,
        ranks: int = 1,
        sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> Criterion:
        refuse_yolov8s(config, spec["name"])
        return LibraryLoss(self.losses(spec), ranks, sum_over_ranks)

    def forward(self, module: nn.Module, batch: Mapping[str, Any]) -> Any:
        targets = library_targets(batch) if "bboxes" in batch else None
        return module(batch["img"], targets)

    def has_loss(self, preds: Any) -> bool:
        return isinstance(preds, Output) and preds.loss is not None

    def reads(self, preds: Any) -> bool:
        return isinstance(preds, Output)

    def recipe(self, spec: Spec) -> Mapping[str, Any]:
        # As published with D-FINE (2410.13842) and RT-DETRv2 (2407.17140).
        common = {"optimizer": "AdamW", "momentum": 0.9, "weight_decay": 1e-4, "clip_norm": 0.1}
        kind = spec["config"]["model_type"]
        return {**common, "slow": {BACKBONE: 0.1}} if kind in WITH_BACKBONE else common

    def default_lr(self, optimizer: str) -> float:
        return 0.001 if optimizer == "SGD" else 1e-4

    def transfer(
        self,
        module: nn.Module,
        state: Mapping[str, Tensor],
        old_names: Sequence[str],
        new_names: Sequence[str],
        spec: Spec,
    ) -> Transfer:
        start_rare(module, self.class_rows(module, spec, len(new_names)))
        return super().transfer(module, state, old_names, new_names, spec)

    def class_rows(self, module: nn.Module, spec: Spec, classes: int) -> Mapping[str, ClassRows]:
        rows = super().class_rows(module, spec, classes)
        # One row more than classes: it comes last (no object, or no class), not first.
        return {
            name: ClassRows(behind=each.background) if each.background else each
            for name, each in rows.items()
        }

    def candidates(self, preds: Any) -> Candidates:
        return decode(preds)

    def can_export(self, spec: Spec, format: str) -> str | None:
        kind = spec["config"].get("model_type")
        if format != ONNX or kind in COMPARED:
            return None
        return (
            f"nobody has compared the ONNX file of a network of type '{kind}' with PyTorch yet; of "
            f"{', '.join(sorted(COMPARED))} it was"
        )

    def export_module(self, module: nn.Module, size: Size) -> nn.Module:
        return Traced(self, module).eval()

    def selects(self, spec: Spec) -> bool:
        return True  # the best cells become queries


@torch.no_grad()
def start_rare(module: nn.Module, rows: Mapping[str, ClassRows]) -> None:
    """The focal prior as the probability of every class; a few networks of the library start at a
    half. rows: the tensors with rows by class. A softmax has a row for no object, and keeps its
    start.
    """
    bias = math.log(FOCAL_PRIOR / (1 - FOCAL_PRIOR))
    tensors = module.state_dict()
    for name, at in rows.items():
        if tensors[name].ndim == 1 and not at.behind:
            tensors[name].fill_(bias)


class Traced(CandidateModule):
    """The network while it is exported: the library's checks of values cannot be traced."""

    def forward(self, images: Tensor) -> Candidates:
        with traceable():
            return super().forward(images)


class LibraryLoss(Criterion):
    """The library's loss, which it computes with its predictions: the terms of the last layer by
    its names, `aux_loss` those of the layers before, `dn_loss` those of queries that are noisy
    copies of the targets (in training only).
    """

    def __init__(
        self,
        names: tuple[str, ...],
        ranks: int = 1,
        sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ):
        self.names, self.ranks, self._sum_over_ranks = names, ranks, sum_over_ranks

    def __call__(self, preds: Output, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        if preds.loss is None:
            raise ConfigError("a loss of this network needs the targets with the images")
        by_name = {name: preds.loss.new_zeros(()) for name in self.names}
        for name, value in preds.terms.items():
            if (key := column(name)) in by_name:
                by_name[key] = by_name[key] + value.detach()
        items = torch.stack(list(by_name.values()))
        # Terms are means over the boxes of this process; over all ranks they are to be means over
        # those of the whole batch.
        mine = preds.loss.new_tensor(float(max(preds.targets, 1)))
        self.weight = mine
        if self._sum_over_ranks is None or not torch.is_grad_enabled():
            return preds.loss, items
        share = mine * self.ranks / self._sum_over_ranks(mine.clone()).clamp(min=1)
        return preds.loss * share, items * share


def column(term: str) -> str:
    """The column of results.csv in which a term of the library counts."""
    if DENOISING.search(term):
        return DN
    return AUX if AUXILIARY.search(term) else term


def library_targets(batch: Mapping[str, Any]) -> list[dict[str, Tensor]]:
    """The truth of each image as the library takes it: {"class_labels" (n,) int64, "boxes" (n, 4)
    centre and size as fractions}.
    """
    h, w = batch["img"].shape[-2:]
    found = []
    for each in image_targets(batch, first_label=0):
        boxes = xyxy_to_xywh(each["boxes"]) / each["boxes"].new_tensor([w, h, w, h])
        found.append({"class_labels": each["labels"], "boxes": boxes})
    return found


@lru_cache(maxsize=OLDEST)
def _tried(spec: str, size: Size) -> tuple[str, ...]:
    """The columns of the loss, found by one training step on two drawn images: whether a network of
    the library can be trained here shows only there.

    Raises:
        ConfigError: it cannot; what the library said.
    """
    plain = json.loads(spec)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        try:
            module = build(plain["config"], 2, plain["mean"], plain["std"])
            images = torch.rand(2, 3, *size)
            boxes = torch.tensor([[0.5, 0.5, 0.2, 0.3], [0.3, 0.4, 0.1, 0.2], [0.5, 0.4, 0.3, 0.2]])
            batch = {"img": images, "bboxes": boxes, "cls": torch.tensor([[0.0], [1.0], [1.0]])}
            batch["batch_idx"] = torch.tensor([0.0, 0.0, 1.0])
            preds = module(images, library_targets(batch))
            boxes, scores = decode(preds)
        except ConfigError:
            raise
        except Exception as error:  # whatever a network of the library raises
            raise ConfigError(
                f"model='{plain['name']}' ({plain['config'].get('model_type')}) cannot be trained "
                f"here at {size[0]}x{size[1]} px: {in_words(error)}"
            ) from error
    if scores.shape[-1] != 2 or boxes.shape[:2] != scores.shape[:2]:
        raise ConfigError(
            f"model='{plain['name']}': its output is not boxes and scores of each query"
        )
    return tuple(dict.fromkeys(column(term) for term in preds.terms))
