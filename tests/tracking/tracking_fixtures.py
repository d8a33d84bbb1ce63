"""Workspaces of their own for the tracking tests, each with a tracker of its own; and one real
MLflow server.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import toys
from environments import forget_settings

from engine.project.environment import prepare_environment
from engine.tracking.mlflow_client import open_store


@pytest.fixture
def clean_environment(environment_as_before):
    """Nothing of the user's set-up comes in, and nothing of the test's gets out."""
    forget_settings("MLFLOW_", "DETECTFLOW_", "DVC_", "PREFECT_")


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory):
    """An MLflow database with its tables made, which takes seconds; tests get a copy."""
    home = tmp_path_factory.mktemp("database")
    open_store(home, f"sqlite:///{home / 'mlflow.db'}")
    return home / "mlflow.db"


@pytest.fixture
def workspace(tmp_path, clean_environment, fresh_database):
    root = toys.make_workspace(tmp_path / "project")
    shutil.copy(fresh_database, root / "mlflow.db")
    return prepare_environment(root)


@pytest.fixture
def store(workspace):
    return open_store(workspace)


class Server:
    """`mlflow server` on a free port of this machine, over its own database; can be killed and
    started again.
    """

    def __init__(self, home, database):
        shutil.copy(database, home / "server.db")
        self.home, self.process = home, None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{self.home / 'server.db'}",
            "--artifacts-destination",
            str(self.home / "artifacts"),
        ]
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with open(self.home / "server.log", "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.wait_until_up()

    def wait_until_up(self, timeout_s=60):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.home / "server.log").read_text()[-2000:])

    def kill(self):
        """As if the machine had lost power: the server and its worker, whose group is our own
        making.
        """
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory, fresh_database):
    server = Server(tmp_path_factory.mktemp("server"), fresh_database)
    server.start()
    yield server
    server.kill()
