"""Experiments of DVC with the real pipeline, small: in a copy of the workspace, queued two at once,
applied, as a branch; and the whole pipeline in another clone.

One sequence in one workspace, run in order. An experiment in the workspace itself is in
test_pipeline.py.
"""

import json
import time

import pytest
from test_pipeline import STAGES, TINY, all_of, commit
from workspaces import copy_project, shell

from engine.project.workspace_lock import workspace_lock
from flows import overrides

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Prepared and committed; nothing is trained."""
    root = copy_project(tmp_path_factory.mktemp("experiments") / "project").resolve()
    overrides.apply(
        root, {key: False if value == "false" else value for key, value in TINY.items()}
    )
    assert shell(root, "git", "init", "-q").returncode == 0
    dvc(root, "repro", "prepare")
    commit(root)
    return root


def dvc(root, *words):
    """What a dvc command prints; it must succeed."""
    done = shell(root, "dvc", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def experiments(root):
    """name -> the row of `dvc exp show`, as plain values."""
    (baseline,) = [
        row for row in json.loads(dvc(root, "exp", "show", "--json")) if row["rev"] != "workspace"
    ]
    return {each["name"]: each for each in baseline["experiments"] or ()}


def metrics(experiment, stage="train"):
    return experiment["revs"][0]["data"]["metrics"][f"reports/{stage}/metrics.json"]["data"]


def parameters(experiment):
    return experiment["revs"][0]["data"]["params"]["params.yaml"]["data"]


def mlflow_runs(root):
    """name of the experiment -> its MLflow run, from the workspace's own database."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "detectflow"]
    return {
        run.data.tags.get("dvc.experiment"): run
        for run in client.search_runs([experiment.experiment_id])
    }


def nothing_to_redo(root):
    """By `dvc repro`; and by the flow, whose answer is returned."""
    from flows.pipeline import pipeline

    reported = dvc(root, "repro").replace("Running stage 'code'", "")  # it always runs
    assert "Running stage" not in reported and reported.count("didn't change") == len(STAGES)
    return {row.stage: row.status for row in pipeline(str(root)).rows}


def test_one_in_a_copy_needs_no_free_workspace_leaves_it_alone_and_is_recorded_in_its_mlflow(
    workspace,
):
    before = {
        file: file.read_bytes() for file in (workspace / "params.yaml", workspace / "dvc.lock")
    }
    with workspace_lock(workspace, "somebody else", wait=False):
        dvc(workspace, "exp", "run", "--temp", "--name", "two-epochs", "-S", "train.epochs=2")
    assert {file: file.read_bytes() for file in before} == before and not (
        workspace / "weights"
    ).exists()
    assert shell(workspace, "git", "status", "--porcelain").stdout == ""

    (reported,) = experiments(workspace).values()
    assert (
        reported["name"] == "two-epochs"
        and metrics(reported)["epochs"] == 2
        and parameters(reported)["train"]["epochs"] == 2
    )
    runs = mlflow_runs(workspace)
    assert list(runs) == ["two-epochs"] and runs["two-epochs"].info.status == "FINISHED"
    assert runs["two-epochs"].data.tags["mlflow.runName"] == "digits yolov8n 64px, two-epochs"


def test_an_applied_one_leaves_nothing_to_redo(
    workspace, prefect_server, own_environment, monkeypatch
):
    monkeypatch.chdir(workspace)
    dvc(workspace, "exp", "apply", "two-epochs")
    assert "epochs: 2" in (workspace / "params.yaml").read_text()
    digest = json.loads((workspace / "weights" / "best.json").read_text())["sha256"]
    assert digest == mlflow_runs(workspace)["two-epochs"].data.tags["weights_sha256"]
    assert nothing_to_redo(workspace) == all_of("skipped")
    commit(workspace)


def test_queued_ones_run_two_at_once_and_a_mistake_in_one_is_reported_in_its_log(workspace):
    for name, setting in (
        ("loose", "+validate.conf=0.002"),
        ("strict", "+validate.conf=0.5"),
        ("wrong", "+validate.cnf=0.5"),
    ):
        dvc(workspace, "exp", "run", "--queue", "--name", name, "-S", setting)
    try:
        deadline = time.monotonic() + 400
        while any(
            word in (reported := dvc(workspace, "queue", "status"))
            for word in ("Queued", "Running")
        ):
            assert time.monotonic() < deadline, reported
            if (
                "Queued" in reported and "0 active, 0 idle" in reported
            ):  # at first; and where DVC's workers ended a moment too soon
                dvc(workspace, "queue", "start", "--jobs", "2")
            time.sleep(1)
    finally:
        dvc(workspace, "queue", "stop", "--kill")
    rows = [row.split() for row in reported.splitlines()]
    assert {row[-1] for row in rows if "loose" in row or "strict" in row} == {"Success"}, reported
    assert [row[-1] for row in rows if "wrong" in row] == ["Failed"], reported
    log = dvc(workspace, "queue", "logs", "wrong")
    assert "unknown key 'validate.cnf'. Did you mean 'conf'?" in log and "Traceback" not in log

    found = experiments(workspace)
    assert {parameters(found[name])["validate"]["conf"] for name in ("loose", "strict")} == {
        0.002,
        0.5,
    }
    assert all(metrics(found[name])["epochs"] == 2 for name in ("loose", "strict")), (
        "the training is not done again"
    )
    assert list(mlflow_runs(workspace)) == ["two-epochs"], "the same weights are the same run"


def test_a_branch_made_of_one_has_its_results_and_nothing_to_redo(
    workspace, prefect_server, own_environment, monkeypatch
):
    monkeypatch.chdir(workspace)
    dvc(workspace, "exp", "branch", "strict", "tried-strict")
    assert shell(workspace, "git", "checkout", "-q", "tried-strict").returncode == 0
    dvc(workspace, "checkout", "-q")
    assert "conf: 0.5" in (workspace / "params.yaml").read_text()
    assert nothing_to_redo(workspace) == all_of("skipped")


def test_pushed_and_pulled_another_clone_has_nothing_to_redo(
    workspace, prefect_server, own_environment, monkeypatch, tmp_path
):
    """All five stages, by both drivers, under one registry; with a registry of its own a clone
    would register, no more.
    """
    dvc(workspace, "remote", "add", "-q", "--default", "store", str(tmp_path / "store"))
    commit(workspace)
    dvc(workspace, "push", "-q")
    clone = tmp_path / "clone"
    assert shell(tmp_path, "git", "clone", "-q", str(workspace), str(clone)).returncode == 0
    dvc(clone, "pull", "-q")
    monkeypatch.chdir(clone)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workspace / 'mlflow.db'}")
    assert nothing_to_redo(clone) == all_of("skipped")
    assert (clone / "export" / "best.onnx").read_bytes() == (
        workspace / "export" / "best.onnx"
    ).read_bytes()
