"""The SQLite file of MLflow is there whole or not at all, also when the process that makes it is
killed; the saved view.
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

from engine.tracking.mlflow_client import open_store, saved_view

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


def test_the_saved_view_has_the_figures_where_they_are_seen_without_scrolling():
    view = json.loads(saved_view(7))
    kind, state = view["state"].split(";")
    shown = json.loads(zlib.decompress(base64.b64decode(state)))
    assert (view["name"], view["createdAt"], kind) == ("Detectors", 7, "deflate")
    order, widths = shown["columnOrder"], shown["columnWidths"]
    assert [name for name in order if name.startswith("metrics.")] == order[
        2:5
    ]  # MLflow pins the two before them
    assert 80 + sum(widths[name] for name in order[:5]) < 860, (
        "what a window of 1500 px leaves the table"
    )
    assert set(shown["selectedColumns"]) < set(order) == set(widths)
