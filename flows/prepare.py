"""Stage prepare for the flow: here with worker processes, or with its images shared out over a Dask
cluster.

On the cluster a shard of the images is a Prefect task: read, hash, decode, copy. What is made of
them (labels, findings, splits, manifests) is made here, in the dataset's order, so the result is
the same bit for bit. The workers need the same software, and the project and the dataset in the
same folders.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext

from engine.config import Params
from engine.datasets.image_scan import ScanFunction, ScanRequest, ScanResult
from engine.datasets.workers import cores
from engine.errors import WorkspaceError
from engine.project.environment import prepare_environment
from engine.stages.layout import Progress
from engine.stages.runner import run_stage
from flows.cluster import check_workers, dask_runner

logger = logging.getLogger("detectflow")

SECTION = "flows.prepare."
# images of a task: a second of work; what Prefect does for a task takes a fifth of that
SHARD = 400
AHEAD = 2  # shards for each thread of the cluster, at work or waiting
POLL_S = 10.0
NOBODY_S = 120.0  # so long a cluster may be without any worker
LEAVE_S = 5.0  # so long tasks that are under way may take to end

_progress_of: dict[
    str, Progress | None
] = {}  # workspace -> who gets its progress; no parameter, which Prefect would show


def run_prepare(root: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Run stage prepare where `flows.prepare` says, and return its summary.

    Raises:
        ConfigError: the cluster cannot be used. WorkspaceError: it was lost. Whatever the stage
            raises.
    """
    root = prepare_environment(root)
    where = Params.load(root / "params.yaml").flows.prepare
    if where.runner == "local":
        return run_stage("prepare", root, progress=progress)
    runner = dask_runner(where.scheduler, where.workers or cores(), SECTION)
    if where.scheduler:
        check_workers(where.scheduler, root, SECTION)
    _progress_of[str(root)] = progress
    try:
        return prepare_in_shards.with_options(task_runner=runner)(str(root))
    finally:
        del _progress_of[str(root)]


@flow(name="prepare-in-shards", flow_run_name="prepare in shards", persist_result=False)
def prepare_in_shards(root: str) -> dict[str, Any]:
    """Stage prepare, its images scanned by the tasks of this flow."""
    return run_stage("prepare", Path(root), progress=_progress_of.get(root), mapper=Shards())


@task(
    name="shard",
    task_run_name="shard {number}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=0,
)
def look_at_shard(number: int, work: bytes) -> list[ScanResult]:
    """Call a function with a batch of images; `work` is both, pickled, so that Prefect does not
    scan every image.
    """
    import cv2

    cv2.setNumThreads(1)
    function, batch = pickle.loads(work)
    return function(batch)


class Shards:
    """The `Mapper` whose work is done by tasks of the flow that is under way."""

    size = SHARD
    shared = True

    def map(
        self, function: ScanFunction, batches: Iterable[list[ScanRequest]]
    ) -> Iterator[list[ScanResult]]:
        """See `image_scan.Mapper`. WorkspaceError: the cluster was lost, or a shard kills every
        worker that takes it.
        """
        client = FlowRunContext.get().task_runner.client
        waiting: deque[tuple[list[ScanRequest], Any]] = deque()
        try:
            for number, batch in enumerate(batches, 1):
                waiting.append((batch, _submit(function, number, batch)))
                while len(waiting) >= AHEAD * max(1, _threads(client)):  # workers come and go
                    yield _result(client, *waiting[0])
                    waiting.popleft()
            while waiting:
                yield _result(client, *waiting[0])
                waiting.popleft()
        finally:
            deadline = time.monotonic() + LEAVE_S
            for _, future in waiting:
                future.wait(max(0.0, deadline - time.monotonic()))
            for (
                _,
                future,
            ) in waiting:  # one that goes on fails at its next copy, whose folder is gone by then
                with contextlib.suppress(Exception):
                    future.wrapped_future.cancel()


def _submit(function: ScanFunction, number: int, batch: list[ScanRequest]) -> Any:
    try:
        return look_at_shard.submit(number, pickle.dumps((function, batch)))
    except Exception as error:
        raise _lost(batch, error) from None


def _result(client: Any, batch: list[ScanRequest], future: Any) -> list[ScanResult]:
    """What the task returned, or raised."""
    there = time.monotonic()
    while not future.wrapped_future.done():
        future.wait(POLL_S)
        now = time.monotonic()
        if _threads(client):
            there = now
        elif now - there > NOBODY_S:
            raise WorkspaceError(
                f"the Dask cluster has had no worker for {NOBODY_S:.0f} s. Nothing was written. "
                f"Start workers and run it again, or prepare here: {SECTION}runner=local"
            )
        else:
            logger.warning("the Dask cluster has no worker at the moment: waiting for one")
    if future.wrapped_future.status == "finished":
        return future.result()
    try:
        error = future.wrapped_future.exception(timeout=POLL_S)
    except Exception as cancelled:  # Dask raises this one instead of returning it
        error = cancelled
    raise _lost(batch, error)


def _threads(client: Any) -> int:
    """Threads of all workers; 0 where the scheduler does not answer, either."""
    try:
        return sum(client.nthreads().values())
    except Exception:  # OSError and Dask's own, whatever way the connection was lost
        return 0


def _lost(batch: list[ScanRequest], error: BaseException) -> WorkspaceError:
    return WorkspaceError(
        f"the Dask cluster could not scan {batch[0].name} and the {len(batch) - 1} images after "
        f"it ({type(error).__name__}: {error}). Nothing was written. See whether its scheduler is "
        "there, what its workers say, and whether their memory is short; then run it again, or "
        f"prepare here: {SECTION}runner=local"
    )
