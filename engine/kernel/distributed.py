"""What the kernel knows of other processes: rank, world size and a few collectives. One process is the case world = 1.

`torchrun` sets the environment (several nodes by its own flags); nothing is generated. Backend: nccl on GPUs, gloo
on CPUs. A failing rank makes torchrun end the others; a silent one is bounded by `TIMEOUT_S`.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT_S = 600


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Rank 0 writes files, shows progress and talks to trackers."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over ranks, no gradient."""
        if self.size > 1:
            tensor = tensor.detach().clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Plain data of every rank, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """Rank 0's plain data on every rank."""
        if self.size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def barrier(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


def world_from_environment() -> World:
    """As torchrun set it, else a single process."""
    env = os.environ
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return World()
    return World(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[World]:
    """Be part of the process group; leave it at the end unless somebody else made it."""
    if world.size == 1 or dist.is_initialized():
        yield world
        return
    timeout = datetime.timedelta(seconds=TIMEOUT_S)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    try:
        yield world
    finally:
        dist.destroy_process_group()


class _SumOverRanks(torch.autograd.Function):
    """all_reduce whose gradient is all_reduce."""

    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
        return tensor

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the images of all ranks, on any device (PyTorch's own needs a GPU)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        count = x.new_tensor([x.numel() / x.shape[1]])
        sums = torch.cat([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), count]).float()
        total, squares, count = _SumOverRanks.apply(sums).split([x.shape[1], x.shape[1], 1])
        mean = total / count
        variance = squares / count - mean.square()
        with torch.no_grad():
            keep = 1 - (self.momentum or 0.1)
            unbiased = variance * count / (count - 1)
            self.running_mean.mul_(keep).add_(mean, alpha=1 - keep)
            self.running_var.mul_(keep).add_(unbiased, alpha=1 - keep)
            self.num_batches_tracked.add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return x * scale[:, None, None].to(x.dtype) + (self.bias - mean * scale)[:, None, None].to(x.dtype)


def synchronise_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace BatchNorm2d by its synchronised form; parameter names and values stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d and child.affine and child.track_running_stats:
            twin = SyncBatchNorm(child.num_features, child.eps, child.momentum)
            twin.load_state_dict(child.state_dict())
            for mine, theirs in zip(twin.parameters(), child.parameters(), strict=True):
                mine.requires_grad_(theirs.requires_grad)
            setattr(model, name, twin)
        else:
            synchronise_norms(child, device)
    return model
