"""What the core knows of other processes: rank, world size and a few collectives. One process is
the case world = 1.

`torchrun` sets the environment (several nodes by its own flags); nothing is generated. Plain data
and CPU tensors travel by gloo, GPU tensors by nccl. Where one process fails the others leave too:
see `engine.core.peer_failure`.
"""

from __future__ import annotations

import datetime
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.core.peer_failure import FailureStore, FailureWatcher, ignore_termination, next_group
from engine.errors import ConfigError, TrainingError, WorkspaceError

# How long one process may keep the others waiting, for example by preparing a dataset or in a
# callback. A process that is gone is noticed within seconds; this bounds one that is there and
# silent.
TIMEOUT_S = 3600
SHARED_WITHIN_S = 60.0  # a network file system may remember for so long that a file did not exist


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

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one rank: what all of them then do together."""
        return any(self.gather(bool(flag)))

    def barrier(self) -> None:
        """Wait for the others."""
        self.gather(None)


def world_from_environment() -> World:
    """As torchrun set it, else a single process."""
    env = os.environ
    if "RANK" not in env or "WORLD_SIZE" not in env:
        return World()
    return World(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[World]:
    """Be part of the process group; leave it at the end unless somebody else made it.

    Raises:
        PeerError: another process failed first; its error is the cause.
        TrainingError: the connection to another process was lost.
    """
    if world.size == 1:
        yield world
        return
    group, is_ours = next_group(), not dist.is_initialized()
    store = FailureStore(world.rank, world.size)
    watcher = FailureWatcher(store)
    can_be_left = is_ours
    try:
        watcher.start()
        if is_ours:
            _make_group(device, group)
        yield world
        world.barrier()  # nobody takes its connections down while another still needs them
    except BaseException as error:
        ignore_termination()
        # nccl may wait for work that a lost peer will never do
        can_be_left = is_ours and device.type == "cpu"
        cause = store.explain(error)
        if cause is error:
            raise
        raise cause from error
    finally:
        watcher.stop()
        if can_be_left and dist.is_initialized():
            dist.destroy_process_group()


def _make_group(device: torch.device, group: int) -> None:
    timeout = datetime.timedelta(seconds=TIMEOUT_S)
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)  # before nccl looks for its GPU
        backend = "cpu:gloo,cuda:nccl"
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(
        f"detectflow/{group}", store
    )  # a second training finds nothing of the first one there
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def check_shared(world: World, path: Path) -> None:
    """That a file which rank 0 has just written is seen by all: several machines must share the run
    directory.

    Raises:
        WorkspaceError: a rank does not see it.
    """
    world.barrier()
    deadline = time.monotonic() + (SHARED_WITHIN_S if world.size > 1 else 0)
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    blind = [
        f"rank {rank} on {host}"
        for rank, (sees, host) in enumerate(world.gather((path.exists(), socket.gethostname())))
        if not sees
    ]
    if blind:
        raise WorkspaceError(
            f"{path}: written by rank 0, not seen by {', '.join(blind)}. The folder of project= "
            "must be one that all machines share, under the same path"
        )


def check_batch_splits(batch: int, nproc: int, world: World) -> None:
    """The samples of a step are split evenly over the processes; `nproc` is for the launcher.

    Raises:
        ConfigError: they cannot be; or `nproc` processes were asked for and nobody started them.
    """
    if batch > 0 and batch % world.size:
        raise ConfigError(
            f"batch={batch} cannot be split over {world.size} processes; use a multiple of "
            f"{world.size}"
        )
    if nproc > 1 and world.size == 1:
        raise ConfigError(
            f"nproc={nproc} processes are started by `detectflow train`; a script of your own by "
            f"torchrun --nproc-per-node {nproc} SCRIPT, without nproc"
        )


def check_lengths(batches: list[int]) -> None:
    """Every rank has the same number of training batches.

    Raises:
        TrainingError: names each rank's.
    """
    if len(set(batches)) > 1:
        counts = ", ".join(f"rank {rank} {count}" for rank, count in enumerate(batches))
        raise TrainingError(
            f"the ranks have different numbers of training batches: {counts}. Each step needs one "
            "from every rank; a get_dataloader of your own splits the samples by rank and "
            "world.size"
        )


class _GatherOverRanks(torch.autograd.Function):
    """(K,) of each rank -> (W, K) on every rank. Backward: each rank's row gets the gradients of
    all ranks, summed.
    """

    @staticmethod
    def forward(ctx, row: Tensor) -> Tensor:
        rows = row.new_empty(dist.get_world_size(), len(row))
        dist.all_gather(list(rows.unbind()), row.contiguous())
        return rows

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


class _OverRanks:
    """BatchNorm whose training statistics are those of the samples of all ranks, on any device
    (PyTorch's needs a GPU).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        channels = x.shape[1]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        variance, mean = torch.var_mean(wide, [d for d in range(x.dim()) if d != 1], correction=0)
        count = mean.new_tensor([x.numel() / channels])
        rows = _GatherOverRanks.apply(torch.cat((mean, variance, count)))
        means, variances, counts = rows.split((channels, channels, 1), 1)  # (W, C), (W, C), (W, 1)
        total = counts.sum()
        mean = (means * counts).sum(0) / total
        variance = ((variances + (means - mean).square()) * counts).sum(0) / total
        if self.track_running_stats:
            self._follow(mean.detach(), variance.detach() * total / (total - 1))
        shape = (1, channels) + (1,) * (x.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        scale = scale * self.weight if self.affine else scale
        shift = (self.bias if self.affine else 0) - mean * scale
        return x * scale.to(x.dtype).view(shape) + shift.to(x.dtype).view(shape)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Running statistics, as BatchNorm keeps them; momentum None: plain means."""
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance, weight)


class SyncBatchNorm1d(_OverRanks, nn.BatchNorm1d):
    """See `_OverRanks`."""


class SyncBatchNorm2d(_OverRanks, nn.BatchNorm2d):
    """See `_OverRanks`."""


class SyncBatchNorm3d(_OverRanks, nn.BatchNorm3d):
    """See `_OverRanks`."""


_SYNCHRONISED = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
    nn.BatchNorm3d: SyncBatchNorm3d,
}


def synchronise_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Make every BatchNorm a synchronised one; parameters, their names and values stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        # Only `forward` differs, so the class changes and the object stays: its hooks, its place,
        # what does not learn.
        module.__class__ = _SYNCHRONISED.get(type(module), type(module))
    return model


def data_parallel(
    model: nn.Module, device: torch.device, find_unused_parameters: bool
) -> nn.parallel.DistributedDataParallel:
    """The model as several processes train it: gradients are averaged over them."""
    return nn.parallel.DistributedDataParallel(
        model,
        device_ids=[device.index] if device.type == "cuda" else None,
        find_unused_parameters=find_unused_parameters,
    )


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
    if name != "cuda" or (number and not number.isdecimal()):
        raise ConfigError(f"device='{asked}' is not known; use auto, cpu, cuda or cuda:0")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number and world is not None and world.size > 1:
        raise ConfigError(
            f"device='{asked}' is one GPU, and there are {world.size} processes: use device=cuda, "
            "where each takes the GPU of its local rank (CUDA_VISIBLE_DEVICES says which there are)"
        )
    index = int(number) if number else (world.local_rank if world else 0)
    if index >= count:
        raise ConfigError(
            f"device='{asked}': PyTorch sees {count} GPUs here; use device=cpu or auto"
        )
    return torch.device("cuda", index)
