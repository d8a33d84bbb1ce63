"""`detectflow diff A B notify=true`: the Prefect server hears of a changed dataset, and only of a
changed one.
"""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import warm_processes
from test_deployments import Api, wait_until
from workspaces import clean_environment, copy_project

pytestmark = pytest.mark.system


def make_dataset(folder, last_class):
    """Ten YOLO images with one box each."""
    random = np.random.default_rng(0)
    for i in range(10):
        image = folder / "images" / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), random.integers(0, 255, (32, 32, 3), np.uint8))
        label = folder / "labels" / f"{i}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text(f"{last_class if i == 9 else 0} 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text("names: [cat, dog]\ntrain: images\n")


def diff(root, api, *words):
    command = [sys.executable, "-m", "engine", "diff", *words]
    env = {
        **clean_environment(),
        "PREFECT_API_URL": api.url,
        "PREFECT_HOME": str(root / ".prefect"),
    }
    return warm_processes.run(
        command, cwd=root, env=env, capture_output=True, text=True, timeout=120
    )


def test_the_server_gets_an_event_for_a_difference_and_for_nothing_else(tmp_path, prefect_server):
    root, api = copy_project(tmp_path / "project"), Api(prefect_server)
    make_dataset(tmp_path / "a", last_class=0)
    make_dataset(tmp_path / "b", last_class=1)

    same = diff(root, api, str(tmp_path / "a"), str(tmp_path / "a"), "notify=true")
    assert same.returncode == 0 and "sent to the Prefect server" not in same.stdout, same.stderr
    changed = diff(root, api, str(tmp_path / "a"), str(tmp_path / "b"), "notify=true")
    assert changed.returncode == 0 and "sent to the Prefect server" in changed.stdout, (
        changed.stderr
    )

    def heard():
        found = api(
            "/events/filter",
            {"filter": {"event": {"name": ["detectflow.dataset.changed"]}}, "limit": 10},
        )["events"]
        return [
            e["payload"]
            for e in found
            if e["resource"]["prefect.resource.id"] == f"detectflow.dataset.{tmp_path / 'b'}"
        ]

    wait_until(heard)
    values = json.loads((root / "runs" / "diff" / "diff.json").read_text())
    assert heard() == [{"digest": values["after"]["digest"], "before": values["before"]["digest"]}]


def test_without_a_server_it_says_so_before_the_work(tmp_path):
    root = copy_project(tmp_path / "project")
    env = {**clean_environment(), "PREFECT_HOME": str(root / ".prefect")}
    command = [sys.executable, "-m", "engine", "diff", "nothing-there", "neither", "notify=true"]
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=120)
    assert (
        done.returncode == 1
        and "need a Prefect server" in done.stderr
        and "Traceback" not in done.stderr
    )
