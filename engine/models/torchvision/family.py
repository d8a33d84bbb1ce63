"""torchvision's detectors as a family: `train.model: torchvision:ssdlite320_mobilenet_v3_large`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.errors import ConfigError, nearest
from engine.models.detections import padded
from engine.models.family import Candidates, Criterion, Family, Published, Spec, refuse_yolov8s
from engine.models.finite import not_finite
from engine.models.hub.files import WEIGHTS, folder_of, name_of, source_of
from engine.models.hub.origins import Origin, origin_of
from engine.models.hub.torchvision_weights import class_names
from engine.models.targets import image_targets
from engine.models.torchvision.networks import (
    NETWORKS,
    Dense,
    Detector,
    Found,
    StaticDetector,
    build,
    decode,
)
from engine.models.torchvision.two_stage import StaticTwoStageDetector
from engine.models.transfer import ClassRows, Transfer
from engine.types import Size

if TYPE_CHECKING:  # settings of a training: what validates or exports does not depend on them
    from engine.config import DetectionTrainConfig

PREFIX = "torchvision:"
# Tensors with rows by class, by torchvision's names.
SSD_BRANCH = re.compile(r"(head\.classification_head\.module_list\.\d+)\.")
BY_CLASS = ("head.classification_head.cls_logits.", "roi_heads.box_predictor.cls_score.")
BOX_BY_CLASS = "roi_heads.box_predictor.bbox_pred."


class TorchvisionFamily(Family):
    """SSD, SSDlite, RetinaNet, FCOS and Faster R-CNN by torchvision's names."""

    name = "torchvision"

    def knows(self, model: str) -> bool:
        return model.startswith(PREFIX)

    def names(self) -> tuple[str, ...]:
        return tuple(PREFIX + name for name in NETWORKS)

    def hub_names(self, settings: Mapping[str, Any]) -> Mapping[str, str]:
        model = settings["model"]
        name, _, weights = model.removeprefix(PREFIX).partition("@")
        return {"model": model} if weights and name in NETWORKS else {}

    def spec(self, model: str, config: DetectionTrainConfig) -> Spec:
        network, _, weights = model.partition("@")
        if network.removeprefix(PREFIX) not in NETWORKS:
            raise ConfigError(
                f"model='{model}' is not known.{nearest(model, self.names())} Of torchvision there "
                f"are {', '.join(NETWORKS)}"
            )
        refuse_yolov8s(config, model)
        if not weights:
            return {"name": model}
        return {"name": network, "source": source_of(folder_of(model))}

    def build(self, spec: Spec, classes: int) -> nn.Module:
        return build(_name(spec), classes)

    def spec_of(self, module: nn.Module) -> Spec | None:
        return {"name": PREFIX + module.name} if isinstance(module, Detector) else None

    def origin(self, spec: Spec) -> Origin | None:
        return origin_of(spec["source"]) if "source" in spec else None

    def start(self, module: nn.Module, spec: Spec, names: Sequence[str]) -> Transfer | None:
        if "source" not in spec:
            return None
        reference = name_of(spec["source"])
        file = folder_of(reference) / WEIGHTS
        state = load_file(file)
        if wrong := not_finite(state):
            raise ConfigError(f"{file}: {wrong}")
        return self.transfer(module, state, _classes(reference), names, spec)

    def published(self, model: str, accepted: str | None = None) -> Published | None:
        if "@" not in model:
            return None
        reference = name_of(source_of(folder_of(model)))
        native = re.search(r"300|320", reference)  # the size is in the name where it is fixed
        return Published(_classes(reference), int(native[0]) if native else None)

    def check_start(self, spec: Spec, config: DetectionTrainConfig, file: str) -> None:
        refuse_yolov8s(config, f"{spec['name']} of {file}")

    def stride(self, spec: Spec) -> int:
        # SSD places its boxes by fractions of the input, so any size will do, also its native 300.
        return 1 if _name(spec).startswith("ssd") else 32

    def smallest(self, spec: Spec) -> int:
        return NETWORKS[_name(spec)].smallest_px

    def losses(self, spec: Spec) -> tuple[str, ...]:
        return NETWORKS[_name(spec)].losses

    def criterion(
        self,
        spec: Spec,
        config: DetectionTrainConfig,
        class_weights: Tensor | None = None,
        ranks: int = 1,
        sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> Criterion:
        refuse_yolov8s(config, spec["name"])
        return SumOfLosses(self.losses(spec))

    def forward(self, module: nn.Module, batch: Mapping[str, Any]) -> Any:
        return module(batch["img"], image_targets(batch) if module.training else None)

    def has_loss(self, preds: Any) -> bool:
        return not isinstance(preds, Found)  # Faster R-CNN's losses need its training mode

    def default_lr(self, optimizer: str) -> float:
        return 0.005 if optimizer == "SGD" else 0.0005

    def class_rows(self, module: nn.Module, spec: Spec, classes: int) -> Mapping[str, ClassRows]:
        ahead = NETWORKS[_name(spec)].background
        rows = {}
        for name in module.state_dict():
            if SSD_BRANCH.match(name):  # one branch a map; in an SSDlite other layers come first
                if _ends_branch(module, name):
                    rows[name] = ClassRows(background=ahead)
            elif name.startswith(BY_CLASS):
                rows[name] = ClassRows(background=ahead)
            elif name.startswith(BOX_BY_CLASS):
                rows[name] = ClassRows(inner=4, background=ahead)
        return rows

    def selects(self, spec: Spec) -> bool:
        return not NETWORKS[_name(spec)].dense

    def candidates(self, preds: Any) -> Candidates:
        if isinstance(preds, Found):
            return padded(preds.detections, preds.classes, first_label=1)
        return decode(preds)

    def export_module(self, module: nn.Module, size: Size) -> nn.Module:
        static = StaticDetector if NETWORKS[module.name].dense else StaticTwoStageDetector
        return static(module, size).eval()


class SumOfLosses(Criterion):
    """The sum of torchvision's terms, each mean over what torchvision takes it over."""

    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        device = batch["img"].device
        # In float32 also inside autocast: anchors in pixels do not survive 16 bits.
        with torch.autocast(device.type, enabled=False):
            if isinstance(preds, Dense):
                detector = preds.detector
                preds = detector.losses(preds, image_targets(batch, detector.network.background))
            items = torch.stack([preds[name].float() for name in self.names])
            return items.sum(), items.detach()


def _classes(reference: str) -> tuple[str, ...]:
    """By column. A head without one for the background counts torchvision's first class as one."""
    network, word = reference.split("@")
    return class_names(network, word)[NETWORKS[network.removeprefix(PREFIX)].background :]


def _name(spec: Spec) -> str:
    return spec["name"].removeprefix(PREFIX)


def _ends_branch(module: nn.Module, name: str) -> bool:
    """Whether a tensor belongs to the last layer of its branch."""
    *_, last = module.get_submodule(SSD_BRANCH.match(name)[1]).modules()
    return module.get_submodule(name.rpartition(".")[0]) is last
