"""How a run that does not come to its end is shown: Ctrl-C as Cancelled, an error once. With the
real command and a real server.
"""

import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from servers import ask_prefect
from workspaces import clean_environment

from engine.errors import Terminated

pytestmark = pytest.mark.system

SMALL = ["-S", "data.source=data/small.yaml", "-S", "train.imgsz=64", "-S", "train.epochs=500"]


@pytest.fixture
def small(project):
    """The project with a few images."""
    content = yaml.safe_load((project / "data" / "digits.yaml").read_text())
    content |= {"name": "small", "options": {"train": 8, "val": 4, "test": 4, "size": 160}}
    (project / "data" / "small.yaml").write_text(yaml.safe_dump(content))
    return project


def hear_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def command(small, prefect_server):
    """Starts `detectflow run ...`; what it says goes into a file, so there is no terminal."""
    started = []

    def start(*words):
        log = small / f"log-{len(started)}"
        with log.open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "engine", "run", *words],
                cwd=small,
                env={**clean_environment(), "PREFECT_API_URL": prefect_server},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=hear_interrupts,
            )
        started.append(process)
        return process, log

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def newest(server, what):
    body = {"sort": "EXPECTED_START_TIME_DESC", "limit": 1}
    if what == "task_runs":
        run = newest(server, "flow_runs")["id"]
        body = {**body, "task_runs": {"flow_run_id": {"any_": [run]}, "name": {"any_": ["train"]}}}
    (found,) = ask_prefect(f"{server}/{what}/filter", body)
    return found


def state_of(server, what, wanted, within_s=30):
    """Its state, which Prefect sends in batches."""
    deadline = time.monotonic() + within_s
    while True:
        state = newest(server, what)["state"]
        if state["name"] == wanted or time.monotonic() > deadline:
            return state
        time.sleep(0.3)


def test_ctrl_c_is_cancelled_and_no_crash(command, prefect_server):
    process, log = command(*SMALL)
    deadline = time.monotonic() + 180
    while "epoch 1/500" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    said = log.read_text()
    assert "Crash" not in said and "Traceback" not in said and "ERROR" not in said, said
    assert "training on 8 images (4 for validation): 500 epochs of 1 step" in said
    flow = state_of(prefect_server, "flow_runs", "Cancelled")
    assert (flow["type"], flow["name"]) == ("CANCELLED", "Cancelled")
    assert flow["message"].startswith("Interrupted by Ctrl-C.")
    assert state_of(prefect_server, "task_runs", "Cancelled")["type"] == "CANCELLED"


def test_a_mistake_is_printed_once_and_last(command, small):
    (small / "data" / "raw" / "empty").mkdir(parents=True)
    (small / "data" / "raw" / "empty" / "notes.txt").write_text("hi")
    process, log = command("-S", "data.source=data/raw/empty")
    assert process.wait(120) == 1
    said = log.read_text()
    assert said.count("no annotations found") == 1, said
    assert said.strip().splitlines()[-1].startswith("DataError: ") and "Traceback" not in said


def test_a_bug_has_one_traceback(command, small):
    stage = small / "engine" / "stages" / "prepare.py"
    text = stage.read_text()
    assert text.count("\ndef run(") == 1
    stage.write_text(text.replace("\ndef run(", "\ndef run(*a, **k):\n    1 / 0\n\n\ndef unused("))
    process, log = command(*SMALL)
    assert process.wait(120) == 1
    said = log.read_text()
    assert said.count("Traceback (most recent call last)") == 1, said
    assert said.count("ZeroDivisionError: division by zero") == 1, said


def test_the_caller_of_a_flow_gets_the_interrupt_and_a_signal_stays_a_crash(prefect_server):
    from prefect import flow

    from flows.interrupts import cancelled_by_interrupt

    raised = []

    @cancelled_by_interrupt
    @flow(persist_result=False)
    def ended(why: str = "") -> str:
        if raised:
            raise raised[0]
        return f"done {why}"

    assert ended("well") == "done well" and list(ended.parameters.properties) == ["why"]
    for error, state in ((KeyboardInterrupt(), "Cancelled"), (Terminated(), "Crashed")):
        raised[:] = [error]
        with pytest.raises(KeyboardInterrupt) as found:
            ended()
        assert found.value is error
        assert state_of(prefect_server, "flow_runs", state)["name"] == state
