"""Worker processes of this machine: a function is called with batch after batch in several of them,
results in order.

The processes are loky's, which comes with joblib. `multiprocessing` would import the program that
started them once more, so that a script without `if __name__ == "__main__":` ran again in each; a
forked copy of a process with threads may never wake up.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

from joblib.externals.loky import ProcessPoolExecutor

from engine.datasets.image_scan import ScanFunction, ScanRequest, ScanResult
from engine.errors import WorkspaceError
from engine.signals import signals_wait

BATCH = 16  # images
PATIENCE_S = 1.0  # so long this process works alone: the start of others costs about as much
AHEAD = 2  # batches for each worker, at work or waiting
PARENT_POLL_S = 1.0


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalWorkers:
    """The `Mapper` that uses the cores of this machine. workers: processes, 0: one for each core,
    1: this one alone.
    """

    size = BATCH
    shared = False

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers or cores()

    def map(
        self, function: ScanFunction, batches: Iterable[list[ScanRequest]]
    ) -> Iterator[list[ScanResult]]:
        """See `image_scan.Mapper`. WorkspaceError: a worker was killed."""
        batches, started = iter(batches), time.monotonic()
        for batch in batches:
            yield function(batch)
            if self.workers > 1 and time.monotonic() - started > PATIENCE_S:
                break
        else:
            return
        waiting: deque[tuple[list[ScanRequest], Future]] = deque()
        with worker_pool(self.workers) as pool:
            try:
                for batch in batches:
                    waiting.append((batch, _submit(pool, function, batch)))
                    if len(waiting) >= AHEAD * self.workers:
                        yield _result(*waiting.popleft())
                while waiting:
                    yield _result(*waiting.popleft())
            finally:
                wait_until_taken([future for _, future in waiting])


def _submit(pool: ProcessPoolExecutor, function: ScanFunction, batch: list[ScanRequest]) -> Future:
    """The future of a batch; a pool that broke since gives one that says so."""
    try:
        # The first batch starts loky's thread and processes: where an exception breaks into that,
        # its `shutdown` can neither join the thread nor end the processes.
        with signals_wait():
            return pool.submit(function, batch)
    except BrokenProcessPool as error:
        future: Future = Future()
        future.set_exception(error)
        return future


def _result(batch: list[ScanRequest], future: Future) -> list[ScanResult]:
    try:
        return future.result()
    except BrokenProcessPool as error:
        ended = re.search(r"exit codes? of the workers? (?:is|are) \{(.+?)\}", str(error))
        more = f" and {len(batch) - 1} more" if batch[1:] else ""
        raise WorkspaceError(
            f"a worker process ended unexpectedly ({ended[1] if ended else 'no exit code'}) while "
            f"{batch[0].name}{more} were scanned. Nothing was written. Run it again; if it happens "
            "again, see whether memory is short, or work in one process: flows.prepare.workers=1"
        ) from None


def wait_until_taken(futures: Sequence[Future], timeout_s: float = 1.0) -> None:
    """Until loky's thread has taken over what was submitted: where a shutdown overtakes it, that
    thread ends with a KeyError on the console (loky 3.6).
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and not all(f.running() or f.done() for f in futures):
        time.sleep(0.005)


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Workers that end with the block, and with their parent however it ends."""
    pool = ProcessPoolExecutor(
        workers,
        initializer=_begin,
        initargs=(os.getpid(),),
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        yield pool
    finally:
        # whoever leaves has the results, or wants none
        pool.shutdown(kill_workers=True)


def _begin(parent: int) -> None:
    """The start of a worker."""
    # a Ctrl-C on the terminal is for the parent, who then ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import cv2

    cv2.setNumThreads(1)


def _end_with(parent: int) -> None:
    """loky's workers do not notice that their parent was killed."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)
