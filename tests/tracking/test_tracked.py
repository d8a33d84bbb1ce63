"""One MLflow run describes one trained model, whatever happens to the training or to the tracker."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toys

from engine.core.results import read_results
from engine.data.manifest import class_hash
from engine.project.environment import prepare_environment
from engine.tracking.journal import journal_home, left_behind
from engine.tracking.mlflow_client import open_store
from engine.tracking.sender import send_left_behind, sender_of

FIGURES = ("train/box_loss", "val/box_loss", "metrics/mAP50-95")


def the_run(store):
    runs = all_runs(store)
    assert len(runs) == 1, [run.data.tags for run in runs]
    return runs[0]


def all_runs(store):
    return store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])


def history(store, run, name):
    return sorted((m.step, m.value) for m in store.client.get_metric_history(run.info.run_id, name))


def artifacts(store, run, folder):
    return {Path(each.path).name for each in store.client.list_artifacts(run.info.run_id, folder)}


def assert_every_epoch_once(store, run, root):
    rows = read_results(root / "reports" / "train" / "results.csv")
    for name in FIGURES:
        found = history(store, run, name)
        assert [step for step, _ in found] == [row["epoch"] for row in rows], name
        assert [value for _, value in found] == pytest.approx(
            [row[name] for row in rows], rel=1e-4
        ), name


def interrupt(error, at_epoch):
    def stop(trainer):
        if trainer.epoch == at_epoch:
            raise error

    return stop


def test_a_training_its_validation_and_its_export_are_one_run(workspace, store):
    summary = toys.train(workspace, epochs=3)
    toys.validate(workspace, value=0.625)
    toys.export(workspace)
    run = the_run(store)
    assert run.info.status == "FINISHED" and run.info.run_name == "squares yolov8n 160px"
    assert_every_epoch_once(store, run, workspace)
    metrics = run.data.metrics
    assert metrics["test/mAP50-95"] == 0.625 and metrics[
        "verify export/onnx_max_abs_diff"
    ] == pytest.approx(1e-6)
    assert (
        metrics["val best/mAP50-95"] == summary["metrics/mAP50-95"]
        and metrics["val best/epoch"] == summary["best_epoch"]
    )
    assert (
        run.data.params["train.epochs"] == "3" and run.data.params["register.model"] == "detector"
    )
    assert run.data.params["train.optimizer"] == "AdamW"  # what `auto` came to
    assert not any(str(workspace) in value for value in run.data.params.values())
    tags = run.data.tags
    assert (
        tags["weights_sha256"] == summary["weights_sha256"]
        and tags["class_hash"] == class_hash(toys.NAMES)
        and "torch" in tags["versions"]
    )
    assert "0.625" in tags["mlflow.note.content"]
    datasets = {each.dataset.name: each for each in run.inputs.dataset_inputs}
    assert set(datasets) == {"squares train", "squares val", "squares test"}
    assert tags["data_digest"].startswith(datasets["squares test"].dataset.digest)
    assert artifacts(store, run, "train") == {
        "metrics.json",
        "origin.json",
        "results.csv",
        "results.png",
    }
    assert "PR_curve.png" in artifacts(store, run, "validate")
    assert artifacts(store, run, "export") == {"export.json"}
    assert left_behind(journal_home(workspace)) == []
    reported = "".join(p.read_text() for p in (workspace / "reports").rglob("*.json"))
    assert run.info.run_id not in reported  # equal results must have equal hashes


def test_stages_that_run_again_on_the_same_weights_add_points_only_for_what_has_changed(
    workspace, store
):
    toys.train(workspace, epochs=2)
    for value, marker in ((0.5, "a"), (0.5, "b"), (0.6, "c"), (0.6, "d")):
        toys.validate(workspace, value)
        toys.export(workspace, marker=marker)
    sender_of(workspace).drain()
    run = the_run(store)
    assert history(store, run, "test/mAP50-95") == [(0, 0.5), (1, 0.6)]
    assert run.data.metrics["test/mAP50-95"] == 0.6
    for name in run.data.metrics:
        steps = [step for step, _ in history(store, run, name)]
        assert len(set(steps)) == len(steps), name
    for name in ("wall time/validate_s", "wall time/export_s"):
        assert len(history(store, run, name)) == 1, name


def test_prepare_records_nothing(workspace, store):
    from engine.tracking.stage_runs import tracked

    with tracked("prepare", toys.params_of(workspace), workspace) as run:
        assert run.callbacks == []
        run.finish({"name": "squares"})
    assert all_runs(store) == []


def test_ctrl_c_then_resume_is_one_run_with_every_epoch_once(workspace, store):
    with pytest.raises(KeyboardInterrupt):
        toys.train(workspace, epochs=4, on_fit_epoch_end=interrupt(KeyboardInterrupt(), 1))
    run = the_run(store)
    assert run.info.status == "KILLED" and run.data.tags["ended"] == "interrupted"
    toys.train(workspace, epochs=4, resume=True)
    run = the_run(store)
    assert run.info.status == "FINISHED" and "ended" not in run.data.tags
    assert_every_epoch_once(store, run, workspace)


def test_a_training_that_is_cancelled_is_killed_not_failed(workspace, store):
    class TerminationSignal(BaseException):  # as Prefect's, which no `except Exception` catches
        pass

    with pytest.raises(TerminationSignal):
        toys.train(workspace, epochs=4, on_fit_epoch_end=interrupt(TerminationSignal(), 1))
    run = the_run(store)
    assert (
        run.info.status == "KILLED" and run.data.tags["ended"] == "interrupted: TerminationSignal"
    )


def test_an_error_marks_the_run_as_failed_with_its_reason(workspace, store):
    with pytest.raises(ValueError):
        toys.train(workspace, on_train_epoch_end=interrupt(ValueError("the camera fell over"), 1))
    run = the_run(store)
    assert run.info.status == "FAILED" and "the camera fell over" in run.data.tags["ended"]


@pytest.mark.system
def test_kill_9_then_resume_by_another_process_is_one_run_with_every_epoch_once(workspace, store):
    code = (
        "import os, sys, pathlib; sys.path.insert(0, sys.argv[1]); import toys; root = "
        "pathlib.Path(sys.argv[2])\n"
        "from engine.project.environment import prepare_environment; prepare_environment(root)\n"
        "toys.train(root, epochs=4, on_fit_epoch_end=lambda t: os.kill(os.getpid(), 9) if t.epoch "
        "== 2 else None)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(workspace)]
    assert subprocess.run(command, cwd=toys.ROOT).returncode == -signal.SIGKILL
    assert len(left_behind(journal_home(workspace))) == 1
    toys.train(workspace, epochs=4, resume=True)
    run = the_run(store)
    assert run.info.status == "FINISHED"
    assert_every_epoch_once(store, run, workspace)
    assert left_behind(journal_home(workspace)) == []


def test_a_run_whose_process_died_is_marked_when_the_next_training_starts(workspace, store):
    # The journal of the dead one is gone too, as after `make clean`: only the tracker still takes
    # it for running.
    experiment = store.experiment("detectflow")
    from engine.tracking.mlflow_recorder import KEY, WORKSPACE
    from engine.tracking.run_metadata import workspace_id

    dead = store.client.create_run(
        experiment, tags={KEY: "gone", WORKSPACE: workspace_id(workspace)}
    )
    other = store.client.create_run(experiment, tags={KEY: "elsewhere", WORKSPACE: "another"})
    toys.train(workspace, epochs=1)
    assert store.client.get_run(dead.info.run_id).info.status == "KILLED"
    assert store.client.get_run(other.info.run_id).info.status == "RUNNING"


def test_weights_that_no_run_made_get_one_that_says_so(workspace, store, fresh_database):
    toys.train(workspace, epochs=3)
    shutil.copy(fresh_database, workspace / "mlflow.db")  # another tracker
    shutil.rmtree(workspace / "mlartifacts")
    toys.validate(workspace, value=0.25)
    toys.export(workspace)
    run = the_run(open_store(workspace))
    assert run.info.status == "FINISHED" and "restored" in run.data.tags["mlflow.note.content"]
    assert_every_epoch_once(store, run, workspace)
    assert run.data.metrics["test/mAP50-95"] == 0.25 and run.data.params["train.epochs"] == "30"
    assert "results.png" in artifacts(store, run, "train")


def test_a_database_deleted_under_a_living_process_is_made_again(workspace, store):
    toys.train(workspace, epochs=2)
    (workspace / "mlflow.db").unlink()
    toys.validate(workspace, value=0.25)
    run = the_run(open_store(workspace))
    assert_every_epoch_once(store, run, workspace)


def test_a_run_that_the_tracker_forgets_in_the_middle_is_reported_from_the_beginning(
    workspace, store, fresh_database
):
    def forget(trainer):
        if trainer.epoch == 1:
            sender_of(workspace).wait(timeout_s=1)
            shutil.copy(fresh_database, workspace / "mlflow.db")

    toys.train(workspace, epochs=3, on_fit_epoch_end=forget)
    run = the_run(store)
    assert run.info.status == "FINISHED" and run.data.params["train.epochs"] == "3"
    assert_every_epoch_once(store, run, workspace)


def test_a_stage_that_fails_after_training_leaves_the_run_finished(workspace, store):
    toys.train(workspace, epochs=1)
    from engine.tracking.stage_runs import tracked

    with pytest.raises(RuntimeError):
        with tracked("validate", toys.params_of(workspace), workspace):
            raise RuntimeError("no such image")
    run = the_run(store)
    assert run.info.status == "FINISHED" and "no such image" in run.data.tags["stage.validate"]


def test_tracking_that_cannot_work_does_not_stop_a_stage(workspace, store, caplog):
    (workspace / "runs").mkdir()
    (workspace / "runs" / "journal").write_text("a file where a folder should be")
    summary = toys.train(workspace, epochs=1)
    assert summary["epochs"] == 1
    assert "without tracking" in caplog.text or "tracking callback failed" in caplog.text


def test_a_database_that_is_none_holds_nobody_up(workspace, caplog):
    (workspace / "mlflow.db").write_bytes(b"not a database " * 500)
    started = time.monotonic()
    summary = toys.train(workspace, epochs=1)
    assert summary["epochs"] == 1 and time.monotonic() - started < 15
    assert "waits in" in caplog.text and len(left_behind(journal_home(workspace))) == 1


@pytest.mark.system
def test_a_server_that_never_answers_costs_seconds(workspace, monkeypatch, caplog):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        toys.train(workspace, epochs=2)
        toys.validate(workspace)
        assert (
            time.monotonic() - started < 15
        )  # 5 s until the first call gives up, then 3 s a stage
    assert (
        len(left_behind(journal_home(workspace))) == 2
        and "goes out with the next stage" in caplog.text
    )


@pytest.mark.system
def test_nothing_is_lost_when_the_server_dies_and_comes_back(workspace, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    longest = 0.0

    def outage(trainer):
        nonlocal longest
        if trainer.epoch == 1:
            sender_of(workspace).wait(timeout_s=1)
            server.kill()
        if trainer.epoch == 4:
            server.start()

    started = time.monotonic()
    toys.train(workspace, epochs=6, on_fit_epoch_end=outage)
    server.kill()
    started = time.monotonic()
    toys.validate(workspace, value=0.75)
    assert time.monotonic() - started < 8  # a dead server costs one try
    assert len(left_behind(journal_home(workspace))) >= 1
    server.start()
    toys.export(workspace)
    assert send_left_behind(workspace) == 0
    found = open_store(workspace)
    run = the_run(found)
    assert run.info.status == "FINISHED"
    assert_every_epoch_once(found, run, workspace)
    assert run.data.metrics["test/mAP50-95"] == 0.75 and "onnx_sha256" in run.data.tags
    assert {"results.png", "results.csv"} <= artifacts(found, run, "train")
    assert not os.path.exists(workspace / "mlartifacts")  # the server keeps the files


@pytest.mark.system
def test_processes_that_open_a_fresh_database_at_once_do_not_break_it(tmp_path, clean_environment):
    root = prepare_environment(toys.make_workspace(tmp_path / "project"))
    code = (
        "import sys, pathlib; from engine.tracking.mlflow_client import open_store; "
        "open_store(pathlib.Path(sys.argv[1]))"
    )
    commands = [[sys.executable, "-c", code, str(root)]] * 2
    started = [
        subprocess.Popen(
            c, cwd=toys.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for c in commands
    ]
    assert [(p.communicate()[0], p.returncode) for p in started] == [("", 0)] * 2
