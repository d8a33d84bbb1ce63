"""What a family of networks says of itself.

A `Family` answers everything that code elsewhere would otherwise ask by the network's name: how to
build it, what a batch costs, what its output means in pixels, which sizes it takes, how weights
move to other classes, how it is exported. `engine.models.registry` finds families; nothing outside
a family's own folder compares names.

Letters: B images, N candidates of an image, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError, ConfigError, TrainingError
from engine.models.hub.origins import Origin
from engine.models.transfer import ClassRows, Transfer, transfer
from engine.types import Size

if TYPE_CHECKING:  # settings of a training: what validates or exports does not depend on them
    from engine.config import DetectionTrainConfig

Spec = dict[str, Any]  # plain data: all that is needed to build a network again
Candidates = tuple[Tensor, Tensor]  # boxes (B, N, 4) xyxy px of the input, scores (B, N, C)


class Criterion(ABC):
    """`loss, items = criterion(preds, batch)`: a scalar to be minimised, and its terms detached.

    `weight`, of the last call: what the items are sums divided by, but at least 1 (the sum of
    target scores, say); None where they are means over images.
    """

    weight: Tensor | None = None

    @abstractmethod
    def __call__(self, preds: Any, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]: ...


class Foreign(NamedTuple):
    """A network of a family in a file that another tool wrote."""

    spec: Spec
    classes: int
    names: tuple[str, ...]  # of the classes; () where the file does not say
    imgsz: int | None  # it was trained for, pixels
    state: Mapping[str, Tensor]  # float32, under the names of `Family.build`


class Published(NamedTuple):
    """What published weights know, as their page says it."""

    names: tuple[str, ...]  # of the classes, by column; () where nobody says
    imgsz: int | None  # the side they were trained for, pixels


class Family(ABC):
    """One kind of network. Has no state: what differs between two networks is in their `Spec`."""

    name: str  # as a checkpoint says it: a built-in name, an entry point, or package.module:Attr
    loss_names: tuple[str, ...] = ("loss",)
    needs_nms: bool = True  # whether candidates still hold doubles of one object
    trainer_class: Any = None  # the trainer class that makes its networks, where one does

    # Which networks there are ---------------------------------------------------------------------

    @abstractmethod
    def knows(self, model: str) -> bool:
        """Whether `train.model` names one of this family, perhaps misspelt."""

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """What `train.model` may be, for help, errors and docs."""

    @abstractmethod
    def spec(self, model: str, config: DetectionTrainConfig) -> Spec:
        """The network that `model` and the settings ask for. Plain data that travels with the
        weights; its key `name`, where there is one, is shown to people.

        Raises:
            ConfigError: an unknown name, or settings that this family has no use for.
        """

    @abstractmethod
    def build(self, spec: Spec, classes: int) -> nn.Module:
        """The network with fresh weights, in training mode. It takes (B, 3, H, W) float RGB in
        [0, 1] and normalises it itself.
        """

    def spec_of(self, module: nn.Module) -> Spec | None:
        """The spec of a module that this family can build again, None for any other: how a network
        that a user's `get_model` returns is recognised.
        """
        return None

    def hub_names(self, settings: Mapping[str, Any]) -> Mapping[str, str]:
        """Settings of section train that name weights on Hugging Face's hub, or stand for such:
        key -> `hf:ORG/NAME`, perhaps with its revision. settings: as given, not yet checked.

        Raises:
            ConfigError: a value for which there are none.
        """
        return {}

    def pretrain(
        self, module: nn.Module, config: DetectionTrainConfig, cache: Path
    ) -> Origin | None:
        """Load published weights where the settings ask for them, and say which they are; `cache`
        keeps downloads.
        """
        return None

    def origin(self, spec: Spec) -> Origin | None:
        """Which weights `start` begins with, None where it begins with none."""
        return None

    def start(self, module: nn.Module, spec: Spec, names: Sequence[str]) -> Transfer | None:
        """Put the weights that the spec's name stands for into a fresh `module` of classes `names`;
        None where it stands for none.

        Raises:
            ConfigError: they cannot be read.
        """
        return None

    def published(self, model: str, accepted: str | None = None) -> Published | None:
        """What the weights know that `start` begins with; None where the name stands for none.
        accepted: the setting train.accept_licence, which a download may need.

        Raises:
            ConfigError, WorkspaceError: they cannot be had.
        """
        return None

    def check_start(self, spec: Spec, config: DetectionTrainConfig, file: str) -> None:
        """ConfigError where settings contradict the network that a weight file brings."""
        return None

    def read_foreign(self, path: Path) -> Foreign:
        """The network in a file that another tool wrote; nothing of the file is run.

        Raises:
            CheckpointError: it holds none of this family.
        """
        raise CheckpointError(f"{path}: weights of other tools are not read of family {self.name}")

    # Sizes ----------------------------------------------------------------------------------------

    def stride(self, spec: Spec) -> int:
        """Input sides must be multiples of it, pixels."""
        return 32

    def smallest(self, spec: Spec) -> int:
        """The smallest input side, pixels."""
        return self.stride(spec)

    def check_size(self, spec: Spec, size: Size) -> None:
        """ConfigError with near sizes that fit, where the network cannot take `size`."""
        check_input_size(size, self.stride(spec), self.smallest(spec))

    # Training -------------------------------------------------------------------------------------

    def losses(self, spec: Spec) -> tuple[str, ...]:
        """Names of the terms of the loss, in the order of the criterion's items."""
        return self.loss_names

    @abstractmethod
    def criterion(
        self,
        spec: Spec,
        config: DetectionTrainConfig,
        class_weights: Tensor | None = None,
        ranks: int = 1,
        sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> Criterion:
        """The loss with the settings of a run.

        class_weights: (C,) factors, None: all 1. ranks, sum_over_ranks: where a batch is shared by
        several processes, their number and the sum of a tensor over them.

        Raises:
            ConfigError: a setting of the loss that this family has no use for.
        """

    def forward(self, module: nn.Module, batch: Mapping[str, Any]) -> Any:
        """What the network says of a batch, for `criterion` and `candidates`. `batch["img"]` is
        (B, 3, H, W) float RGB in [0, 1]; `module.training` says whether targets are wanted too.
        """
        return module(batch["img"])

    def has_loss(self, preds: Any) -> bool:
        """Whether a loss follows from these predictions; of some networks not in eval mode."""
        return True

    def reads(self, preds: Any) -> bool:
        """Whether predictions are in this family's own form, so that its `criterion` and
        `candidates` read them, whatever network gave them: a user's network may end in our head.
        """
        return False

    def recipe(self, spec: Spec) -> Mapping[str, Any]:
        """Settings of section train that this network is trained with where the user gives none."""
        return {}

    def default_lr(self, optimizer: str) -> float:
        """Peak learning rate where the user gives none; optimizer: SGD, or one of Adam's
        kind."""
        return 0.01 if optimizer == "SGD" else 0.001

    def transfer(
        self,
        module: nn.Module,
        state: Mapping[str, Tensor],
        old_names: Sequence[str],
        new_names: Sequence[str],
        spec: Spec,
    ) -> Transfer:
        """Copy weights of a network with classes `old_names` into `module` with `new_names`; class
        rows are found by name.
        """
        rows = self.class_rows(module, spec, len(new_names))
        return transfer(module, state, tuple(old_names), tuple(new_names), rows)

    def class_rows(self, module: nn.Module, spec: Spec, classes: int) -> Mapping[str, ClassRows]:
        """The tensors with rows by class. By default found by building the network for one class
        more and looking what grows. Where one class adds several rows their order is not known from
        outside: such a layer starts anew, unless the classes are the same.
        """
        with torch.random.fork_rng(devices=[]):
            more = self.build(spec, classes + 1).state_dict()
        rows = {}
        for name, tensor in module.state_dict().items():
            if name not in more or more[name].shape == tensor.shape or not tensor.ndim:
                continue
            grown = more[name].shape[0] - tensor.shape[0]
            if grown == 1:
                rows[name] = ClassRows(background=tensor.shape[0] - classes)
        return rows

    # Use ------------------------------------------------------------------------------------------

    @abstractmethod
    def candidates(self, preds: Any) -> Candidates:
        """Boxes (B, N, 4) xyxy in pixels of the input, scores (B, N, C) in [0, 1]; rows of score 0
        stand for nothing.
        """

    @property
    def candidates_owner(self) -> str:
        """Whose code `candidates` is, for messages."""
        return f"{type(self).__name__}.candidates"

    def selects(self, spec: Spec) -> bool:
        """Whether the candidates are a selection by the network itself: how many there are, and
        their order, depend on the image and on rounding.
        """
        return not self.needs_nms

    def without_trainer(self) -> Family:
        """The family as it is where no trainer class overrides a method: what the methods of
        `DetectionTrainer` do.
        """
        return self

    def fuse(self, module: nn.Module) -> nn.Module:
        """The network with fewer operations and the same function, to predict with: a copy in eval
        mode. By default the module as it is.
        """
        return module

    def export_module(self, module: nn.Module, size: Size) -> nn.Module:
        """A module in eval mode that can be traced: forward(images (B, 3, H, W) float RGB in
        [0, 1]) -> boxes, scores as `candidates` gives them. size: (h, w) of the input.
        """
        return CandidateModule(self, module).eval()

    def can_export(self, spec: Spec, format: str) -> str | None:
        """Why a network cannot be written in a format, known before it is trained; None: it can."""
        return None


def check_input_size(size: Size, step: int, least: int) -> None:
    """ConfigError with near sizes that fit, unless both sides of `size` are multiples of `step` and
    at least `least`, pixels.
    """
    wrong = [side for side in size if side < least or side % step]
    if not wrong:
        return
    side, least = wrong[0], -(-least // step) * step
    below, above = max(least, side // step * step), max(least, -(-side // step) * step)
    near = f"{below}" if below == above else f"{below} or {above}"
    what = "at least" if step == 1 else f"a multiple of {step} (the largest stride), at least"
    what = f"{what} {least}" if least > step else what.removesuffix(", at least")
    got = str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
    raise ConfigError(f"imgsz must be {what} for this network: got {got}, try {near}.")


# Settings of section train that only the YOLOv8 family heeds.
YOLOV8S = ("backbone", "pretrained", "class_weights", "box", "cls", "dfl", "least_side")


def refuse_yolov8s(config: DetectionTrainConfig, network: str) -> None:
    """ConfigError where one of `YOLOV8S` has another value than its default: for networks of other
    families.
    """
    for key in YOLOV8S:
        value, default = getattr(config, key), type(config).model_fields[key].default
        if value != default:
            raise ConfigError(
                f"{key}={value}: {network} has no use for it; it belongs to the YOLOv8 family. "
                f"Leave {key} out"
            )


def check_candidates(found: Any, images: int, classes: int, owner: str) -> Candidates:
    """What `candidates` of a user's own code gave, where it is boxes (images, N, 4) and scores
    (images, N, classes).

    owner: `mine.net:Mine.candidates`, for the message.

    Raises:
        TrainingError: it is something else; says what, and what is wanted.
    """
    wanted = f"boxes ({images}, N, 4) and scores ({images}, N, {classes}): a pair of tensors"
    is_pair = isinstance(found, (tuple, list)) and len(found) == 2
    if is_pair and all(isinstance(part, Tensor) and part.ndim == 3 for part in found):
        boxes, scores = found
        count = boxes.shape[1]
        if boxes.shape == (images, count, 4) and scores.shape == (images, count, classes):
            return boxes, scores
    raise TrainingError(
        f"{owner} returned {kind_of(found)}. Wanted for a batch of {images} images and {classes} "
        f"classes: {wanted}"
    )


def kind_of(value: Any) -> str:
    """`tuple of Tensor (2, 8, 4), Tensor (2, 8)`, for messages."""
    name = type(value).__name__
    if isinstance(value, Tensor):
        return f"{name} {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"{name} of {', '.join(kind_of(part) for part in value[:4])}"
    return name


class CandidateModule(nn.Module):
    """A network of a family as one function: images (B, 3, H, W) -> (boxes, scores).

    classes: their number, where the form of the answer shall be checked; None while it is traced.
    """

    def __init__(self, family: Family, module: nn.Module, classes: int | None = None):
        super().__init__()
        self.family, self.module, self.classes = family, module, classes

    def forward(self, images: Tensor) -> Candidates:
        found = self.family.candidates(self.family.forward(self.module, {"img": images}))
        if self.classes is None:
            return found
        return check_candidates(found, len(images), self.classes, self.family.candidates_owner)
