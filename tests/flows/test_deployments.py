"""Deployments for real: a server, a worker process, runs over REST, cancellation, a killed worker,
a fresh clone.

One sequence in one workspace, run in order, because every step of it is paid for with starts of
processes.
"""

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from servers import PATIENCE_S, ask_prefect
from workspaces import clean_environment, copy_project, shell

from engine.project.workspace_lock import holder

pytestmark = pytest.mark.system

DETECTFLOW = [sys.executable, "-m", "engine"]
TINY = {
    "data.options": {"train": 24, "val": 6, "test": 6, "size": 64, "min_px": 16, "max_px": 40},
    "train.imgsz": 64,
    "train.batch": 8,
    "train.epochs": 14,
    "train.plots": False,
}


class Api:
    """A few questions to a Prefect server."""

    def __init__(self, url):
        self.url = url

    def __call__(self, path, body=None):
        return ask_prefect(self.url + path, body)

    def delete(self, path):
        ask_prefect(self.url + path, method="DELETE")

    def start(self, name, **parameters):
        deployment = self(f"/deployments/name/{name}")
        return self(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})[
            "id"
        ]

    def state(self, run):
        return self(f"/flow_runs/{run}")["state"]

    def over(self, run):
        return self.state(run)["type"] in {"FAILED", "CRASHED", "CANCELLED", "COMPLETED"}

    def wait(self, run, log=None):
        wait_until(lambda: self.over(run), log)
        return self.state(run)["type"]

    def messages(self, run):
        found = self("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return [entry["message"] for entry in found]

    def said(self, run, words):
        """Whether a line of the run's log has come in; lines are sent in batches, after the
        fact.
        """
        return any(words in line for line in self.messages(run))


def wait_until(true, log=None):
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        words = log.read_text()[-2000:] if log else ""
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:.0f} s in vain. {words}"
        time.sleep(0.25)


@pytest.fixture(scope="module")
def api(prefect_server):
    return Api(prefect_server)


@pytest.fixture(scope="module")
def webhook():
    """A web server that keeps what is posted to it."""
    posts = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posts.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.posts, server.url = posts, f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, api, webhook):
    """A committed project with a DVC remote and a bare git repository as its origin; all
    deployments are registered.
    """
    base = tmp_path_factory.mktemp("deployed")
    root = copy_project(base / "project").resolve()
    for words in (
        ["git", "init", "-q", "-b", "main"],
        ["git", "init", "-q", "--bare", "-b", "main", str(base / "origin.git")],
        ["git", "remote", "add", "origin", str(base / "origin.git")],
        [sys.executable, "-m", "dvc", "init", "-q", "--force"],
        ["git", "checkout", "-q", "-B", "main"],
    ):
        done = shell(root, *words)
        assert done.returncode == 0, done.stderr
    (root / ".dvc" / "config").write_text(
        "['remote \"store\"']\n    url = " + str(base / "store") + "\n[core]\n    remote = store\n"
    )
    commit(root, "project")
    done = detectflow(root, api, "deploy", DETECTFLOW_WEBHOOK_URL=webhook.url)
    assert done.returncode == 0, done.stderr
    assert "train, nightly, train-clone, validate, batch-predict" in done.stdout
    yield root
    for each in api(
        "/deployments/filter", {}
    ):  # with them go their planned runs, which other tests would see
        api.delete(f"/deployments/{each['id']}")
    for each in api("/automations/filter", {}):
        api.delete(f"/automations/{each['id']}")


def commit(root, message):
    for words in (["add", "-A"], ["commit", "-q", "-m", message], ["push", "-q", "origin", "main"]):
        done = shell(root, "git", *words)
        assert done.returncode == 0, done.stderr + done.stdout


def detectflow(root, api, *words, **env):
    return shell(
        root,
        *DETECTFLOW,
        *words,
        PREFECT_API_URL=api.url,
        PREFECT_HOME=str(root / ".prefect"),
        **env,
    )


