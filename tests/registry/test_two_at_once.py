"""Two processes that decide about the same registered model at the same time: aliases are never
half moved, and the history has what happened.
"""

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import toys
from workspaces import clean_environment

from engine.errors import WorkspaceError
from engine.registry.history import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Entry,
    What,
    appoint,
    champions,
)
from engine.registry.moves import history_of
from engine.registry.registry import aliases_of
from engine.stages import register as stage
from engine.tracking.mlflow_client import Store


def prepared(root, seed, shift):
    toys.train(root, epochs=1, seed=seed)
    toys.validate(root)
    toys.export(root, shift=shift)


def test_of_two_moves_from_the_same_champion_one_wins(workspace, store):
    """The other one says so, however the two are interleaved: here both have read the alias before
    either sets it, unless they take turns.
    """
    for seed, shift in ((0, 4), (1, 2), (2, 1)):
        prepared(workspace, seed, shift)
        stage.run(toys.params_of(workspace), workspace)
    champion = aliases_of(store, "detector")[CHAMPION]
    slow = Slow(store.client)

    def move(version):
        try:
            own = Store(slow, store.uri, store.state)
            appoint(own, "detector", Entry(What.PROMOTED, version, champion), champion)
            return "moved"
        except WorkspaceError as error:
            return str(error)

    others = [v for v in ("1", "2", "3") if v != champion]
    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(move, others), key=lambda text: text == "moved")
    assert said[1] == "moved" and "became champion of 'detector' instead of" in said[0]
    entries, aliases = history_of("detector", workspace)
    assert entries[-1].version == aliases[CHAMPION]
    before = {"1": None, "2": "1"}[aliases[CHAMPION]]  # a person went back to an earlier champion
    assert aliases.get(PREVIOUS) == before
    assert [e.what for e in entries if e.what == "moved by hand"] == []


class Slow:
    """MLflow's client, which takes its time after the aliases were read."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        return getattr(self.client, name)

    def get_registered_model(self, name):
        found = self.client.get_registered_model(name)
        time.sleep(0.3)
        return found


@pytest.mark.system
def test_two_workspaces_that_register_at_the_same_time(workspace, store, tmp_path, monkeypatch):
    """Both candidates are better than the champion. Each compares with it, or with the other."""
    prepared(workspace, 0, shift=4)
    assert stage.run(toys.params_of(workspace), workspace)["decision"] == "champion"
    other = tmp_path / "other"
    shutil.copytree(workspace, other, ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("MLFLOW_DEFAULT_ARTIFACT_ROOT", str(workspace / "mlartifacts"))
    prepared(workspace, 1, shift=1)
    prepared(other, 2, shift=0)
    env = {
        **clean_environment(),
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": str(workspace / "mlartifacts"),
        "PYTHONPATH": str(toys.ROOT),
    }
    code = (
        "import sys, time; from pathlib import Path; from engine.config import Params;"
        "from engine.stages import register; import mlflow, onnxruntime; root = Path.cwd();"
        "time.sleep(max(0, float(sys.argv[1]) - time.time()));"
        "print(register.run(Params.load(root / 'params.yaml'), root)['decision'])"
    )
    at = str(time.time() + 15)  # both have imported by then
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, at],
            cwd=root,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for root in (workspace, other)
    ]
    said = [process.communicate(timeout=240) for process in both]
    aliases = aliases_of(store, "detector")
    entries, _ = history_of("detector", workspace)
    stack = champions(entries)
    assert stack[-1] == aliases[CHAMPION] and stack[-2] == aliases[PREVIOUS], (said, entries)
    assert aliases[CHALLENGER] in {"2", "3"}
    assert [e.what for e in entries if e.what == "moved by hand"] == [], "no move went unrecorded"
    for process, (_, err) in zip(both, said):
        # The one that came second says so, or had been compared with the other already.
        assert process.returncode == 0 or "became champion" in err, err
