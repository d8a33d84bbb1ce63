"""The real pipeline, small: a handful of digits, 64 px, one epoch; real Prefect, DVC and MLflow in
a copy of the project.

The tests of this file share one workspace and run in their order, each from where the one before
has left it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from workspaces import clean_environment, copy_project, shell

from engine.errors import ConfigError, EngineError

TINY = {
    "data.options.train": 8,
    "data.options.val": 4,
    "data.options.test": 4,
    "data.options.size": 64,
    "data.options.max_px": 32,
    "train.imgsz": 64,
    "train.epochs": 1,
    "train.plots": "false",
    "validate.plots": "false",
}
STAGES = ("prepare", "train", "validate", "export", "register")

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = copy_project(tmp_path_factory.mktemp("real") / "project").resolve()
    assert shell(root, "git", "init", "-q").returncode == 0
    commit(root)
    return root


def commit(root):
    for words in (["add", "-A"], ["commit", "-qm", "state"]):
        assert shell(root, "git", *words).returncode == 0


@pytest.fixture
def run(workspace, prefect_server, own_environment, monkeypatch):
    """The flow in this process: (overrides) -> stage -> what became of it."""
    from flows.pipeline import pipeline

    monkeypatch.chdir(workspace)
    return lambda overrides=None: {
        row.stage: row.status for row in pipeline(str(workspace), overrides or {}).rows
    }


def all_of(how):
    return dict.fromkeys(STAGES, how)


def running(done):
    """The stages that a command of DVC ran, but for `code`, which always runs."""
    stages = re.findall(r"Running stage '(\w+)'", done.stdout)
    return [stage for stage in stages if stage != "code"]


def registration(workspace):
    return json.loads((workspace / "reports" / "registration.json").read_text())


def test_a_first_run_makes_everything_and_says_so(workspace):
    words = [word for key, value in TINY.items() for word in ("-S", f"{key}={value}")]
    nobody = {"PREFECT_SERVER_API_PORT": "1"}  # so it brings a temporary server of its own
    done = shell(workspace, sys.executable, "-m", "engine", "run", *words, **nobody)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert {line[0]: line[1] for line in lines if line[0] in STAGES} == all_of("ran")
    for reported in (
        "mAP50-95",
        "digits version 1 (challenger)",
        "weights/best.pt",
        "export/best.onnx",
        "make ui",
    ):
        assert reported in done.stdout
    assert done.stderr.count("epoch 1/1") == 1  # a line of the engine is on the console once
    assert "View at" not in done.stderr and "Traceback" not in done.stderr
    # One epoch on eight images finds nothing, and a model that finds nothing is no champion.
    assert (
        registration(workspace)["version"] == 1
        and registration(workspace)["decision"] == "challenger"
    )
    report = registration(workspace)
    assert report["verdict"] in {"HOLD", "REJECT"}
    assert f"{report['verdict']}: {report['reason']}" in done.stdout
    assert all(each in done.stdout for each in report["advice"])
    assert not (workspace / "runs" / "ckpt").exists() or not any(
        (workspace / "runs" / "ckpt").iterdir()
    )


def test_a_second_run_skips_everything_and_dvc_agrees(run, workspace):
    assert run() == all_of("skipped")
    repro = shell(workspace, "dvc", "repro")
    assert repro.returncode == 0, repro.stderr
    assert running(repro) == [] and repro.stdout.count("didn't change") == 5


def test_a_changed_parameter_runs_only_what_comes_after(run, workspace):
    assert run({"validate.split": "val"}) == {
        **all_of("skipped"),
        "validate": "ran",
        "register": "ran",
    }
    assert registration(workspace)["version"] == 1  # the same weights are the same version


def test_a_lost_registry_is_filled_again(run, workspace):
    for file in workspace.glob("mlflow.db*"):
        file.unlink()
    assert run() == {**all_of("skipped"), "register": "ran"}


def test_dvc_shows_metrics_parameters_and_plots_without_a_network(workspace):
    metrics = shell(workspace, "dvc", "metrics", "show", "--json")
    shown = json.loads(metrics.stdout)[""]["data"]
    assert "metrics/mAP50-95" in shown["reports/validate/metrics.json"]["data"]
    # Only numbers: a digest or a name would make the table too wide to read.
    assert all(
        value is None or isinstance(value, (int, float))
        for file in shown.values()
        for value in file["data"].values()
    )
    assert "train.imgsz" in shell(workspace, "dvc", "params", "diff").stdout
    assert shell(workspace, "dvc", "metrics", "diff").returncode == 0
    assert "register" in shell(workspace, "dvc", "dag").stdout

    plots = shell(workspace, "dvc", "plots", "show")
    page = (workspace / "dvc_plots" / "index.html").read_text()
    assert plots.returncode == 0 and page.count("vegaEmbed('#") == 3 + 4  # losses, metrics
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)


def test_an_experiment_runs_only_what_its_parameter_changes(workspace):
    commit(workspace)
    done = shell(workspace, "dvc", "exp", "run", "-S", "register.model=other")
    assert done.returncode == 0, done.stderr
    assert running(done) == ["register"]
    assert registration(workspace)["model"] == "other"
    assert shell(workspace, "git", "checkout", "-q", ".").returncode == 0
    assert shell(workspace, "dvc", "checkout", "-q").returncode == 0


def test_a_wrong_override_and_a_broken_dataset_change_nothing(run, workspace):
    before = (workspace / "params.yaml").read_text(), (workspace / "dvc.lock").read_text()
    with pytest.raises(ConfigError, match=r"Did you mean 'epochs'\?"):
        run({"train.epochs": 2, "train.epocs": 3})
    description = workspace / "data" / "digits.yaml"
    good = description.read_text()
    description.write_text("name: digits\nformat: voice\n")
    with pytest.raises(EngineError, match="digits.yaml"):
        run()
    assert ((workspace / "params.yaml").read_text(), (workspace / "dvc.lock").read_text()) == before
    assert (workspace / "data" / "prepared" / "dataset.json").is_file()
    description.write_text(good)
    assert run() == all_of("skipped")


def test_a_start_in_the_stages_own_output_goes_with_the_flow_and_is_refused_by_repro_without_loss(
    run, workspace
):
    before = (workspace / "params.yaml").read_text()
    weights = (workspace / "weights" / "best.pt").read_bytes()
    (workspace / "params.yaml").write_text(
        before.replace("model: yolov8n ", "model: weights/best.pt ")
    )
    repro = shell(workspace, "dvc", "repro")
    assert repro.returncode != 0 and "lies in weights, which stage train makes anew" in repro.stderr
    assert (
        "`dvc checkout weights` brings it back" in repro.stderr and "Traceback" not in repro.stderr
    )
    assert shell(workspace, "dvc", "checkout", "-q", "weights").returncode == 0
    assert (workspace / "weights" / "best.pt").read_bytes() == weights

    assert run() == {**all_of("ran"), "prepare": "skipped"}
    copy = next((workspace / "models").glob("best-*.pt"))
    assert (
        copy.read_bytes() == weights
        and f"model: models/{copy.name} " in (workspace / "params.yaml").read_text()
    )
    after = shell(workspace, "dvc", "repro")
    assert after.returncode == 0 and running(after) == []
    assert run({"train.model": "yolov8n"}) == {
        **all_of("restored"),
        "prepare": "skipped",
        "register": "ran",
    }


def test_an_interrupted_training_goes_on_under_the_other_driver(
    workspace, prefect_server, tmp_path
):
    env = {"PREFECT_API_URL": prefect_server}
    first = Driver(
        workspace,
        tmp_path / "first",
        [sys.executable, "-m", "engine", "run", "-S", "train.epochs=500"],
        env,
    )
    first.wait_for("epoch 3/500")
    assert first.interrupt() == 130
    assert "goes on from there" in first.text and "Traceback" not in first.text
    assert (
        workspace / "weights" / "best.pt"
    ).is_file()  # the old result stays until there is a new one

    second = Driver(workspace, tmp_path / "second", [sys.executable, "-m", "dvc", "repro"], env)
    second.wait_for("resuming after epoch")
    second.interrupt()
    assert (
        "resuming after epoch 3 of 500" in second.text
        or "resuming after epoch 4 of 500" in second.text
    )


def hear_interrupts():
    """A shell lets what it starts in the background ignore Ctrl-C, and these tests may have been
    started so.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Driver:
    """A command in its own process group, as a terminal starts it."""

    def __init__(self, root, log, command, env):
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command,
                cwd=root,
                env={**clean_environment(), **env},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=hear_interrupts,
            )

    @property
    def text(self):
        return self.log.read_text()

    def wait_for(self, text, within_s=120):
        deadline = time.monotonic() + within_s
        while text not in self.text:
            assert self.process.poll() is None and time.monotonic() < deadline, self.text
            time.sleep(0.1)

    def interrupt(self):
        """Ctrl-C: every process of the group gets it."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)
