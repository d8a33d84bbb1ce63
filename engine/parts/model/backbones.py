"""Networks of torchvision as backbones: their maps of strides 8, 16 and 32 feed our neck.

They expect ImageNet's normalised colours; the normalisation is part of the module, so the detector's input stays RGB
in [0, 1] everywhere.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError, ConfigError, nearest

# The last layer of each stride, by torchvision's names, and its channels.
LAYERS: dict[str, dict[str, int]] = {
    "resnet18": {"layer2": 128, "layer3": 256, "layer4": 512},
    "mobilenet_v3_large": {"features.6": 40, "features.12": 112, "features.16": 960},
    "efficientnet_b0": {"features.3": 40, "features.5": 112, "features.7": 320},
    "convnext_tiny": {"features.3": 192, "features.5": 384, "features.7": 768},
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchvisionBackbone(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> maps of strides 8, 16, 32, with `channels`. ConfigError for an unknown name."""

    def __init__(self, name: str):
        from torchvision.models import get_model
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        if name not in LAYERS:
            raise ConfigError(f"backbone='{name}' is not known.{nearest(name, LAYERS)} There are {', '.join(LAYERS)}")
        self.name = name
        self.body = create_feature_extractor(get_model(name, weights=None), return_nodes=list(LAYERS[name]))
        self.channels = tuple(LAYERS[name].values())
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.body((x - self.mean) / self.std)
        return tuple(maps[layer] for layer in LAYERS[self.name])


def load_pretrained(backbone: nn.Module, source: bool | str) -> None:
    """ImageNet weights: True downloads them through torchvision, a path reads a state dict saved from torchvision.

    Raises:
        ConfigError: not a torchvision backbone, or the download failed. CheckpointError: a file that does not fit.
    """
    if not isinstance(backbone, TorchvisionBackbone):
        raise ConfigError("pretrained belongs to a torchvision backbone: set backbone too")
    if source is True:
        from torchvision.models import get_model_weights

        try:
            state = get_model_weights(backbone.name).DEFAULT.get_state_dict(progress=True, check_hash=True)
        except OSError as error:
            raise ConfigError(f"pretrained: the weights of {backbone.name} could not be downloaded ({error}). Without a "
                              "network give a local file: pretrained=path/to/weights.pth") from None  # fmt: skip
    else:
        state = _read_state(Path(str(source)))
    wanted = backbone.body.state_dict()
    fitting = {name: tensor for name, tensor in state.items() if name in wanted and tensor.shape == wanted[name].shape}
    missing = [name for name in wanted if name not in fitting]
    if missing:
        raise CheckpointError(f"pretrained: {source} lacks {len(missing)} of {len(wanted)} tensors of {backbone.name}, "
                              f"first {missing[0]}; is it another network's file?")  # fmt: skip
    backbone.body.load_state_dict(fitting)


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"pretrained: {path}: no such file") from None
    except Exception as error:  # whatever a foreign file makes of the unpickler
        raise CheckpointError(f"pretrained: {path}: not a readable state dict ({type(error).__name__})") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"pretrained: {path}: expected a state dict, found a {type(state).__name__}")
    return state
