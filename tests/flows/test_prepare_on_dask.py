"""Stage prepare on a real Dask cluster of two worker processes: the bytes of the local one, and
what is said when it fails.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dataset_builders import image_bytes, make_voc, put, tree, voc_xml

from engine.config import Params
from engine.errors import ConfigError, DataError, WorkspaceError
from engine.stages.runner import run_stage
from engine.tracking.run_metadata import flat_params
from flows.processes import Child, free_port

pytest.importorskip("prefect_dask")

pytestmark = pytest.mark.system

PARAMS = """
data:
  source: data/d.yaml
  policies: {unreadable_image: drop, bad_entry: drop}
flows:
  prepare: {runner: %s, scheduler: %s, workers: %d}
"""
IMAGES = 90


@pytest.fixture
def workspace(project, prefect_server, monkeypatch):
    """The project with a dataset of nine shards, some of it damaged."""
    monkeypatch.setenv("DETECTFLOW_TRACKING", "off")
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    from flows.prepare import Shards

    monkeypatch.setattr(Shards, "size", 10)
    root = make_voc(
        project / "data/raw/voc",
        {f"i{k:03d}": [("cat", (4, 2, 20 + k % 7, 30))] for k in range(IMAGES)},
        lists=False,
    )
    for k in range(0, IMAGES, 4):
        put(
            root / f"Annotations/i{k:03d}.xml",
            voc_xml(f"i{k:03d}", [("cat", (-4, 2, 20, 30)), ("dog", (1, 1, 1, 9))]),
        )
    for k in range(0, IMAGES, 5):
        put(root / f"JPEGImages/i{k:03d}.png", image_bytes(f"i{k:03d}")[: 100 + k])
    put(project / "data/d.yaml", "name: d\npath: raw/voc\n")
    return project


def set_runner(root: Path, runner: str, scheduler: str = "null", workers: int = 2) -> None:
    put(root / "params.yaml", PARAMS % (runner, scheduler, workers))


@contextlib.contextmanager
def two_workers(folder: Path, **options):
    """A cluster that is there before and after the flow."""
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, **options}
    with LocalCluster(
        dashboard_address="127.0.0.1:0", local_directory=str(folder / ".dask"), **options
    ) as cluster:
        with Client(cluster, set_as_default=False) as client:
            yield cluster, client


def result_of(root: Path) -> dict[str, bytes]:
    """What stage prepare made, and not where."""
    found = {**tree(root / "data/prepared"), "report": (root / "reports/data.json").read_bytes()}
    shutil.rmtree(root / "data/prepared")
    (root / "reports/data.json").unlink()
    return found


def run(root: Path):
    from flows.prepare import run_prepare

    return run_prepare(root)


def runs_of(url: str, flow: str) -> tuple[list[str], list[tuple[str, str]]]:
    """(states of the newest runs of a flow, name and state of each task of the newest), as the
    server has them.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterId,
    )
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        named = FlowFilter(name=FlowFilterName(any_=[flow]))
        runs = client.read_flow_runs(flow_filter=named, sort=FlowRunSort.START_TIME_DESC)
        newest = FlowRunFilter(id=FlowRunFilterId(any_=[runs[0].id]))
        tasks = client.read_task_runs(flow_run_filter=newest)
        return [run.state_name for run in runs], [(each.name, each.state_name) for each in tasks]


