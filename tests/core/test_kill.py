"""`kill -9` at any moment costs time and nothing else: killed again and again and resumed, a run
comes to the same bits.

Each training is a process of its own that a SIGKILL ends: see `killable.py`. Together more than
fifty kills.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from classifier import assert_same_run, settings_of

pytestmark = pytest.mark.system

DIGITS = """
name: digits
format: generated
generator: digits
options: {train: 9, val: 4, test: 4, size: 64, max_px: 32}
names: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
licence: test
"""
# How often each must fire in one life of the classifier (3 batches an epoch, 5 of validation) to be
# in its second epoch.
EVENTS = {
    "on_train_batch_end": 5,
    "on_val_batch_end": 6,
    "on_train_epoch_end": 2,
    "on_model_save": 2,
    "on_fit_epoch_end": 2,
}


class Server:
    """The process that trains in forks of itself."""

    def __init__(self, folder: Path):
        self.log = folder / "log"
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killable.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "DETECTFLOW_STATE": str(folder)},
        )

    def train(self, kind: str, overrides: dict, kill: dict | None = None) -> bool:
        """Whether the training came to its end; False: it was killed."""
        self.process.stdin.write(
            json.dumps({"kind": kind, "overrides": overrides, "kill": kill}) + "\n"
        )
        self.process.stdin.flush()
        ended = json.loads(self.process.stdout.readline())
        assert ended["code"] == 0 and ended["signal"] in (0, signal.SIGKILL), self.log.read_text()
        return not ended["signal"]

    def train_through(self, kind: str, overrides: dict, moments) -> int:
        """Start, and resume, until the end; a life is killed at each of `moments` that comes.
        Returns the kills.
        """
        args = Path(overrides["project"]) / overrides["name"] / "args.yaml"
        for kills, moment in enumerate(itertools.chain(moments, itertools.repeat(None))):
            if self.train(kind, {**overrides, "exist_ok": True, "resume": args.is_file()}, moment):
                print(f"{overrides['name']}: {kills} kills")  # pytest -rP shows it
                return kills


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.process.stdin.close()
    assert running.process.wait(30) == 0


@pytest.fixture(scope="module")
def classifier(server, tmp_path_factory):
    """Settings of a classifier, and the folder of the run that nobody interrupted."""
    project = tmp_path_factory.mktemp("classifier")
    plan = settings_of(project, epochs=5, save_period=1, val_period=2)
    assert server.train("classifier", {**plan, "name": "whole"})
    return plan, project / "whole"


@pytest.fixture(scope="module")
def detector(server, tmp_path_factory):
    project = tmp_path_factory.mktemp("detector")
    (project / "digits.yaml").write_text(DIGITS)
    (project / "tiny.yaml").write_text("depth: 0.1\nwidth: 0.06\nmax_channels: 1024\n")
    plan = {
        "model": str(project / "tiny.yaml"),
        "data": str(project / "digits.yaml"),
        "imgsz": 64,
        "epochs": 3,
        "batch": 3,
        "save_period": 1,
        "project": str(project),
        "verbose": False,
        "device": "cpu",
        "plots": False,
        "mixup": 0.3,
    }
    assert server.train("detector", {**plan, "name": "whole"})
    return plan, project / "whole"


def rubbish(run: Path) -> list[str]:
    return [str(file) for file in run.rglob("*") if file.name.endswith(".tmp")]


def test_a_kill_at_every_step_of_writing(server, classifier):
    """Life n is killed at its n-th step of writing files, until one is too short for that."""
    plan, whole = classifier
    kills = server.train_through(
        "classifier", {**plan, "name": "writing"}, ({"write": n} for n in itertools.count(1))
    )
    assert kills >= 20
    assert_same_run(whole, whole.parent / "writing")
    assert not rubbish(whole.parent / "writing")


@pytest.mark.parametrize("event", EVENTS)
def test_a_kill_in_every_epoch(server, classifier, event):
    plan, whole = classifier
    moment = {"event": event, "count": EVENTS[event]}
    kills = server.train_through("classifier", {**plan, "name": event}, itertools.repeat(moment, 4))
    assert kills >= 2
    assert_same_run(whole, whole.parent / event)


def test_kills_at_random_times(server, classifier):
    plan, whole = classifier
    times = random.Random(3)
    moments = [{"after_s": times.uniform(0, 0.4)} for _ in range(8)]
    server.train_through("classifier", {**plan, "name": "random"}, moments)
    assert_same_run(whole, whole.parent / "random")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_detector_killed_in_batches_validations_and_checkpoints(server, detector, workers):
    """The run that was not interrupted had no workers, so this also compares their numbers."""
    plan, whole = detector
    name = f"workers{workers}"
    moments = [
        {"event": "on_train_batch_start", "count": 2},
        {"event": "on_val_batch_end", "count": 1},
        {"write": 9},
        {"after_s": random.Random(workers).uniform(0.2, 1.5)},
        {"event": "optimizer_step", "count": 2},
        {"event": "on_model_save", "count": 1},
    ]
    kills = server.train_through("detector", {**plan, "name": name, "workers": workers}, moments)
    assert kills >= 4
    assert_same_run(whole, whole.parent / name)
