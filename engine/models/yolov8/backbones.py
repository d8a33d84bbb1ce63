"""Networks of torchvision, and of timm, as backbones: their maps of strides 8, 16 and 32 feed our
neck.

They expect ImageNet's normalised colours; the normalisation is part of the module, so the
detector's input stays RGB in [0, 1] everywhere.
"""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError, ConfigError, nearest
from engine.files import sha256_file
from engine.models.finite import not_finite
from engine.models.hub.files import PREFIX as HUB
from engine.models.hub.files import WEIGHTS, folder_of, source_of
from engine.models.hub.licences import check_licence
from engine.models.hub.origins import Origin, origin_of
from engine.models.hub.torchvision_weights import LICENCE
from engine.models.yolov8 import timm_backbone
from engine.models.yolov8.timm_backbone import TimmBackbone

# The last layer of each stride, by torchvision's names, and its channels.
LAYERS: dict[str, dict[str, int]] = {
    "resnet18": {"layer2": 128, "layer3": 256, "layer4": 512},
    "mobilenet_v3_large": {"features.6": 40, "features.12": 112, "features.16": 960},
    "efficientnet_b0": {"features.3": 40, "features.5": 112, "features.7": 320},
    "convnext_tiny": {"features.3": 192, "features.5": 384, "features.7": 768},
}
OPTIONAL = "num_batches_tracked"  # absent in files of old torch versions; nothing here reads it
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchvisionBackbone(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> maps of strides 8, 16, 32, with `channels`. ConfigError for an
    unknown name.
    """

    def __init__(self, name: str):
        from torchvision.models import get_model
        from torchvision.models.feature_extraction import create_feature_extractor

        super().__init__()
        if name not in LAYERS:
            raise ConfigError(
                f"backbone='{name}' is not known.{nearest(name, LAYERS)} There are "
                f"{', '.join(LAYERS)}, and timm:NAME for networks of timm"
            )
        self.name = name
        self.body = create_feature_extractor(
            get_model(name, weights=None), return_nodes=list(LAYERS[name])
        )
        self.channels = tuple(LAYERS[name].values())
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.body((x - self.mean) / self.std)
        return tuple(maps[layer] for layer in LAYERS[self.name])


def make_backbone(name: str) -> TorchvisionBackbone | TimmBackbone:
    """The backbone that the setting names, with fresh weights. ConfigError for an unknown name."""
    if name.startswith(timm_backbone.PREFIX):
        return TimmBackbone(name)
    return TorchvisionBackbone(name)


def load_pretrained(
    backbone: nn.Module,
    source: bool | str,
    download_dir: Path | None = None,
    accept_licence: str | None = None,
) -> Origin:
    """ImageNet weights: True downloads them (torchvision's own, timm's from the hub), `hf:ORG/NAME`
    from the hub, a path reads a state dict saved from the library. Returns which they are.

    A file may hold more than the backbone, such as the classifier of the whole network.
    download_dir: where torchvision keeps what it downloads; None: its own place. accept_licence:
    see `engine.models.hub.licences`.

    Raises:
        ConfigError: not such a backbone, the download failed, or the licence is not free.
            CheckpointError: a file that does not fit.
    """
    if not isinstance(backbone, (TorchvisionBackbone, TimmBackbone)):
        raise ConfigError(
            "pretrained belongs to a torchvision backbone, or one of timm: set backbone too"
        )
    if isinstance(backbone, TimmBackbone):
        if source is True:
            source = HUB + timm_backbone.hub_name(backbone.name)
        source = str(source)
        if source.startswith(HUB):
            folder = folder_of(source, accept_licence)
            check_licence(f"pretrained={source}", source_of(folder), accept_licence)
            backbone.load(_read_state(folder / WEIGHTS), source)
            return origin_of(source_of(folder))
        backbone.load(_read_state(Path(source)), source)
        return _of_file(Path(source))
    if source is True:
        state, origin = _download(backbone.name, download_dir)
    else:
        state, origin = _read_state(Path(str(source))), _of_file(Path(str(source)))
    wanted = backbone.body.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state.items()
        if name in wanted and tensor.shape == wanted[name].shape
    }
    missing = [name for name in wanted if name not in fitting and not name.endswith(OPTIONAL)]
    if missing:
        first = missing[0]
        found = (
            f"{tuple(state[first].shape)} instead of {tuple(wanted[first].shape)}"
            if first in state
            else "not there"
        )
        raise CheckpointError(
            f"pretrained: {source} does not fit {backbone.name}: {len(missing)} of {len(wanted)} "
            f"tensors are missing or of another shape, first {first} ({found}); is it another "
            f"network's file? A state dict of torchvision.models.{backbone.name} is expected"
        )
    from torchvision.models import get_model

    with torch.device("meta"):
        whole = get_model(backbone.name, weights=None).state_dict()
    further = [name for name in state if name not in whole]
    if further:  # resnet34's file has all that resnet18 asks for
        raise CheckpointError(
            f"pretrained: {source} does not fit {backbone.name}: {len(further)} of its tensors "
            f"have no place there, first {further[0]}; is it another network's file? A state dict "
            f"of torchvision.models.{backbone.name} is expected"
        )
    backbone.body.load_state_dict(fitting, strict=False)
    return origin


def _of_file(path: Path) -> Origin:
    return origin_of({"digest": sha256_file(path)}, name=path.name)


def _download(name: str, folder: Path | None) -> tuple[dict[str, Tensor], Origin]:
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).DEFAULT
    file = weights.url.rpartition("/")[2]
    try:
        state = weights.get_state_dict(
            model_dir=folder, map_location="cpu", check_hash=True, weights_only=True
        )
    except (
        OSError,
        HTTPException,
        RuntimeError,
    ) as error:  # RuntimeError: what came has another hash than its name says
        raise ConfigError(
            f"pretrained: {file}, the ImageNet weights of {name}, could not be downloaded "
            f"({error}); without network fetch {weights.url} and give it as "
            f"pretrained=path/to/{file}"
        ) from None
    at = Path(folder or Path(torch.hub.get_dir()) / "checkpoints") / file
    source = {"repo": f"torchvision:{name}", "revision": weights.name, "licence": LICENCE}
    return state, origin_of({**source, "digest": sha256_file(at)})


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"pretrained: {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes of the unpickler
        raise CheckpointError(
            f"pretrained: {path}: not a readable state dict ({type(error).__name__})"
        ) from error
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        inside = (
            f"a dictionary with {', '.join(map(str, list(state)[:5]))}"
            if isinstance(state, dict)
            else type(state).__name__
        )
        raise CheckpointError(
            f"pretrained: {path}: expected a state dict (names and tensors), found {inside}; save "
            "the network itself with torch.save(model.state_dict(), path)"
        )
    if wrong := not_finite(state):
        raise CheckpointError(f"pretrained: {path}: {wrong}")
    return state