def eventually(check, within_s: float = 10.0):
    """The server takes the states of tasks in a queue."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_two_dask_workers_make_the_same_bytes(workspace, prefect_server):
    set_runner(workspace, "local", workers=1)
    summary = run(workspace)
    assert summary["findings"]["unreadable_image"]["count"] == 18
    expected = result_of(workspace)
    with two_workers(workspace) as (cluster, client):
        set_runner(workspace, "dask", cluster.scheduler_address)
        assert run(workspace) == summary
        worked = client.run(lambda dask_worker: dask_worker.state.transition_counter)
    assert len(worked) == 2 and all(worked.values()), "both have had shards"
    assert result_of(workspace) == expected

    def recorded():
        states, tasks = runs_of(prefect_server, "prepare-in-shards")
        assert states[0] == "Completed"
        assert sorted(tasks) == [(f"shard {number}", "Completed") for number in range(1, 10)]

    eventually(recorded)


def test_a_cluster_of_ones_own_for_as_long_as_the_flow_runs(workspace):
    set_runner(workspace, "local", workers=2)
    summary = run(workspace)
    expected = result_of(workspace)
    set_runner(workspace, "dask")
    assert run(workspace) == summary and result_of(workspace) == expected


def test_what_dvc_runs_is_always_local(workspace):
    set_runner(workspace, "dask", "tcp://127.0.0.1:9")
    assert run_stage("prepare", workspace)["counts"]["train"]["images"] > 0


def test_refused_data_are_refused_there_too(workspace):
    with two_workers(workspace) as (cluster, _):
        set_runner(workspace, "dask", cluster.scheduler_address)
        text = (
            (workspace / "params.yaml")
            .read_text()
            .replace("unreadable_image: drop", "unreadable_image: error")
        )
        put(workspace / "params.yaml", text)
        with pytest.raises(DataError, match=r"image that cannot be decoded \(18\)"):
            run(workspace)
    assert not [path for path in (workspace / "data").iterdir() if "prepared" in path.name]


# --- clusters that cannot -------------------------------------------------------------------------


def test_a_scheduler_that_is_not_there_or_has_nobody(workspace):
    set_runner(workspace, "dask", "tcp://127.0.0.1:9")
    with pytest.raises(
        ConfigError,
        match=r"flows.prepare.scheduler=tcp://127.0.0.1:9: no Dask scheduler answers there",
    ):
        run(workspace)
    with two_workers(workspace, n_workers=0) as (cluster, _):
        set_runner(workspace, "dask", cluster.scheduler_address)
        with pytest.raises(ConfigError, match="has no workers; .*dask worker"):
            run(workspace)


def test_without_dask_the_extra_is_named(workspace, monkeypatch):
    monkeypatch.setitem(sys.modules, "prefect_dask", None)
    set_runner(workspace, "dask")
    with pytest.raises(
        ConfigError,
        match=r"flows.prepare.runner=dask needs prefect-dask: pip install 'detectflow\[cluster\]'",
    ):
        run(workspace)


def test_workers_are_asked_before_they_are_trusted(workspace, monkeypatch):
    from flows.cluster import check_workers

    with two_workers(workspace) as (cluster, _):
        address = cluster.scheduler_address
        check_workers(address, workspace)
        with pytest.raises(
            ConfigError, match="its worker tcp.*does not see /nowhere.*same folders"
        ):
            check_workers(address, Path("/nowhere"))
        with (
            monkeypatch.context() as patch,
            pytest.raises(ConfigError, match="does not reach the Prefect server at http://127"),
        ):
            patch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
            check_workers(address, workspace)
        monkeypatch.setattr("platform.python_version", lambda: "2.7")
        with pytest.raises(
            ConfigError,
            match=r"has other software, so its results may differ: python 3\.\d+\.\d+, here 2\.7",
        ):
            check_workers(address, workspace)


# --- clusters that die ----------------------------------------------------------------------------


def slow_pictures(root: Path) -> None:
    """Images that take longer to decode, and no two alike."""
    import cv2
    import numpy as np

    blank = cv2.imencode(".png", np.zeros((1500, 1500, 3), np.uint8))[1].tobytes()
    for k in range(IMAGES):
        put(root / f"data/raw/voc/JPEGImages/i{k:03d}.png", blank + str(k).encode())
        put(
            root / f"data/raw/voc/Annotations/i{k:03d}.xml",
            voc_xml(f"i{k:03d}", [("cat", (4, 2, 20, 30))], (1500, 1500)),
        )


def when_copies_appear(root: Path, action) -> threading.Thread:
    """Call `action` once the cluster is at work."""

    def wait():
        while len(list((root / "data").glob(".prepared.new/incoming/*"))) < 5:
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_worker_that_dies_is_replaced_and_the_result_is_the_same(workspace):
    slow_pictures(workspace)
    set_runner(workspace, "local", workers=1)
    run(workspace)
    expected = result_of(workspace)
    with two_workers(workspace) as (cluster, client):
        set_runner(workspace, "dask", cluster.scheduler_address)
        victim = next(iter(client.run(os.getpid).values()))
        killer = when_copies_appear(workspace, lambda: os.kill(victim, signal.SIGKILL))
        run(workspace)
        killer.join()
    assert result_of(workspace) == expected


class Bomb:
    """Ends the process that unpickles it, as an image does that no memory is enough for."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_shard_that_kills_every_worker_is_named(workspace):
    import dask
    from prefect import flow

    from engine.datasets.image_scan import ScanRequest
    from flows.cluster import dask_runner
    from flows.prepare import Shards

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        two_workers(workspace) as (cluster, _),
    ):

        @flow(task_runner=dask_runner(cluster.scheduler_address, 2))
        def doomed():
            return list(
                Shards().map(
                    Bomb(), [[ScanRequest("JPEGImages/huge.png", None), ScanRequest("b.png", None)]]
                )
            )

        with pytest.raises(
            WorkspaceError,
            match=r"could not scan JPEGImages/huge.png and the 1 images.*KilledWorker.*memory",
        ):
            doomed()


