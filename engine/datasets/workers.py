"""Worker processes of this machine: a function is called with batch after batch in several of them,
results in order.

Not `multiprocessing`: its processes import the program that started them once more, and a script
without `if __name__ == "__main__":` would run again in each of them; and a forked copy of a process
with threads may never wake up. A worker here is a bare interpreter at the other end of two pipes.
When its parent ends, in whatever way, so does it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from engine.datasets.image_scan import ScanFunction, ScanRequest, ScanResult
from engine.errors import WorkspaceError

BATCH = 16  # images
PATIENCE_S = 1.0  # so long this process works alone: the start of others costs about as much
AHEAD = 2  # batches for each worker, at work or waiting
END_TIMEOUT_S = 5.0

START = "import sys; sys.path[:] = {path!r}; from engine.datasets.workers import serve; serve()"


class WorkerDied(Exception):
    """A worker ended without an answer; the text says how."""


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
        """See `looks.Mapper`. WorkspaceError: a worker was killed."""
        batches, started = iter(batches), time.monotonic()
        for batch in batches:
            yield function(batch)
            if self.workers > 1 and time.monotonic() - started > PATIENCE_S:
                break
        else:
            return
        waiting: deque[tuple[list[ScanRequest], Future]] = deque()
        with Pool(self.workers) as pool:
            for batch in batches:
                waiting.append((batch, pool.submit(function, batch)))
                if len(waiting) >= AHEAD * self.workers:
                    yield _result(*waiting.popleft())
            while waiting:
                yield _result(*waiting.popleft())


def _result(batch: list[ScanRequest], future: Future) -> list[ScanResult]:
    try:
        return future.result()
    except WorkerDied as error:
        raise WorkspaceError(
            f"a worker process {error} while it looked at "
            f"{batch[0].name}{f' and {len(batch) - 1} more' if batch[1:] else ''}. Nothing was "
            "written. Run it again; if it happens again, see whether memory is short, or work in "
            "one process: flows.prepare.workers=1"
        ) from None


class Pool:
    """Workers, and a thread for each that talks with it. All of them end with the block."""

    def __init__(self, workers: int) -> None:
        self._workers: list[Worker] = []
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, "detectflow-worker")
        self._wanted = workers

    def __enter__(self) -> Pool:
        try:
            for _ in range(self._wanted):
                self._workers.append(Worker())
                self._idle.put(self._workers[-1])
        except BaseException:
            self.__exit__()
            raise
        return self

    def submit(self, function: Callable[[Any], Any], argument: Any) -> Future:
        """Its result will be what `function(argument)` returns or raises, or `WorkerDied`."""
        return self._threads.submit(self._call, function, argument)

    def _call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        worker = self._idle.get()
        try:
            return worker.call(function, argument)
        finally:
            self._idle.put(worker)

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.process.kill()  # whoever leaves has the answers, or wants none
        self._threads.shutdown(cancel_futures=True)  # they see the end of the pipes
        for worker in self._workers:
            worker.close()


class Worker:
    """One process."""

    def __init__(self) -> None:
        # In a session of its own: a Ctrl-C on the terminal is for the parent, who then ends this
        # one.
        self.process = subprocess.Popen(
            [sys.executable, "-c", START.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def call(self, function: Callable[[Any], Any], argument: Any) -> Any:
        """`function(argument)`, there. WorkerDied: no answer came."""
        try:
            pickle.dump((function, argument), self.process.stdin, pickle.HIGHEST_PROTOCOL)
            self.process.stdin.flush()
            succeeded, value = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise WorkerDied(self._how_it_ended()) from None
        if succeeded:
            return value
        raise value

    def _how_it_ended(self) -> str:
        try:
            code = self.process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "does not answer"
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def close(self) -> None:
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # what was still to be sent
                pipe.close()


def serve() -> None:
    """The life of a worker: read a function and its argument, answer, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not get into the answers
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    import cv2

    cv2.setNumThreads(1)
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone
        while True:
            function, argument = pickle.load(source)
            sink.write(_answer(function, argument))
            sink.flush()


def _answer(function: Callable[[Any], Any], argument: Any) -> bytes:
    try:
        return pickle.dumps((True, function(argument)), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        try:
            return pickle.dumps((False, error), pickle.HIGHEST_PROTOCOL)
        except Exception:  # an error that cannot travel
            return pickle.dumps((False, RuntimeError(traceback.format_exc())))
