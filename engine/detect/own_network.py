"""A network of the user's own: made by the `get_model` of a trainer class, named in its weights by
that class (`family: mine.net:Mine`), and so at hand wherever the weights are.

The trainer says what a family says: `get_model` builds, `forward` and `criterion` train,
`candidates` reads the output. What it does not say is `PlainNetwork`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engine.config import DetectionTrainConfig
from engine.detect.candidates import read_candidates
from engine.detect.methods import made
from engine.errors import CheckpointError, ConfigError, TrainingError
from engine.models.family import kind_of
from engine.models.registry import (
    Candidates,
    Criterion,
    Family,
    Spec,
    built_in,
)

# Settings that say where and how, and not what network: they are not kept with it.
NOT_OF_THE_NETWORK = {
    *("model", "data", "project", "name", "exist_ok", "resume", "extend", "trainer", "callbacks"),
    *("device", "workers", "verbose", "cache", "nproc", "plots", "pretrained", "batch", "epochs"),
}


MODEL, SETTINGS = "model", "settings"  # keys of the spec of such a network, and of no other


class PlainNetwork(Family):
    """A network of which only its output is known: what the methods of `DetectionTrainer` do with
    one that a class of the user's own makes.
    """

    def __init__(self, name: str, trainer_class: Any, trainer: Any = None):
        self.name = name
        self.trainer_class, self.trainer = trainer_class, trainer
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
        return {MODEL: model, SETTINGS: given}

    def build(self, spec: Spec, classes: int) -> nn.Module:
        raise NotImplementedError  # `OwnNetwork` does

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
        def loss_of(family: Family) -> Criterion:
            return family.criterion(spec, config, class_weights, ranks, sum_over_ranks)

        return OwnLoss(loss_of, self.loss_names, self.trainer_class.__name__)

    def default_lr(self, optimizer: str) -> float:
        return 0.01 if optimizer == "SGD" else 0.002

    def has_loss(self, preds: Any) -> bool:
        return isinstance(preds, Mapping) or any(f.reads(preds) for f in built_in())

    @property
    def candidates_owner(self) -> str:
        return f"{self.trainer_class.__name__}.candidates"

    def candidates(self, preds: Any) -> Candidates:
        return read_candidates(preds, len(self.trainer.names), self.trainer.first_label)


class OwnNetwork(PlainNetwork):
    """The network that a trainer class makes, as a family; it asks that class.

    trainer: one at hand, which is training; else one is made when it is needed.
    """

    def __init__(self, name: str, trainer_class: Any, trainer: Any = None):
        super().__init__(name, trainer_class, trainer)
        self._is_training = trainer is not None

    def without_trainer(self) -> Family:
        return PlainNetwork(self.name, self.trainer_class, self.trainer)

    def build(self, spec: Spec, classes: int) -> nn.Module:
        trainer = self.trainer or self._make_trainer(spec)
        before = trainer.names
        if len(before) != classes:  # only their number counts here
            trainer.names = tuple(f"class {number}" for number in range(classes))
        try:
            module = trainer.get_model(cfg=spec[MODEL], weights=None)
        finally:
            if self._is_training:
                trainer.names = before
        if not isinstance(module, nn.Module):
            raise TrainingError(
                f"{self.trainer_class.__name__}.get_model must return a torch.nn.Module; it "
                f"returned {type(module).__name__}"
            )
        return module

    def forward(self, module: nn.Module, batch: Mapping[str, Any]) -> Any:
        if self.trainer is None:
            return super().forward(module, batch)
        return self.trainer.forward(model=module, batch=batch)

    def candidates(self, preds: Any) -> Candidates:
        if self.trainer is None:
            raise TrainingError(f"{self.name}: build the network before its output is read")
        return self.trainer.candidates(preds)

    def _make_trainer(self, spec: Spec) -> Any:
        """A trainer that trains nothing: it knows how to build and to read."""
        schema = self.trainer_class.config_class
        known = {k: v for k, v in spec.get(SETTINGS, {}).items() if k in schema.model_fields}
        config = schema.build({**known, "model": spec[MODEL], "device": "cpu"}, self.name)
        try:
            self.trainer = made(self.trainer_class, config=config)
        except ConfigError as error:
            raise CheckpointError(f"{self.name}: cannot load its weights: {error}") from error
        return self.trainer


class OwnLoss(Criterion):
    """The loss of a network that brings no `criterion`: that of the family whose output it gives
    (`Preds` of YOLOv8), the sum of a dictionary of losses such as torchvision's detectors give in
    training.

    loss_of: makes the loss of a family.
    """

    def __init__(self, loss_of: Callable[[Family], Criterion], names: tuple[str, ...], owner: str):
        self.loss_of, self.names, self.owner = loss_of, names, owner
        self._of_family: dict[str, Criterion] = {}

    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        for family in built_in():
            if family.reads(preds):
                return self._by_family(family, preds, batch)
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

    def _by_family(
        self, family: Family, preds: Any, batch: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        if family.name not in self._of_family:
            self._of_family[family.name] = self.loss_of(family)
        ours = self._of_family[family.name]
        loss = ours(preds, batch)
        self.weight = ours.weight
        return loss


def trainer_path_in(meta: Mapping[str, Any]) -> str | None:
    """The trainer class that made the network of a weight file, as `package.module:Name`, which
    need not be at hand; None: a family did.

    meta: of the file.
    """
    is_own = {MODEL, SETTINGS} == set(meta.get("architecture") or ())
    return str(meta["family"]) if is_own else None


def _default(config: DetectionTrainConfig, key: str) -> Any:
    field = type(config).model_fields[key]
    value = field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value
