"""A detector of `transformers` as a module of the shape used here.

Its parameters keep the library's names, so that published files fit and `freeze: [model.backbone]`
means the same as in the library's own documentation. Resizing is ours: images come letterboxed.

Letters: B images, Q queries, C classes, K columns of the class logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.boxes import xywh_to_xyxy
from engine.errors import ConfigError
from engine.models.hf import configuration
from engine.models.hf.library import offline, transformers

FOCAL_PRIOR = 0.01  # the probability with which a new class starts (RetinaNet, 1708.02002)
# Settings of a configuration that fix the size of the input, or would fetch something.
NEUTRAL = {
    "eval_size": None,
    "anchor_image_size": None,
    "use_pretrained_backbone": False,
    "initializer_bias_prior_prob": FOCAL_PRIOR,
}
# Of a backbone: what only its own pre-training uses. Several processes would wait for its gradient.
NEUTRAL_BACKBONE = {"use_mask_token": False}


class Output(NamedTuple):
    """What such a network says of a batch."""

    logits: Tensor  # (B, Q, K)
    boxes: Tensor  # (B, Q, 4) centre and size as fractions of the input
    size: tuple[int, int]  # (h, w) of the input, pixels
    loss: Tensor | None  # scalar, where targets were given
    terms: Mapping[str, Tensor]  # of the loss, by the library's names
    targets: int  # boxes of the batch
    classes: int


class HfDetector(nn.Module):
    """Images (B, 3, H, W) float RGB in [0, 1], in training with targets -> `Output`."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self._network = [network]  # in a list: its parts are registered below, under their names
        for name, part in network.named_children():
            self.add_module(name, part)
        left = {name for name, _ in network.named_parameters()} - {
            name for name, _ in self.named_parameters()
        }
        if left:
            raise ConfigError(
                f"{type(network).__name__} has parameters of its own outside its parts "
                f"({', '.join(sorted(left)[:3])}); such a network is not supported"
            )
        for kind, values in (("mean", mean), ("std", std)):
            self.register_buffer(kind, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        network.loss_function = FullPrecision(network.loss_function)
        self.aliases = _aliases(network)

    def forward(self, images: Tensor, targets: list[dict[str, Tensor]] | None = None) -> Output:
        """targets: of each image `class_labels` (n,) int64 and `boxes` (n, 4), centre and size as
        fractions.
        """
        found = self._network[0](
            pixel_values=(images - self.mean) / self.std, labels=targets, return_dict=True
        )
        return Output(
            found.logits.float(),
            found.pred_boxes.float(),
            (int(images.shape[-2]), int(images.shape[-1])),
            found.loss if targets is not None else None,
            found.loss_dict if targets is not None else {},
            sum(len(each["boxes"]) for each in targets or ()),
            self._network[0].config.num_labels,
        )

    def train(self, mode: bool = True) -> HfDetector:
        self._network[0].training = mode  # read by its own forward; its parts are ours
        return super().train(mode)

    # Layers that stand in two places are stored once: an average over the weights would otherwise
    # count their steps twice, and safetensors refuses two names for the same memory.

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for alias in self.aliases:
            state.pop(prefix + alias, None)
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        there = dict(state)
        for alias, name in self.aliases.items():
            if name in there:
                there[alias] = there[name]
        return super().load_state_dict(there, *args, **kwargs)


class FullPrecision:
    """The library's loss, in float32 also inside autocast: boxes as fractions do not survive 16
    bits.
    """

    def __init__(self, loss: Any):
        self.loss = loss

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device, enabled=False):
            named = {key: _float(each) for key, each in kwargs.items()}
            return self.loss(*map(_float, args), **named)


def _float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _aliases(network: nn.Module) -> dict[str, str]:
    """Second and further names of a tensor -> its first."""
    first: dict[int, str] = {}
    aliases = {}
    for name, tensor in [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]:
        if (known := first.setdefault(id(tensor), name)) != name:
            aliases[name] = known
    return aliases


def describe(config: Mapping[str, Any], classes: int, where: str = configuration.WHERE) -> Any:
    """The library's object for a configuration (the content of config.json).

    Raises:
        ConfigError: no detector of the library, or one that it cannot describe; where: the file.
    """
    library = transformers()
    configuration.check(config, where)
    plain = configuration.harmless(config)
    kind = plain.pop("model_type")
    known = library.models.auto.modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
    if kind not in known:
        raise ConfigError(
            f"{where}: model_type '{kind}' is no detector of transformers "
            f"{library.__version__}; there are {', '.join(sorted(known))}"
        )
    for key in ("id2label", "label2id", "num_labels"):
        plain.pop(key, None)
    try:
        with offline():
            described = library.AutoConfig.for_model(kind, **plain, num_labels=classes)
            backbone = getattr(described, "backbone_config", None)
            for part, settings in ((described, NEUTRAL), (backbone, NEUTRAL_BACKBONE)):
                for key, value in settings.items():
                    if hasattr(part, key):
                        setattr(part, key, value)
    except Exception as error:  # whatever a value from outside makes of the library's classes
        raise ConfigError(f"{where}: {in_words(error)}") from error
    return described


def build(config: Mapping[str, Any], classes: int, mean: Any, std: Any) -> HfDetector:
    """The network that a configuration (the content of config.json) describes, with fresh weights,
    in training mode.

    Raises:
        ConfigError: there is no such network.
    """
    described = describe(config, classes)
    try:
        with offline():
            network = transformers().AutoModelForObjectDetection.from_config(
                described, dtype=torch.float32
            )
    except Exception as error:  # as above
        raise ConfigError(
            f"a network of model_type '{described.model_type}' cannot be built from its "
            f"configuration: {in_words(error)}"
        ) from error
    return HfDetector(network, mean, std).train()


def load(
    config: Mapping[str, Any], classes: int, state: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """`state`, weights under the names of a file, under those that the library builds the network
    with; and what it says of them: `missing_keys`, `mismatched_keys`.

    Raises:
        ConfigError: see `build`; where: the file of the configuration.
    """
    described = describe(config, classes, where)
    try:
        kind = transformers().MODEL_FOR_OBJECT_DETECTION_MAPPING[type(described)]
        with offline():
            network, said = kind.from_pretrained(
                None,
                config=described,
                state_dict=dict(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told by who asks
                dtype=torch.float32,
                trust_remote_code=False,
            )
    except Exception as error:  # as above
        raise ConfigError(f"{where}: {in_words(error)}") from error
    return network.state_dict(), said


def in_words(error: Exception) -> str:
    """`ValueError: hidden size ...`: the first line of what the library says."""
    lines = str(error).strip().splitlines()
    return f"the library says: {type(error).__name__}" + (f": {lines[0][:300]}" if lines else "")


def decode(preds: Output) -> tuple[Tensor, Tensor]:
    """Boxes (B, Q, 4) xyxy px of the input, scores (B, Q, C), as the library's post-processing
    reads them: the sigmoid of each class; with a column more, as the first DETR has it, the softmax
    without that last column, "no object".
    """
    h, w = preds.size
    boxes = xywh_to_xyxy(preds.boxes) * preds.boxes.new_tensor([w, h, w, h])
    if preds.logits.shape[-1] > preds.classes:
        return boxes, preds.logits.softmax(-1)[..., : preds.classes]
    return boxes, preds.logits.sigmoid()
