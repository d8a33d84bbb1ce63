"""YOLOv8 as a family: the table between `engine.models.family.Family` and the parts here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from engine.errors import ConfigError
from engine.models.family import CandidateModule, Candidates, Family, Foreign, Spec
from engine.models.hub.files import PREFIX as HUB
from engine.models.hub.origins import Origin
from engine.models.transfer import ClassRows
from engine.models.yolov8 import timm_backbone
from engine.models.yolov8.backbones import load_pretrained
from engine.models.yolov8.decode import decode
from engine.models.yolov8.fuse import fuse
from engine.models.yolov8.loss import DetectionLoss
from engine.models.yolov8.network import DetectionModel, Preds, build_model
from engine.models.yolov8.published import read_published
from engine.models.yolov8.spec import SCALES, STRIDES, find_spec
from engine.plugins import is_dotted
from engine.types import Size

if TYPE_CHECKING:  # settings of a training: what validates or exports does not depend on them
    from engine.config import DetectionTrainConfig


class YOLOv8Family(Family):
    """`yolov8n` to `yolov8x`, or a .yaml with `depth`, `width`, `max_channels`."""

    name = "yolov8"
    loss_names = ("box_loss", "cls_loss", "dfl_loss")

    def knows(self, model: str) -> bool:
        return model in SCALES or Path(model).suffix in {".yaml", ".yml"}

    def names(self) -> tuple[str, ...]:
        return (*SCALES, "a model .yaml")

    def spec(self, model: str, config: DetectionTrainConfig) -> Spec:
        if is_dotted(model):
            raise ConfigError(
                f"model='{model}' names a family, and it does not say which network: write "
                f"spec(self, model, config) in {type(self).__name__}, for example with "
                "`return super().spec('yolov8n', config)`"
            )
        found = find_spec(model)
        if config.backbone.startswith(timm_backbone.PREFIX):
            timm_backbone.check(config.backbone)
        return replace(found, backbone=config.backbone or found.backbone).to_dict()

    def build(self, spec: Spec, classes: int) -> nn.Module:
        return build_model(spec, classes)

    def spec_of(self, module: nn.Module) -> Spec | None:
        # A class derived from it may compute something else; it is not ours to build again.
        own = type(module) is DetectionModel and module.spec is not None
        return module.spec.to_dict() if own else None

    def hub_names(self, settings: Mapping[str, Any]) -> Mapping[str, str]:
        backbone, given = settings.get("backbone"), settings.get("pretrained")
        if not (isinstance(backbone, str) and backbone.startswith(timm_backbone.PREFIX)):
            return {}
        if given is True:
            return {"pretrained": HUB + timm_backbone.hub_name(backbone)}
        return {"pretrained": given} if isinstance(given, str) and given.startswith(HUB) else {}

    def pretrain(
        self, module: nn.Module, config: DetectionTrainConfig, cache: Path
    ) -> Origin | None:
        if not config.pretrained:
            return None
        return load_pretrained(
            module.backbone, config.pretrained, cache / "pretrained", config.accept_licence
        )

    def check_start(self, spec: Spec, config: DetectionTrainConfig, file: str) -> None:
        own = spec.get("backbone", "")
        if config.backbone in ("", own) and not config.pretrained:
            return
        asked = "pretrained" if config.backbone in ("", own) else f"backbone={config.backbone}"
        raise ConfigError(
            f"{asked}: {file} brings its own network ({spec['name']}, backbone "
            f"{own or 'of the family'}) and weights; leave it out, or give a model name such "
            "as yolov8n instead of the file"
        )

    def read_foreign(self, path: Path) -> Foreign:
        found = read_published(path)
        spec = find_spec(found.scale).to_dict()
        classes = found.state["head.cls.0.2.bias"].shape[0]
        return Foreign(spec, classes, found.names, found.imgsz, found.state)

    def stride(self, spec: Spec) -> int:
        return max(STRIDES)

    def criterion(
        self,
        spec: Spec,
        config: DetectionTrainConfig,
        class_weights: Tensor | None = None,
        ranks: int = 1,
        sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> DetectionLoss:
        return DetectionLoss(
            config.box,
            config.cls,
            config.dfl,
            class_weights,
            least_side=config.least_side,
            ranks=ranks,
            sum_over_ranks=sum_over_ranks,
        )

    def default_lr(self, optimizer: str) -> float:
        return 0.01 if optimizer == "SGD" else 0.002

    def class_rows(self, module: nn.Module, spec: Spec, classes: int) -> Mapping[str, ClassRows]:
        # One row per class: the last layer of the class branch of each of the three maps.
        return {
            f"head.cls.{level}.2.{part}": ClassRows()
            for level in range(len(STRIDES))
            for part in ("weight", "bias")
        }

    def reads(self, preds: Any) -> bool:
        return isinstance(preds, Preds)

    def candidates(self, preds: Preds) -> Candidates:
        return decode(preds)

    def fuse(self, module: nn.Module) -> nn.Module:
        return fuse(module)

    def export_module(self, module: nn.Module, size: Size) -> nn.Module:
        return CandidateModule(self, fuse(module)).eval()
