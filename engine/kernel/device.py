"""Which device a process computes on."""

from __future__ import annotations

import torch

from engine.errors import ConfigError
from engine.kernel.distributed import World


def select_device(asked: str, world: World | None = None) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N`; with several processes each takes the GPU of its local rank.

    Raises:
        ConfigError: an unknown name, or a GPU that is not there.
    """
    text = str(asked).strip().lower()
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    if text == "cpu":
        return torch.device("cpu")
    name, _, number = text.partition(":")
    if name != "cuda" or (number and not number.isdigit()):
        raise ConfigError(f"device='{asked}' is not known; use auto, cpu, cuda or cuda:0")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number and world is not None and world.size > 1:
        raise ConfigError(f"device='{asked}' is one GPU, and there are {world.size} processes: use device=cuda, where each takes "
                          "the GPU of its local rank (CUDA_VISIBLE_DEVICES says which there are)")  # fmt: skip
    index = int(number) if number else (world.local_rank if world else 0)
    if index >= count:
        raise ConfigError(f"device='{asked}': PyTorch sees {count} GPUs here; use device=cpu or auto")
    return torch.device("cuda", index)