def test_without_any_worker_left_it_ends_with_what_to_do(workspace, monkeypatch):
    monkeypatch.setattr("flows.prepare.NOBODY_S", 2.0)
    monkeypatch.setattr("flows.prepare.POLL_S", 0.5)
    monkeypatch.setattr("flows.prepare.LEAVE_S", 2.0)
    slow_pictures(workspace)
    with two_workers(workspace) as (cluster, client):
        set_runner(workspace, "dask", cluster.scheduler_address)
        killer = when_copies_appear(
            workspace, lambda: client.retire_workers(list(client.nthreads()), close_workers=True)
        )
        with pytest.raises(
            WorkspaceError,
            match="no worker for 2 s. Nothing was written.*flows.prepare.runner=local",
        ):
            run(workspace)
        killer.join()
    assert not [path for path in (workspace / "data").iterdir() if "prepared" in path.name]


@contextlib.contextmanager
def cluster_of_commands(folder: Path, *before: str):
    """(scheduler's process, its address): a scheduler and one worker as a shell starts them;
    `before`: a command around the worker's.
    """
    env = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    address = f"tcp://127.0.0.1:{free_port()}"
    dask, quiet = [sys.executable, "-m", "distributed.cli.dask_scheduler"], "--no-dashboard"
    host, port = address.removeprefix("tcp://").split(":")
    scheduler = Child(
        "scheduler",
        [*dask, "--host", host, "--port", port, quiet],
        folder / "scheduler.log",
        env,
        folder,
    )
    command = [
        *before,
        sys.executable,
        "-m",
        "distributed.cli.dask_worker",
        address,
        "--nthreads",
        "1",
        quiet,
    ]
    worker = Child("worker", command, folder / "worker.log", env, folder)
    try:
        from distributed import Client

        with Client(address, set_as_default=False, timeout="30s") as client:
            client.wait_for_workers(1, timeout=60)
        yield scheduler, address
    finally:
        worker.stop()
        scheduler.stop()


def test_a_scheduler_that_goes_away_is_reported_in_words(workspace, tmp_path, monkeypatch):
    import dask

    monkeypatch.setattr("flows.prepare.LEAVE_S", 2.0)
    slow_pictures(workspace)
    with cluster_of_commands(tmp_path) as (scheduler, address):
        set_runner(workspace, "dask", address)
        killer = when_copies_appear(workspace, scheduler.process.kill)
        short = dask.config.set(
            {"distributed.comm.timeouts.connect": "3s"}
        )  # for the tries to find it again
        with (
            short,
            pytest.raises(
                WorkspaceError,
                match="the Dask cluster .*Nothing was written.*flows.prepare.runner=local",
            ),
        ):
            run(workspace)
        killer.join()
    assert not [path for path in (workspace / "data").iterdir() if "prepared" in path.name]


@pytest.mark.parametrize(
    "hidden, error, words",
    [
        ("data/raw/voc", WorkspaceError, r"png: can be read here and not on .*shared file system"),
        (
            ".",
            ConfigError,
            r"its worker tcp.* does not see .*project: all machines need the project and the "
            r"dataset",
        ),
    ],
)
def test_a_worker_without_the_shared_folders_is_named(hidden, error, words, workspace, tmp_path):
    """A mount of its own hides them from the worker, as another machine would."""
    if subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(tmp_path)], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount")
    folder = (workspace / hidden).resolve()
    with cluster_of_commands(
        tmp_path, "unshare", "-m", "sh", "-c", f'mount -t tmpfs none "{folder}" && exec "$@"', "sh"
    ) as (
        _,
        at,
    ):
        set_runner(workspace, "dask", at)
        with pytest.raises(error, match=words):
            run(workspace)
    assert not [path for path in (workspace / "data").iterdir() if "prepared" in path.name]


def test_params_know_the_section():
    assert Params().flows.prepare.runner == "local"
    assert not [key for key in flat_params(Params()) if "flows" in key], (
        "it changes no result, so it is no parameter of a run"
    )
    with pytest.raises(
        ConfigError, match="flows.prepare.runner: Input should be 'local' or 'dask'"
    ):
        Params.build({"flows": {"prepare": {"runner": "dusk"}}})
    with pytest.raises(
        ConfigError, match="unknown key 'flows.prepare.worker'. Did you mean 'workers'"
    ):
        Params.build({"flows": {"prepare": {"worker": 2}}})
