"""Batches in a fixed order: the sampler that knows epoch, rank and resume, and the torch DataLoader
around it.

The order of an epoch depends on (seed, epoch) alone, so a run can stop after any batch and go on
with the next one, and the ranks of a distributed run together see exactly the batches of a run on
one device.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, spawn

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from engine.data.dataset import collate, generator
from engine.errors import ConfigError, DataError, EngineError
from engine.types import ImageRecord, Size

log = logging.getLogger("detectflow")

ORDER_STREAM, SIZE_STREAM = 2, 3  # see dataset.SAMPLE_STREAM
MOST_DEATHS = 3  # of workers in one epoch
NOTICE_S = 3.0


class EpochSampler(Sampler):
    """(epoch, index) pairs for one rank, in batches of `batch_size`.

    A global batch is `batch_size * world_size` consecutive entries of the epoch's order; rank r
    takes its r-th slice. So world size 2 with b images each equals world size 1 with 2b, sample for
    sample. A last, smaller batch is kept and shared out evenly; where it has fewer images than
    ranks, shuffled epochs fill it up from their beginning (a rank without a batch would leave the
    others waiting), sequential ones do not (an image must not count twice).

    least: images that the last global batch of a shuffled epoch has at least, filled up the same
    way. weights: (n,) chances of each image; then the epoch draws n images with replacement instead
    of a permutation.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        least: int = 1,
        weights: np.ndarray | None = None,
    ) -> None:
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ConfigError(
                f"batch_size={batch_size}, rank={rank}, world_size={world_size}: expected "
                "batch_size >= 1 and 0 <= rank < world_size"
            )
        self.n, self.batch_size = n, batch_size
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.drop_last = drop_last and n >= batch_size * world_size  # something must be left
        # of all ranks together: BatchNorm averages over them
        self.least = max(world_size, min(least, batch_size * world_size)) if shuffle else 1
        self.weights = (
            None if weights is None else np.asarray(weights, np.float64) / np.sum(weights)
        )
        self.epoch = 0
        self.start = 0
        self._length = len(self._mine(np.arange(n)))

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is `epoch`, from its first batch."""
        self.epoch, self.start = epoch, 0

    def set_start(self, batch_index: int) -> None:
        """The next iteration leaves out the first `batch_index` batches of the epoch (to resume
        within it).
        """
        self.start = batch_index

    def order(self, epoch: int) -> np.ndarray:
        """The indices of all ranks in `epoch`, in order."""
        if not self.shuffle:
            return np.arange(self.n)
        rng = generator(ORDER_STREAM, self.seed, epoch)
        return (
            rng.permutation(self.n)
            if self.weights is None
            else rng.choice(self.n, self.n, p=self.weights)
        )

    def _mine(self, order: np.ndarray) -> np.ndarray:
        """This rank's part of `order`."""
        total = self.batch_size * self.world_size
        full = self.n // total * total
        mine = order[:full].reshape(-1, self.world_size, self.batch_size)[:, self.rank].reshape(-1)
        rest = order[full:]
        if self.drop_last or not len(rest):
            return mine
        if len(rest) < self.least:
            rest = np.concatenate((rest, np.resize(order, self.least - len(rest))))
        return np.concatenate((mine, np.array_split(rest, self.world_size)[self.rank]))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # No generator function: epoch and start are read now, not when the loader first asks.
        mine = self._mine(self.order(self.epoch))[self.start * self.batch_size :]
        return iter([(self.epoch, index) for index in mine.tolist()])

    def __len__(self) -> int:
        """Samples of a whole epoch on this rank, wherever the next iteration starts."""
        return self._length


def class_balance_weights(records: Sequence[ImageRecord], single_cls: bool = False) -> np.ndarray:
    """(n,) chances of images: the inverse frequency, counted in boxes, of each image's rarest
    class.

    An image without boxes gets the chance of the most frequent class.
    """
    if single_cls or not any(len(record.classes) for record in records):
        return np.full(len(records), 1 / max(len(records), 1))
    counts = np.bincount(
        np.concatenate([np.asarray(record.classes, np.int64) for record in records])
    )
    rarest = [
        counts[record.classes].min() if len(record.classes) else counts.max() for record in records
    ]
    weights = 1 / np.array(rarest, np.float64)
    return weights / weights.sum()


