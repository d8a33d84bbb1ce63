"""A network of the user's own: made by the `get_model` of a trainer class, named in its weights by
that class (`family: mine.net:Mine`), and so at hand wherever the weights are.

The trainer says what a family says: `get_model` builds, `forward` and `criterion` train,
`candidates` reads the output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.config import DetectionTrainConfig
from engine.errors import CheckpointError, TrainingError
from engine.models.detections import padded
from engine.models.family import Candidates, Criterion, Family, Spec
from engine.models.yolov8.decode import decode
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
            f"there is no loss for what the network returned in training ({_kind(preds)}): "
            f"override criterion(preds, batch) in {self.owner}"
        )


def read_candidates(preds: Any, classes: int, first_label: int = 1) -> Candidates:
    """Boxes (B, N, 4) xyxy px of the input and scores (B, N, classes) of what a network of the
    user's own returns in eval mode: such a pair, our `Preds`, or of each image a dictionary with
    boxes, scores and labels as torchvision's detectors give it.

    first_label: in such dictionaries, the label of class 0.

    Raises:
        TrainingError: something else; says what, and the method to override.
    """
    if isinstance(preds, Preds):
        return decode(preds)
    if isinstance(preds, (tuple, list)) and len(preds) == 2 and _is_pair(*preds):
        boxes, scores = preds
        if scores.shape[-1] != classes:
            raise TrainingError(
                f"the network gives scores for {scores.shape[-1]} classes, and there are {classes}"
            )
        return boxes.float(), scores.float()
    if isinstance(preds, Sequence) and all(
        isinstance(one, Mapping) and {"boxes", "scores", "labels"} <= set(one) for one in preds
    ):
        return padded(preds, classes, first_label)
    raise TrainingError(
        f"what the network returned in eval mode ({_kind(preds)}) is none of: boxes (B, N, 4) xyxy "
        "px with scores (B, N, C), engine.models.yolov8.Preds, a list of {boxes, scores, labels}. "
        "Override candidates(preds) of the trainer to bring it into the first form"
    )


def _is_pair(boxes: Any, scores: Any) -> bool:
    return (
        isinstance(boxes, Tensor)
        and isinstance(scores, Tensor)
        and boxes.ndim == scores.ndim == 3
        and boxes.shape[:2] == scores.shape[:2]
        and boxes.shape[-1] == 4
    )


def _default(config: DetectionTrainConfig, key: str) -> Any:
    field = type(config).model_fields[key]
    value = field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value


def _kind(value: Any) -> str:
    """`tuple of Tensor (2, 8, 4), Tensor (2, 8)`."""
    name = type(value).__name__
    if isinstance(value, Tensor):
        return f"{name} {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"{name} of {', '.join(_kind(part) for part in value[:4])}"
    return name
