"""Only real changes make a stage run again, with the real DVC and the real flow in one workspace:
a comment, a real change of the exporter, a trainer of the user's own, an interrupted training.
"""

import json
import re
import sys

import pytest
from test_pipeline import TINY
from workspaces import copy_project, shell

from flows import overrides

pytestmark = pytest.mark.system

STAGES = ("prepare", "train", "validate", "export", "register")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """All stages done once, by `dvc repro`."""
    root = copy_project(tmp_path_factory.mktemp("changes") / "project").resolve()
    overrides.apply(
        root, {key: False if value == "false" else value for key, value in TINY.items()}
    )
    assert shell(root, "git", "init", "-q").returncode == 0
    assert repro(root) == list(STAGES)
    return root


def repro(root, *words):
    """The stages that a plain `dvc repro` runs, without `code`, which always does."""
    done = shell(root, sys.executable, "-m", "dvc", "repro", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"Running stage '(\w+)'", done.stdout)
    assert ran[0] == "code"
    return ran[1:]


def flow(root, prefect_server):
    """stage -> what became of it in `detectflow run`, and what was printed."""
    done = shell(root, sys.executable, "-m", "engine", "run", PREFECT_API_URL=prefect_server)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    status = {line[0]: line[1] for line in lines if line[0] in STAGES}
    assert list(status) == list(STAGES)
    return status, done.stdout + done.stderr


def edit(root, name, old, new):
    file = root / "engine" / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_a_comment_runs_nothing_under_either_driver(workspace, prefect_server):
    for name in ("datasets/reports/html_page.py", "models/yolov8/loss.py", "model_formats/onnx.py"):
        with (workspace / "engine" / name).open("a") as file:
            file.write("# a\n")
    lock = (workspace / "dvc.lock").read_bytes()
    assert repro(workspace) == []
    assert flow(workspace, prefect_server)[0] == dict.fromkeys(STAGES, "skipped")
    assert (workspace / "dvc.lock").read_bytes() == lock


def test_a_real_change_of_the_exporter_runs_it_and_what_follows(workspace, prefect_server):
    edit(workspace, "model_formats/onnx.py", '"opset": str(', '"made_again": "1", "opset": str(')
    status, reported = flow(workspace, prefect_server)
    before_it = dict.fromkeys(("prepare", "train", "validate"), "skipped")
    assert status == before_it | {"export": "ran", "register": "ran"}
    assert "code changed: engine.model_formats.onnx" in reported
    assert repro(workspace) == []  # the other driver knows
    edit(workspace, "model_formats/onnx.py", '"made_again": "1"', '"made_again": "2"')
    assert repro(workspace) == ["export", "register"]
    edit(workspace, "model_formats/onnx.py", '"made_again": "2"', '"made_again": "1"')
    assert repro(workspace) == []  # restored from the run cache


def test_status_names_nothing_but_the_stage_that_always_runs(workspace):
    done = shell(workspace, sys.executable, "-m", "dvc", "status")
    assert done.stdout.split() == ["code:", "always", "changed"]
    assert shell(workspace, sys.executable, "-m", "dvc", "status", "-q", *STAGES).returncode == 0


def test_a_stage_refuses_code_that_was_edited_since_it_was_recorded(workspace):
    edit(workspace, "model_formats/onnx.py", '"made_again": "1"', '"made_again": "3"')
    lock = (workspace / "dvc.lock").read_bytes()
    done = shell(workspace, sys.executable, "-m", "dvc", "repro", "-f", "-s", "export")
    assert done.returncode != 0
    assert "engine.model_formats.onnx" in done.stderr and "dvc repro export" in done.stderr
    assert (workspace / "dvc.lock").read_bytes() == lock


def test_a_training_interrupted_goes_on_after_a_comment_and_starts_anew_after_a_change(workspace):
    """The same process is ended after each epoch; what it says of the last one is asked."""
    code = """
import sys
from pathlib import Path
from engine.config import Params
from engine.stages import train

class Stop(BaseException): ...

def stop(trainer):
    raise Stop

root = Path.cwd()
params = Params.load(root / "params.yaml")
params = params.model_copy(update={"train": params.train.with_overrides({"epochs": 3})})
import logging; logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from engine.core.trainer import BaseTrainer
init = BaseTrainer.__init__
def started(self, *args, **kwargs):
    init(self, *args, **kwargs)
    self.add_callback("on_model_save", stop)
BaseTrainer.__init__ = started
try:
    train.run(params, root)
except Stop:
    print("stopped")
"""

    def train_an_epoch():
        done = shell(workspace, sys.executable, "-c", code, DETECTFLOW_TRACKING="off")
        assert "stopped" in done.stdout, done.stdout + done.stderr
        return done.stdout + done.stderr

    ckpt = workspace / "runs" / "ckpt"
    assert "resuming" not in train_an_epoch()
    (first,) = [folder.name for folder in ckpt.iterdir() if (folder / "inputs.json").is_file()]
    with (workspace / "engine" / "models" / "yolov8" / "loss.py").open("a") as file:
        file.write("# another\n")
    reported = train_an_epoch()
    assert "resuming after epoch 1" in reported and "starts anew" not in reported
    with (workspace / "engine" / "core" / "optim.py").open("a") as file:
        file.write("def what_is_new(): return 1\n")
    reported = train_an_epoch()
    assert (
        "resuming" not in reported and "engine.core.optim" in reported and "starts anew" in reported
    )
    assert f"project=runs/ckpt name={first} resume=true" in reported
    assert (ckpt / first / "weights" / "last.pt").is_file()
    assert json.loads((ckpt / first / "inputs.json").read_text())["code"]["modules"]
