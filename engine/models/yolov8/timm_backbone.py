"""Networks of the library timm as backbones: `backbone: timm:NAME`. An extra, imported late.

Any network of timm will do that gives maps of strides 8, 16 and 32 for every size of the input. Its
colours are normalised as its own data configuration says.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError, ConfigError, nearest
from engine.models.hub.files import go_offline

PREFIX = "timm:"
STRIDES = (8, 16, 32)
OPTIONAL = "num_batches_tracked"  # files older than PyTorch 0.4.1 lack it
PROBED_PX = (64, 96)  # (h, w): a network for one size of input fails there


class TimmBackbone(nn.Module):
    """(B, 3, H, W) RGB in [0, 1] -> maps of strides 8, 16, 32, with `channels`. name: `timm:NAME`.

    Raises:
        ConfigError: timm is not installed, does not know it, or it has no such maps.
    """

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        at, self.channels, mean, std = _looked_at(name)
        self.body = _create(name, out_indices=at)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.body((x - self.mean) / self.std))

    def load(self, state: dict[str, Tensor], source: str) -> None:
        """The weights of the whole network under timm's names, classifier included or not.

        Raises:
            CheckpointError: they do not fit.
        """
        plus_one = {name: tensor + 1 for name, tensor in state.items()}
        try:
            donor, other = self._filled_by(state), self._filled_by(plus_one)
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            raise self._misfit(source, " ".join(str(error).split())[:200]) from None
        # timm says nothing of tensors that keep their fresh values: they are those that stay the
        # same when every tensor of the file is another one.
        fresh = [n for n in donor if not n.endswith(OPTIONAL) and torch.equal(donor[n], other[n])]
        if fresh:
            raise self._misfit(
                source, f"{len(fresh)} of {len(donor)} tensors are missing, first {fresh[0]}"
            )
        whole = len(_counted(_timm().create_model(self.name.removeprefix(PREFIX)).state_dict()))
        if len(_counted(state)) > whole:  # resnet34's file has all that resnet18 asks for
            raise self._misfit(
                source, f"it has {len(_counted(state))} tensors, the network only {whole}"
            )
        self.body.load_state_dict(donor)

    def _filled_by(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The body's tensors with those of the file. timm renames what older files call otherwise,
        and leaves the classifier out.
        """
        log = logging.getLogger("timm.models._builder")  # warns of every classifier left out
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # what stays fresh is the same each time
                body = _create(
                    self.name,
                    out_indices=_looked_at(self.name)[0],
                    pretrained=True,
                    pretrained_cfg_overlay={"state_dict": dict(state), "custom_load": False},
                )
        finally:
            log.setLevel(level)
        return body.state_dict()

    def _misfit(self, source: str, said: str) -> CheckpointError:
        return CheckpointError(
            f"pretrained: {source} does not fit {self.name}: {said}. Is it another network's "
            f"file? A state dict of timm's {self.name.removeprefix(PREFIX)} is expected"
        )


def _counted(state: dict[str, Tensor]) -> list[str]:
    return [name for name in state if not name.endswith(OPTIONAL)]


def check(name: str) -> None:
    """ConfigError where `TimmBackbone(name)` would be refused."""
    _looked_at(name)


def hub_name(name: str) -> str:
    """The repository on Hugging Face's hub that has the published weights of `timm:NAME`.

    Raises:
        ConfigError: there are none.
    """
    _looked_at(name)
    given = _timm().get_pretrained_cfg(name.removeprefix(PREFIX))
    if given is None or not given.hf_hub_id:
        raise ConfigError(
            f"pretrained=true: timm publishes no weights of {name.removeprefix(PREFIX)}. Give a "
            "file or leave pretrained out"
        )
    return given.hf_hub_id


@lru_cache(maxsize=8)
def _looked_at(name: str) -> tuple[tuple[int, ...], tuple[int, ...], Any, Any]:
    """(places of the three maps, their channels, mean, std)."""
    timm, short = _timm(), name.removeprefix(PREFIX)
    if not timm.is_model(short):
        known = [PREFIX + each for each in timm.list_models()]
        raise ConfigError(
            f"backbone='{name}' is not known.{nearest(name, known)} timm has {len(known)}: "
            "`python -c 'import timm; print(timm.list_models())'` lists them"
        )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            body = _create(name).eval()
            reductions = list(body.feature_info.reduction())
            maps = body(torch.zeros(1, 3, *PROBED_PX))
        except (RuntimeError, AssertionError, ValueError, AttributeError, KeyError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
            raise ConfigError(
                f"backbone='{name}' gives no maps of any size of input. timm says: {said}"
            ) from None
    # of two maps of one stride the later has seen more
    last = {stride: place for place, stride in enumerate(reductions)}
    if not set(STRIDES) <= last.keys():
        raise ConfigError(
            f"backbone='{name}' has no maps of strides 8, 16 and 32: its are of "
            f"{', '.join(map(str, reductions))}. Networks for detection have them, for example "
            "timm:resnet18, timm:mobilenetv4_conv_small"
        )
    at = tuple(last[stride] for stride in STRIDES)
    channels = tuple(body.feature_info.channels()[place] for place in at)
    height, width = PROBED_PX
    sizes = [(height // stride, width // stride) for stride in STRIDES]
    wanted = [(1, count, *size) for count, size in zip(channels, sizes, strict=True)]
    if (got := [tuple(maps[place].shape) for place in at]) != wanted:
        raise ConfigError(f"backbone='{name}' gives maps {got} of 64x96 pixels, wanted {wanted}")
    data = timm.data.resolve_model_data_config(body)
    return at, channels, data["mean"], data["std"]


def _create(name: str, **words: Any) -> nn.Module:
    return _timm().create_model(
        name.removeprefix(PREFIX), **{"pretrained": False, "features_only": True, **words}
    )


def _timm() -> ModuleType:
    go_offline()
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise ConfigError(
            f"backbones named timm: need the library timm, and importing it says: {error}. Install "
            "the extra: `pip install 'detectflow[hf]'`"
        ) from None
    return timm
