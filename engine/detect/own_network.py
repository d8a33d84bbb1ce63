"""A network of the user's own: made by the `get_model` of a trainer class, named in its weights by
that class (`family: mine.net:Mine`), and so at hand wherever the weights are.

The trainer says what a family says: `get_model` builds, `forward` and `criterion` train,
`candidates` reads the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.config import DetectionTrainConfig
from engine.detect.candidates import kind_of
from engine.errors import CheckpointError, TrainingError
from engine.models.family import Candidates, Criterion, Family, Spec
from engine.models.yolov8.loss import DetectionLoss
from engine.models.yolov8.network import Preds

# Settings that say where and how, and not what network: they are not kept with it.
NOT_OF_THE_NETWORK = {
    *("model", "data", "project", "name", "exist_ok", "resume", "extend", "trainer", "callbacks"),
    *("device", "workers", "verbose", "cache", "nproc", "plots", "pretrained", "batch", "epochs"),
}


class OwnNetwork(Family):
    """The network that a trainer class makes, as a family.

    trainer: one at hand, which is training; else one is made when it is needed.
    """

    def __init__(self, name: str, trainer_class: Any, trainer: Any = None):
        self.name = name
        self.trainer_class, self.trainer = trainer_class, trainer
        self._is_training = trainer is not None
        self.needs_nms = trainer_class.needs_nms
        self.loss_names = trainer_class.loss_names

    def knows(self, model: str) -> bool:
        return False  # `train.trainer` says who makes it, not `train.model`

    def names(self) -> tuple[str, ...]:
        return ()

    def spec(self, model: str, config: DetectionTrainConfig) -> Spec:
        """The setting `model`, and the settings that differ from their defaults."""
        given = {
            key: value
            for key, value in config.model_dump(mode="json").items()
            if key not in NOT_OF_THE_NETWORK and value != _default(config, key)
        }
        return {"model": model, "settings": given}

    def build(self, spec: Spec, classes: int) -> nn.Module:
        trainer = self.trainer or self._make_trainer(spec)
        before = trainer.names
        if len(before) != classes:  # only their number counts here
            trainer.names = tuple(f"class {number}" for number in range(classes))
        try:
            module = trainer.get_model(cfg=spec["model"], weights=None)
        finally:
            if self._is_training:
                trainer.names = before
        if not isinstance(module, nn.Module):
            raise TrainingError(
                f"{self.trainer_class.__name__}.get_model must return a torch.nn.Module; it "
                f"returned {type(module).__name__}"
            )
        return module

    def stride(self, spec: Spec) -> int:
        return self.trainer_class.stride

    def criterion(
        self,
        spec: Spec,
        config: DetectionTrainConfig,
        class_weights: Tensor | None = None,
        ranks: int = 1,
        sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> Criterion:
        ours = DetectionLoss(
            config.box,
            config.cls,
            config.dfl,
            class_weights,
            ranks=ranks,
            sum_over_ranks=sum_over_ranks,
        )
        return OwnLoss(ours, self.loss_names, self.trainer_class.__name__)

    def forward(self, module: nn.Module, batch: Mapping[str, Any]) -> Any:
        if self.trainer is None:
            return module(batch["img"])
        return self.trainer.forward(model=module, batch=batch)

    def has_loss(self, preds: Any) -> bool:
        return isinstance(preds, (Preds, Mapping))

    def candidates(self, preds: Any) -> Candidates:
        if self.trainer is None:
            raise TrainingError(f"{self.name}: build the network before its output is read")
        return self.trainer.candidates(preds)

    def _make_trainer(self, spec: Spec) -> Any:
        """A trainer that trains nothing: it knows how to build and to read."""
        schema = self.trainer_class.config_class
        known = {k: v for k, v in spec.get("settings", {}).items() if k in schema.model_fields}
        config = schema.build({**known, "model": spec["model"], "device": "cpu"}, self.name)
        try:
            self.trainer = self.trainer_class(config=config)
        except TypeError as error:
            raise CheckpointError(
                f"{self.name}: cannot be made to load its weights: {error}. Its __init__ must take "
                "overrides= and config= as DetectionTrainer's does"
            ) from error
        return self.trainer


class OwnLoss(Criterion):
    """The loss of a network that brings no `criterion`: ours on `Preds`, the sum of a dictionary of
    losses such as torchvision's detectors give in training.
    """

    def __init__(self, ours: DetectionLoss, names: tuple[str, ...], owner: str):
        self.ours, self.names, self.owner = ours, names, owner

    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        if isinstance(preds, Preds):
            loss = self.ours(preds, batch)
            self.weight = self.ours.weight
            return loss
        if isinstance(preds, Mapping):
            self.weight = None
            if set(preds) != set(self.names):
                raise TrainingError(
                    f"the network gives the losses {', '.join(map(str, preds))}, and "
                    f"{self.owner}.loss_names are {', '.join(self.names)}. Write on the class: "
                    f"loss_names = {tuple(map(str, preds))}"
                )
            items = torch.stack([preds[name].float() for name in self.names])
            return items.sum(), items.detach()
        raise TrainingError(
            f"there is no loss for what the network returned in training ({kind_of(preds)}): "
            f"override criterion(preds, batch) in {self.owner}"
        )


def _default(config: DetectionTrainConfig, key: str) -> Any:
    field = type(config).model_fields[key]
    value = field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value
