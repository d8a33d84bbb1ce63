"""A run that waits for a person's yes: suspended for real, its worker killed, answered over the API,
gone on with by another worker. One small training; later versions are the same weights exported
anew. The tests run in their order.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from servers import PATIENCE_S, ask_prefect
from workspaces import clean_environment, copy_project, shell

from engine.registry.moves import history_of
from engine.tracking.mlflow_links import model_state

pytestmark = pytest.mark.system

DETECTFLOW = [sys.executable, "-m", "engine"]
ASKS = {
    "data.options.train": 8,
    "data.options.val": 4,
    "data.options.test": 4,
    "data.options.size": 64,
    "data.options.max_px": 32,
    "train.imgsz": 64,
    "train.epochs": 1,
    "train.plots": False,
    "validate.plots": False,
    "register.model": "asked",
    # an epoch finds nothing, and a first champion is asked for a floor even where nobody lists it
    "register.gate": [{"min_test": {"images": 1, "boxes": 0, "floor": 0.0}}, "approval"],
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, prefect_server):
    root = copy_project(tmp_path_factory.mktemp("approval") / "project").resolve()
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "project"]):
        assert shell(root, "git", *words).returncode == 0
    done = shell(root, *DETECTFLOW, "deploy", "train", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stderr
    yield root
    for each in ask_prefect(f"{prefect_server}/deployments/filter", {}):
        ask_prefect(f"{prefect_server}/deployments/{each['id']}", method="DELETE")
    for each in ask_prefect(f"{prefect_server}/automations/filter", {}):
        ask_prefect(f"{prefect_server}/automations/{each['id']}", method="DELETE")


@contextlib.contextmanager
def worker(root, url):
    log = root.parent / "worker.log"
    env = {**clean_environment(), "PREFECT_API_URL": url, "PREFECT_WORKER_QUERY_SECONDS": "1"}
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


def start(url, **overrides):
    deployment = ask_prefect(f"{url}/deployments/name/pipeline/train")["id"]
    body = {"parameters": {"overrides": {**ASKS, **overrides}}}
    return ask_prefect(f"{url}/deployments/{deployment}/create_flow_run", body)["id"]


def wait_for(url, run, *names, log=None):
    """Wait until the run is in one of these states, or over."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        state = ask_prefect(f"{url}/flow_runs/{run}")["state"]
        if state["name"] in names:
            return
        over = state["type"] in {"FAILED", "CRASHED", "CANCELLED", "COMPLETED"}
        words = log.read_text()[-3000:] if log else ""
        assert not over and time.monotonic() < deadline, f"{state}. {words}"
        time.sleep(0.25)


def answer(url, run, **values):
    done = ask_prefect(f"{url}/flow_runs/{run}/resume", {"run_input": values})
    assert done["status"] == "ACCEPT", done


def entries(root):
    return [(e.what.value, e.version) for e in history_of("asked", root)[0]]


def events(url):
    found = ask_prefect(
        f"{url}/events/filter", {"filter": {"event": {"prefix": ["detectflow.model."]}}}
    )
    return [each for each in found["events"] if each["payload"]["model"] == "asked"]


def artifact(url, key, run):
    found = ask_prefect(
        f"{url}/artifacts/filter",
        {"artifacts": {"key": {"any_": [key]}, "flow_run_id": {"any_": [run]}}},
    )
    return [each["data"] for each in sorted(found, key=lambda each: each["created"])]


def test_a_yes_given_while_no_worker_lives_makes_the_champion(workspace, prefect_server):
    url = prefect_server
    with worker(workspace, url) as first:
        run = start(url)
        wait_for(url, run, "Suspended", log=first.log)
        os.kill(first.pid, signal.SIGKILL)
    assert entries(workspace) == [("held", "1")]
    (shown,) = artifact(url, "decision", run)
    assert shown.startswith("# asked version 1\n\n**HOLD**: approval: nobody has approved it yet")
    assert "| approval | HOLD |" in shown and "detectflow approve asked/1" in shown
    answer(url, run, approve=True, why="looked at all of it", by="Jo")
    with worker(workspace, url) as second:
        wait_for(url, run, "Completed", log=second.log)
    assert entries(workspace) == [("held", "1"), ("approved", "1"), ("promoted", "1")]
    history, aliases = history_of("asked", workspace)
    assert (history[1].by, history[1].why) == ("Jo", "looked at all of it")
    assert aliases["champion"] == "1"
    assert json.loads((workspace / "reports/registration.json").read_text())["verdict"] == "PROMOTE"
    assert "Champion: **version 1**" in artifact(url, "champion-history", run)[-1]
    deadline = time.monotonic() + 30
    while len(found := events(url)) < 2 and time.monotonic() < deadline:
        time.sleep(0.25)
    assert {each["event"] for each in found} == {
        "detectflow.model.held",
        "detectflow.model.promoted",
    }
    promoted = next(each for each in found if each["event"].endswith("promoted"))
    names = {each["prefect.resource.role"]: each for each in promoted["related"]}
    assert names["model-version"]["prefect.resource.name"] == "asked/1"
    assert names["flow-run"]["prefect.resource.id"] == f"prefect.flow-run.{run}"


def test_a_no_is_a_rejection_that_stays(workspace, prefect_server):
    url = prefect_server
    with worker(workspace, url) as process:
        run = start(url, **{"export.opset": 18})
        wait_for(url, run, "Suspended", log=process.log)
        # Another run meanwhile: it has decided nothing itself, so it does not ask again.
        other = start(url, **{"export.opset": 18})
        wait_for(url, other, "Completed", log=process.log)
        answer(url, run, approve=False, why="misses night images")
        wait_for(url, run, "Completed", log=process.log)
    history, aliases = history_of("asked", workspace)
    assert entries(workspace)[-2:] == [("held", "2"), ("rejected", "2")]
    assert history[-1].by == "somebody in Prefect" and "misses night images" in history[-1].why
    assert aliases["champion"] == "1"
    report = json.loads((workspace / "reports/registration.json").read_text())
    assert report["verdict"] == "REJECT" and "misses night images" in report["reason"]


def test_a_run_on_the_command_line_does_not_wait_but_says_how(workspace, prefect_server):
    words = ["-S", "export.opset=19"]
    done = shell(workspace, *DETECTFLOW, "run", *words, PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stderr
    assert "asked version 3 (challenger)" in done.stdout
    assert "HOLD: approval: nobody has approved it yet" in done.stdout
    assert "detectflow approve asked/3" in done.stdout
    done = shell(workspace, *DETECTFLOW, "approve", "asked/3", "--why", "fine")
    assert done.returncode == 0, done.stderr
    done = shell(workspace, *DETECTFLOW, "run", PREFECT_API_URL=prefect_server)
    assert "asked version 3 (challenger, champion)" in done.stdout, done.stdout + done.stderr
    assert model_state(workspace, "asked").aliases["previous"] == "1"
