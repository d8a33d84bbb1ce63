"""One state, two drivers: `dvc repro` and `detectflow run` in one workspace, with a real training
that is killed.

What the first run, skips, parameters and Ctrl-C do is in test_pipeline.py; push and pull in
tests/versioning/test_remotes.py.
"""

import os
import re
import signal
import sys

import pytest
from test_pipeline import TINY, Driver, commit
from workspaces import copy_project, shell

from flows import overrides

pytestmark = pytest.mark.system

REPRO = [sys.executable, "-m", "dvc", "repro", "train"]
FLOW = [sys.executable, "-m", "engine", "run"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Prepared and committed; its training would take 500 epochs."""
    root = copy_project(tmp_path_factory.mktemp("drivers") / "project").resolve()
    settings = {key: False if value == "false" else value for key, value in TINY.items()}
    overrides.apply(root, {**settings, "train.epochs": 500})
    assert shell(root, "git", "init", "-q").returncode == 0
    done = shell(root, "dvc", "repro", "prepare")
    assert done.returncode == 0, done.stderr
    commit(root)
    return root


def resumed_after(driver):
    driver.wait_for("resuming after epoch")
    return int(re.search(r"resuming after epoch (\d+) of 500", driver.text)[1])


def refused(workspace, command, holder, **env):
    """`command` ends at once and names `holder`."""
    done = shell(workspace, *command, **env)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert re.search(holder, done.stderr), done.stderr


def test_killed_under_one_driver_a_training_goes_on_under_the_other_and_meanwhile_nobody_else_gets_in(
    workspace, prefect_server, tmp_path
):
    env = {"PREFECT_API_URL": prefect_server, "DETECTFLOW_TRACKING": "off"}
    # Where SHELL is not set (cron, containers) DVC starts stages by /bin/sh, which may stay between
    # it and them.
    repro = Driver(workspace, tmp_path / "repro", REPRO, {**env, "SHELL": "/bin/sh"})
    repro.wait_for("epoch 3/500")
    refused(
        workspace,
        [*FLOW, "--no-wait"],
        r"held by process \d+ \(python -m engine.stages train\)",
        **env,
    )
    refused(workspace, REPRO, rf"PID {repro.process.pid}", **env)
    os.kill(repro.process.pid, signal.SIGKILL)  # dvc alone: the training must notice and end
    repro.process.wait()

    flow = Driver(workspace, tmp_path / "flow", FLOW, env)
    reached = resumed_after(flow)
    assert reached >= 3
    flow.wait_for(f"epoch {reached + 2}/500")
    refused(workspace, [*FLOW, "--no-wait"], rf"held by process {flow.process.pid}", **env)
    refused(workspace, REPRO, rf"held by process {flow.process.pid} \(detectflow run\)", **env)
    os.kill(flow.process.pid, signal.SIGKILL)
    flow.process.wait()

    again = Driver(workspace, tmp_path / "again", REPRO, env)
    assert resumed_after(again) >= reached + 2
    again.interrupt()
    assert "Traceback" not in again.text and "Traceback" not in repro.text