@contextlib.contextmanager
def worker(root, api):
    """A worker process; its output is beside the workspace."""
    log = root.parent / "worker.log"
    env = {**clean_environment(), "PREFECT_API_URL": api.url, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    with log.open("a") as out:
        process = subprocess.Popen(
            [*DETECTFLOW, "worker"], cwd=root, env=env, stdout=out, stderr=subprocess.STDOUT
        )
    process.log = log
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def epochs_done(root):
    """Epochs in the folder of the unfinished training."""
    tables = list((root / "runs" / "ckpt").glob("*/results.csv"))
    return max((len(table.read_text().splitlines()) - 1 for table in tables), default=0)


def test_registering_twice_changes_nothing_somebody_has_set(workspace, api):
    names = {each["name"]: each for each in api("/automations/filter", {})}
    assert names["detectflow: silent run has crashed"]["enabled"]
    assert not names["detectflow: retrain on new data"]["enabled"]
    silent = names["detectflow: silent run has crashed"]["id"]
    switch(api, silent, False)
    assert detectflow(workspace, api, "deploy", "train").returncode == 0
    after = {each["name"]: each for each in api("/automations/filter", {})}
    assert not after["detectflow: silent run has crashed"]["enabled"]
    assert len(after) == len(names)


def switch(api, automation, on):
    ask_prefect(f"{api.url}/automations/{automation}", {"enabled": on}, "PATCH")


def test_the_nightly_schedule_plans_runs(workspace, api):
    nightly = api("/deployments/name/pipeline/nightly")
    query = {
        "deployments": {"id": {"any_": [nightly["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    wait_until(lambda: api("/flow_runs/filter", query))
    planned = api("/flow_runs/filter", query)
    assert all("T02:00:00" in run["expected_start_time"] for run in planned)
    assert nightly["concurrency_limit"] == 1 or nightly["global_concurrency_limit"]["limit"] == 1


def test_cancelled_killed_and_gone_on_with(workspace, api, webhook):
    with worker(workspace, api) as first:
        run = api.start("pipeline/train", overrides=TINY)
        wait_until(lambda: epochs_done(workspace) >= 2 or api.over(run), first.log)
        asked = time.monotonic()
        api(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        wait_until(lambda: holder(workspace) is None, first.log)
        assert time.monotonic() - asked < 15, "the training went on too long after it was cancelled"
        assert api.wait(run, log=first.log) == "CANCELLED"
        before = epochs_done(workspace)

        run = api.start("pipeline/train", overrides=TINY)
        wait_until(lambda: epochs_done(workspace) > before or api.over(run), first.log)
        wait_until(lambda: api.said(run, f"resuming after epoch {before} of 14"), first.log)
        os.kill(first.pid, signal.SIGKILL)
        assert api.wait(run, log=first.log) == "CRASHED"
        wait_until(lambda: holder(workspace) is None, first.log)
        assert before < epochs_done(workspace) < 14

    with worker(workspace, api) as second:
        run = api.start("pipeline/train", overrides=TINY)
        assert api.wait(run, log=second.log) == "COMPLETED", second.log.read_text()[-3000:]
        wait_until(lambda: api.said(run, "resuming after epoch"), second.log)
        assert json.loads((workspace / "reports/train/metrics.json").read_text())["epochs"] == 14
        assert not list((workspace / "runs" / "ckpt").glob("*")), "what is done is cleared away"
        reported = json.loads((workspace / "reports/registration.json").read_text())
        assert reported["decision"] == "challenger", "so short a training finds nothing"
        wait_until(lambda: webhook.posts, second.log)
        assert webhook.posts[0]["text"] == f"digits version 1: {reported['reason']}"


def test_the_other_flows_and_a_run_from_a_fresh_clone(workspace, api):
    assert shell(workspace, sys.executable, "-m", "dvc", "push", "-q").returncode == 0
    commit(workspace, "trained")
    before = sorted(p.name for p in workspace.iterdir())
    with worker(workspace, api) as process:
        runs = {
            "predict": api.start(
                "batch-predict/batch-predict",
                source="data/prepared/images",
                model="weights/best.pt",
                shard_size=10,
            ),
            "validate": api.start("validate-champion/validate", alias="challenger"),
            "sweep": api.start(
                "sweep/sweep", settings={"trials": 2, "epochs": 1, "jobs": 1, "imgsz": 64}
            ),
            "clone": api.start(
                "pipeline-in-clone/train-clone",
                overrides={"validate.conf": 0.002},
                branch="results/test",
            ),
        }
        ended = {name: api.wait(run, log=process.log) for name, run in runs.items()}
        assert ended == dict.fromkeys(runs, "COMPLETED"), process.log.read_text()[-4000:]

    summary = json.loads((workspace / "runs/batch/summary.json").read_text())
    assert summary["images"] == 36
    assert len((workspace / "runs/batch/predictions.jsonl").read_text().splitlines()) == 36

    (study,) = (workspace / "runs" / "tune").iterdir()
    assert len((study / "trials.csv").read_text().splitlines()) == 3

    artifacts = api("/artifacts/filter", {"artifacts": {"key": {"any_": ["champion-today"]}}})
    assert "on test today" in artifacts[0]["data"]

    changed = shell(
        workspace,
        "git",
        "--git-dir",
        str(workspace.parent / "origin.git"),
        "diff",
        "--name-only",
        "main",
        "results/test",
    )
    assert {"params.yaml", "dvc.lock"} <= set(changed.stdout.split())
    children = api(
        "/flow_runs/filter",
        {"flows": {"name": {"any_": ["pipeline"]}}, "sort": "START_TIME_DESC", "limit": 5},
    )
    of_clone = next(run for run in children if run["parent_task_run_id"])
    wait_until(lambda: api.said(of_clone["id"], "validate: ran"))
    lines = api.messages(of_clone["id"])
    assert {"prepare: skipped", "train: skipped"} <= set(lines), "what was pulled is not made again"
    assert any(line.startswith("validate: ran") for line in lines)
    assert sorted(p.name for p in workspace.iterdir()) == before, (
        "nothing is left behind in the workspace"
    )


def test_changed_data_start_a_training_where_that_is_switched_on(workspace, api):
    from flows.pipeline import data_digest, emit_data_changed

    retrain = next(
        each["id"]
        for each in api("/automations/filter", {})
        if each["name"] == "detectflow: retrain on new data"
    )
    train = api("/deployments/name/pipeline/train")["id"]
    query = {
        "deployments": {"id": {"any_": [train]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    switch(api, retrain, True)
    emit_data_changed(workspace, data_digest(workspace))  # the same data: no event
    emit_data_changed(workspace, "an earlier digest")
    wait_until(lambda: api("/flow_runs/filter", query))
    started = api("/flow_runs/filter", query)
    switch(api, retrain, False)
    assert [run["created_by"]["type"] for run in started] == ["AUTOMATION"]
    for run in started:
        api.delete(f"/flow_runs/{run['id']}")


def test_a_run_whose_heartbeats_end_is_crashed(api):
    """The automation of `make deploy`, with ten seconds in place of ninety: the least that Prefect
    allows.
    """
    from datetime import timedelta

    from prefect.events import emit_event

    from flows.automations import HEARTBEAT, silent_run

    automation = silent_run(timedelta(seconds=10))
    automation.name = "silent run, soon"
    automation.create()
    flow = api("/flows/", {"name": "power-loss"})["id"]
    runs = [api("/flow_runs/", {"flow_id": flow, "state": {"type": "RUNNING"}})["id"] for _ in "ab"]
    for run in runs:
        emit_event(HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{run}"})
    deadline = time.monotonic() + 60
    while api.state(runs[0])["type"] == "RUNNING" and time.monotonic() < deadline:
        emit_event(
            HEARTBEAT, {"prefect.resource.id": f"prefect.flow-run.{runs[1]}"}
        )  # this one is alive
        time.sleep(1)
    state = api.state(runs[0])
    assert state["type"] == "CRASHED" and "went silent" in state["message"]
    assert api.state(runs[1])["type"] == "RUNNING"
    automation.delete()


class TestMistakes:
    def test_without_a_server(self, workspace):
        done = shell(workspace, *DETECTFLOW, "deploy")
        assert done.returncode == 1 and "make ui" in done.stderr

    def test_a_server_that_is_not_there(self, workspace):
        done = shell(workspace, *DETECTFLOW, "worker", PREFECT_API_URL="http://127.0.0.1:9/api")
        assert (
            done.returncode == 1
            and "http://127.0.0.1:9/api, but no Prefect server answers there" in done.stderr
        )

    def test_an_unknown_deployment(self, workspace, api):
        done = detectflow(workspace, api, "deploy", "trian")
        assert done.returncode != 0 and "Did you mean 'train'" in done.stderr

    def test_a_pool_that_is_not_there(self, workspace, api):
        for words in (["--pool", "detectflwo"], ["--pool=detectflwo"]):
            done = detectflow(workspace, api, "worker", *words)
            assert (
                done.returncode == 2
                and "no work pool 'detectflwo'. Did you mean 'detectflow'?" in done.stderr
            )
        assert [pool["name"] for pool in api("/work_pools/filter", {})] == ["detectflow"], (
            "none was made"
        )

    def test_a_word_that_is_no_option(self, workspace, api):
        done = detectflow(workspace, api, "worker", "gpu")
        assert done.returncode == 2 and "got 'gpu'" in done.stderr
