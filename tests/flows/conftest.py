"""A copy of the project to run in, and one Prefect server for all flow tests (its start takes most
of their time).
"""

import atexit
import os

import pytest
from environments import forget_settings
from workspaces import copy_project


@pytest.fixture
def own_environment(environment_as_before):
    """No settings of the machine's user in a test."""
    forget_settings()


@pytest.fixture
def project(tmp_path, monkeypatch, own_environment):
    """A fresh copy of the project, and here."""
    root = copy_project(tmp_path / "project").resolve()
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory):
    """A server with all its services, as `detectflow ui` starts it; this process's prefect reports
    to it.
    """
    from servers import start_prefect

    home = tmp_path_factory.mktemp("prefect")
    env = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    child, url = start_prefect(home / "server.log", env)
    atexit.register(
        child.stop
    )  # with the interpreter, after prefect's last log lines, which would else wait for it
    os.environ["PREFECT_HOME"] = str(home)
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        temporary_settings,
    )

    # Without heartbeats, whose end costs each flow up to a second.
    with temporary_settings({PREFECT_API_URL: url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield url
    os.environ.pop("PREFECT_HOME", None)
