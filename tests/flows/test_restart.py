"""A Prefect server is killed and started again, with the settings that `detectflow ui` gives it:
who held a slot still does.

Prefect's own default forgets it, and ends the run within minutes because the slot is no longer
reserved.
"""

import os
import sys
import urllib.error

import pytest
from environments import forget_settings
from servers import ask_prefect, start_prefect
from test_pipeline import TINY, Driver
from workspaces import clean_environment, copy_project

from engine.project.environment import prepare_environment
from flows.processes import free_port

pytestmark = pytest.mark.system


@pytest.fixture
def server(tmp_path, own_environment):
    """(start) of a server of a project; each start ends the one before with -9."""
    root = copy_project(tmp_path / "project")
    forget_settings("PREFECT_")
    prepare_environment(root)
    settings = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_")}
    port = free_port()
    started = []

    def start():
        for child in started:
            child.process.kill()
            child.process.wait()
        child, url = start_prefect(root / "log", {**clean_environment(), **settings}, port=port)
        started.append(child)
        return url

    start.root, start.children = root, started
    yield start
    started[-1].stop()


def test_the_slot_of_a_run_outlives_the_server(server):
    limits = f"{server()}/v2/concurrency_limits"
    ask_prefect(f"{limits}/", {"name": "workspace", "limit": 1})
    lease = ask_prefect(
        f"{limits}/increment-with-lease",
        {"names": ["workspace"], "slots": 1, "lease_duration": 300},
    )["lease_id"]
    server()
    ask_prefect(
        f"{limits}/leases/{lease}/renew", {"lease_duration": 300}
    )  # 410 where it is forgotten
    with pytest.raises(urllib.error.HTTPError) as full:
        ask_prefect(
            f"{limits}/increment-with-lease",
            {"names": ["workspace"], "slots": 1, "lease_duration": 300},
        )
    assert full.value.code == 423, "the slot is still taken"


def test_a_run_whose_server_goes_for_good_is_complete_and_says_so_once(server, tmp_path):
    words = [word for key, value in TINY.items() for word in ("-S", f"{key}={value}")]
    # Prefect's own patience at the end of a run is a minute for each of two questions: none here.
    env = {
        "PREFECT_API_URL": server(),
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "DETECTFLOW_TRACKING": "off",
    }
    run = Driver(
        server.root, tmp_path / "run", [sys.executable, "-m", "engine", "run", *words], env
    )
    run.wait_for("prepare: ran")
    server.children[-1].process.kill()
    assert run.process.wait(180) == 0, run.text
    assert (
        "went away under the run: its page of the run is incomplete. The run itself is complete."
        in run.text
    )
    assert (
        "mAP50-95" in run.text
        and "5 ran" in run.text
        and (server.root / "export" / "best.onnx").is_file()
    )
    assert (
        run.text.count("Unable to connect") <= 1
        and "Traceback" not in run.text
        and "failed to process item" not in run.text
    )