def size_times(size: Size, factor: float, stride: int = 32, least: int = 32) -> Size:
    """`size` times `factor`, in multiples of `stride`, and at least `least` pixels."""

    def side(length: int) -> int:
        return max(round(length * factor / stride), -(-least // stride), 1) * stride

    return side(size[0]), side(size[1])


def scaled_size(
    size: Size,
    gain: float,
    *,
    seed: int,
    epoch: int,
    batch_index: int,
    stride: int = 32,
    least: int = 32,
) -> Size:
    """The input size of one batch in multi-scale training: `size` times U(1 - gain, 1 + gain), in
    multiples of `stride`, and at least `least` pixels.

    Depends on (seed, epoch, batch_index) alone, so every rank and a resumed run agree. The batch is
    resized on the device; its boxes are normalised and need no change.
    """
    if not gain:
        return size
    factor = generator(SIZE_STREAM, seed, epoch, batch_index).uniform(1 - gain, 1 + gain)
    return size_times(size, factor, stride, least)


# --- worker processes -----------------------------------------------------------------------------
#
# Workers come from a fork server. Plain fork copies the locks that other threads hold at that
# moment (Prefect, MLflow, gRPC and CUDA all run threads), and a worker may then wait for one for
# ever. Spawn is safe too but imports torch once a worker; the server imports it once, beside the
# work of the main process, and forks from a quiet state.
#
# Both re-run the user's script in each worker, which breaks scripts without `if __name__ ==
# "__main__"`. Our workers need nothing from it, so it is left out, unless the dataset's class was
# written there.

_launching = threading.Lock()


def _preparation_without_script(name: str, original=spawn.get_preparation_data) -> dict:
    data = original(name)
    if name.startswith(LoaderProcess.PREFIX):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


class LoaderProcess(multiprocessing.context.ForkServerProcess):
    """A process of the fork server that does not import the user's `__main__`."""

    PREFIX = "detectflow-loader-"

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.name = self.PREFIX + self.name

    @staticmethod
    def _Popen(process_obj):
        # multiprocessing offers no switch for this; other processes' names pass through unchanged
        with _launching:
            original, spawn.get_preparation_data = (
                spawn.get_preparation_data,
                _preparation_without_script,
            )
            try:
                return multiprocessing.context.ForkServerProcess._Popen(process_obj)
            finally:
                spawn.get_preparation_data = original


class LoaderContext(multiprocessing.context.ForkServerContext):
    """The multiprocessing context of `LoaderProcess`."""

    Process = LoaderProcess


def worker_context(dataset: Dataset) -> multiprocessing.context.BaseContext:
    """Where the workers of a loader of `dataset` come from; starts the fork server, which then
    imports on its own.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    in_script = type(dataset).__module__ == "__main__"
    context = multiprocessing.get_context("forkserver") if in_script else LoaderContext()
    context.set_forkserver_preload(
        ["torch", "cv2", __name__]
    )  # no effect where the program runs one already
    forkserver.ensure_running()
    return context


def start_worker(_: int) -> None:
    """First act of a worker: one thread, deaf to Ctrl-C (the main process decides), gone when the
    main process is.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # torch watches the parent's process id, which here is the fork server's: that one outlives a
    # killed main process.
    threading.Thread(
        target=_end_with, args=(multiprocessing.parent_process(),), daemon=True
    ).start()


def _end_with(parent) -> None:
    if parent is not None:
        parent.join()
        os._exit(1)


# --- the loader -----------------------------------------------------------------------------------


class DetectionLoader(DataLoader):
    """A DataLoader of `Batch`es whose `sampler` is an `EpochSampler`, with an end (`close`) and
    readable errors.

    Workers that somebody kills, as the system does where memory runs out, are replaced and the
    batches go on with the next one, the same as ever; `MOST_DEATHS` times an epoch.
    """

    def __iter__(self) -> Iterator:
        return self._batches(
            super().__iter__(), self.sampler.start
        )  # the inner iterator starts prefetching now

    def _batches(self, batches: Iterator, done: int) -> Iterator:
        deaths = 0
        while True:
            try:
                for batch in batches:
                    yield batch
                    done += 1
                return
            except EngineError as error:
                # A worker's exception arrives with its traceback as the message; the last line is
                # what we wrote.
                kind = type(error)
                message = (
                    str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()
                )
                raise kind(message) from None
            except (RuntimeError, OSError, EOFError) as error:
                deaths += 1
                killed = self._killed_workers()
                if not killed:
                    raise
                if deaths > MOST_DEATHS:
                    raise DataError(
                        f"{killed}, and {deaths - 1} before it in this epoch: mostly because "
                        "memory runs out. Give fewer workers=, a smaller batch= or imgsz=, or "
                        "cache=none"
                    ) from error
                log.warning("%s; new ones go on after batch %d", killed, done)
            batches = self._restarted(done)

    def _restarted(self, done: int) -> Iterator:
        self.close()
        start = self.sampler.start
        self.sampler.set_start(done)
        batches = super().__iter__()
        self.sampler.set_start(start)
        return batches

    def _killed_workers(self) -> str:
        """`loader process 123 was ended by signal 9`, or an empty string where all of them live."""
        workers = getattr(self._iterator, "_workers", ())
        # its connections break before the process is known to be gone
        deadline = time.monotonic() + NOTICE_S
        while workers and time.monotonic() < deadline:
            gone = [worker for worker in workers if not worker.is_alive()]
            if gone:
                how = (
                    f"signal {-gone[0].exitcode}"
                    if (gone[0].exitcode or 0) < 0
                    else f"exit code {gone[0].exitcode}"
                )
                return f"loader process {gone[0].pid} was ended by {how}"
            time.sleep(0.05)
        return ""

    def close(self) -> None:
        """Ends the worker processes now rather than when the loader is collected; iterating again
        starts new ones.
        """
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()


def build_loader(
    dataset: Dataset,
    batch_size: int,
    *,
    shuffle: bool,
    workers: int = 0,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = False,
    least: int = 1,
    balanced: bool = False,
    pin_memory: bool = False,
    prefetch_batches: int = 2,
) -> DetectionLoader:
    """Batches of `batch_size` images of this rank: shuffled for training, in order and each once
    for validation.

    Before each epoch call `loader.sampler.set_epoch(epoch)`; to resume within it also
    `.set_start(batch_index)`. The batches are the same for any number of workers, which live until
    `close()`. `least`: see `EpochSampler`. `balanced` draws images with rare classes more often
    (`class_balance_weights`). `prefetch_batches` counts per worker.
    """
    weights = None
    if balanced:
        weights = class_balance_weights(dataset.records, dataset.single_cls)
    sampler = EpochSampler(
        len(dataset),
        batch_size,
        shuffle=shuffle,
        seed=seed,
        rank=rank,
        world_size=world_size,
        drop_last=drop_last,
        least=least,
        weights=weights,
    )
    parallel = {}
    if workers:
        parallel = {
            "multiprocessing_context": worker_context(dataset),
            "worker_init_fn": start_worker,
            "persistent_workers": True,
            "prefetch_factor": prefetch_batches,
        }
    return DetectionLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(
            seed
        ),  # else torch draws from, and so moves, the global generator
        **parallel,
    )
