"""The SQLite file of MLflow is there whole or not at all, also when the process that makes it is
killed.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from engine.tracking.mlflow_client import open_store

OPEN = (
    "import pathlib, sys; from engine.tracking.mlflow_client import open_store; "
    "open_store(pathlib.Path(sys.argv[1]))"
)


def test_one_that_was_killed_while_it_was_made_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)], env=dict(os.environ))
    part = Path(tmp_path / "mlflow.db.part")
    while not (part.exists() and part.stat().st_size > 100_000):  # some of its tables
        assert first.poll() is None and not (tmp_path / "mlflow.db").exists(), (
            "it was not made aside"
        )
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "mlflow.db").exists()

    store = open_store(tmp_path)
    assert store.client.search_experiments() and not part.exists()
    assert store.client.create_experiment("mine")
