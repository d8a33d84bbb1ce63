"""The flow with small stand-ins for the stages: what is skipped, forced, shown and said. Prefect
and DVC are real.
"""

import json
import logging
import shutil
import subprocess
import sys
import time

import pytest
from detectors import random_detector, save_detector

from engine.config import Params
from engine.errors import ConfigError, DataError, WorkspaceError
from engine.files import sha256_file
from engine.project.workspace_lock import holder
from engine.stages.layout import STAGES, Layout
from engine.stages.start_weights import start_digests

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("prefect_server")]


class Stages:
    """Stand-ins that write what the stages of dvc.yaml write."""

    def __init__(self):
        self.ran: list[str] = []
        self.fail: dict[str, BaseException] = {}

    def __call__(self, name, root, *, progress=None):
        self.ran.append(name)
        logging.getLogger("detectflow").info("line of %s", name)
        if name in self.fail:
            raise self.fail[name]
        for done in (1, 2):
            progress({"stage": name, "done": done, "total": 2, "metrics": {"metrics/mAP50": 0.5}})
        layout = Layout(root)
        text = (root / "params.yaml").read_text()
        if name == "prepare":
            (layout.prepared).mkdir(parents=True, exist_ok=True)
            (layout.prepared / "dataset.json").write_text(text.split("train:")[0])
        if name == "train":
            layout.weights.mkdir(exist_ok=True)
            epochs = next(line for line in text.splitlines() if "epochs:" in line)
            start = start_digests(Params.load(root / "params.yaml").train, root)
            layout.best.unlink(missing_ok=True)
            layout.best.write_text(f"{epochs} {start}")
            origin = layout.origin("train")
            origin.parent.mkdir(parents=True, exist_ok=True)
            origin.unlink(missing_ok=True)
            origin.write_text(json.dumps({"start": start}))
        if name == "export":
            layout.export.mkdir(exist_ok=True)
            (layout.export / "best.onnx").unlink(missing_ok=True)
            (layout.export / "best.onnx").write_text(layout.best.read_text())
        if name == "register":
            layout.reports.mkdir(exist_ok=True)
            for output in ("decision.json", "index.html", "model_card.md"):
                (layout.reports / output).unlink(missing_ok=True)
                (layout.reports / output).write_text("{}")
            layout.compare.mkdir(exist_ok=True)
            (layout.compare / "errors.json").unlink(missing_ok=True)
            (layout.compare / "errors.json").write_text("{}")
        path = layout.summary(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(SUMMARIES[name]))
        if name == "validate":
            path.with_name("thresholds.json").unlink(missing_ok=True)
            path.with_name("thresholds.json").write_text("null")
        return SUMMARIES[name]


SUMMARIES = {
    "prepare": {"images": 3},
    "train": {"metrics/mAP50": 0.5},
    "validate": {"split": "test", "metrics/mAP50": 0.875, "metrics/mAP50-95": 0.5},
    "export": {"files": {"onnx": {"file": "export/best.onnx"}}},
    "register": {
        "model": "detector",
        "version": "3",
        "aliases": ["challenger"],
        "decision": "challenger",
        "verdict": "HOLD",
        "reason": "better: not proven better",
        "advice": ["detectflow promote detector/3"],
    },
}


def in_place_of_stages(monkeypatch, function):
    """`function` where the flow would run a stage; prepare has a module of its own."""
    from flows import pipeline, prepare

    for module in (pipeline, prepare):
        monkeypatch.setattr(module, "run_stage", function)


@pytest.fixture
def stages(monkeypatch):
    from flows import pipeline

    stand_ins = Stages()
    in_place_of_stages(monkeypatch, stand_ins)
    monkeypatch.setattr(pipeline, "source_changed", lambda params, root: False)
    monkeypatch.setattr(pipeline, "registered", lambda root, params: True)
    return stand_ins


@pytest.fixture
def run(project, stages):
    from flows.pipeline import pipeline

    return lambda overrides=None, **options: pipeline(str(project), overrides or {}, **options)


def hows(summary):
    return [row.status for row in summary.rows]


def test_what_is_up_to_date_is_skipped(run, stages):
    from flows.pipeline import finished

    assert hows(run()) == ["ran"] * 5
    assert stages.ran == list(STAGES)
    summary = run()
    assert finished == [summary], "the run before is no result of this one"
    assert hows(summary) == ["skipped"] * 5
    assert stages.ran == list(STAGES)
    assert summary.metrics == {"mAP50": 0.875, "mAP50-95": 0.5} and summary.split == "test"
    assert summary.model == "detector version 3", "the registry knows of no alias"
    assert summary.files == ("weights/best.pt", "export/best.onnx")


def test_an_override_runs_only_what_depends_on_it_and_stays_in_params_yaml(run, project):
    before = (project / "params.yaml").read_text()
    run()
    assert hows(run({"train.epochs": 7})) == ["skipped", "ran", "ran", "ran", "ran"]
    assert (project / "params.yaml").read_text() == before.replace("epochs: 30 ", "epochs: 7  ")
    assert hows(run({"register.model": "other"})) == ["skipped"] * 4 + ["ran"]


def test_a_wrong_override_changes_nothing(run, stages, project):
    before = (project / "params.yaml").read_text()
    with pytest.raises(ConfigError, match=r"Did you mean 'epochs'"):
        run({"train.batch": 8, "train.epocs": 7})
    assert (project / "params.yaml").read_text() == before and stages.ran == []


def test_an_earlier_result_comes_back_and_is_registered_again(run, stages):
    run()
    run({"train.epochs": 7})
    stages.ran.clear()
    assert hows(run({"train.epochs": 30})) == ["skipped", "restored", "restored", "restored", "ran"]
    assert stages.ran == ["register"]


def test_force_runs_everything(run):
    run()
    assert hows(run(force=True)) == ["ran"] * 5


def test_what_changed_outside_the_project_runs_again(run, stages, monkeypatch):
    from flows import pipeline

    run()
    monkeypatch.setattr(pipeline, "source_changed", lambda params, root: True)
    assert hows(run()) == [
        "ran",
        "skipped",
        "skipped",
        "skipped",
        "skipped",
    ]  # it prepared the same images
    monkeypatch.setattr(pipeline, "source_changed", lambda params, root: False)
    monkeypatch.setattr(pipeline, "registered", lambda root, params: False)
    assert hows(run()) == ["skipped", "skipped", "skipped", "skipped", "ran"]


@pytest.fixture
def texts_are_weights(monkeypatch):
    """Weights of the stages here are texts, and no check before the run reads the network in
    them.
    """
    monkeypatch.setattr("flows.overrides.check_params", lambda *_: None)


def test_going_on_from_the_last_weights_trains_from_a_copy_that_params_yaml_names(
    run, stages, project, texts_are_weights
):
    run()
    first = sha256_file(project / "weights" / "best.pt")
    copy = f"models/best-{first[:8]}.pt"
    assert hows(run({"train.model": "weights/best.pt"})) == ["skipped", "ran", "ran", "ran", "ran"]
    assert sha256_file(project / copy) == first and (project / f"{copy}.dvc").is_file()
    assert Params.load(project / "params.yaml").train.model == copy
    assert hows(run()) == ["skipped"] * 5  # the same parameters are the same start
    second = sha256_file(project / "weights" / "best.pt")
    assert second != first
    assert (
        hows(run({"train.model": "weights/best.pt"}))[1] == "ran"
    )  # asked again: go on from the new ones
    assert Params.load(project / "params.yaml").train.model == f"models/best-{second[:8]}.pt"
    assert (
        hows(run({"train.model": copy}))[1] == "restored"
        and hows(run({"train.model": "yolov8n"}))[1] == "restored"
    )


def test_there_must_be_last_weights_to_go_on_from(run, stages, project):
    before = (project / "params.yaml").read_text()
    with pytest.raises(ConfigError, match=r"weights/best.pt: no such file.*dvc checkout weights"):
        run({"train.model": "weights/best.pt"})
    assert stages.ran == [] and (project / "params.yaml").read_text() == before


@pytest.mark.parametrize("place", ["models/start/mine.pt", "../elsewhere.pt"])
def test_other_bytes_in_the_start_file_train_again_and_the_first_ones_are_no_excuse(
    run, project, place, random_weights, tmp_path
):
    one, two = random_weights, save_detector(tmp_path / "two.pt", random_detector(seed=1))
    file = project / place
    shutil.copy(one, file)
    assert hows(run({"train.model": place})) == ["ran"] * 5
    assert hows(run()) == ["skipped"] * 5
    shutil.copy(two, file)
    assert hows(run())[1] == "ran"
    with_two = (project / "weights" / "best.pt").read_text()
    run({"train.epochs": 7})
    shutil.copy(one, file)
    assert hows(run({"train.epochs": 30}))[1] in {"ran", "restored"}
    assert (project / "weights" / "best.pt").read_text() != with_two
    assert sha256_file(file) in (project / "weights" / "best.pt").read_text()


def test_a_mistake_is_reported_once_without_traceback_and_the_next_run_goes_on(run, stages, caplog):
    stages.fail["train"] = DataError("a.jpg cannot be read")
    with pytest.raises(DataError, match="a.jpg"):
        run()
    reported = [record for record in caplog.records if "a.jpg" in record.getMessage()]
    assert len(reported) == 1 and reported[0].exc_info is None
    assert reported[0].getMessage() == "DataError: a.jpg cannot be read"
    stages.fail.clear()
    assert hows(run()) == ["skipped", "ran", "ran", "ran", "ran"]


def test_a_bug_keeps_its_traceback(run, stages, caplog):
    stages.fail["validate"] = ZeroDivisionError("division by zero")
    with pytest.raises(ZeroDivisionError):
        run()
    assert any(record.exc_info for record in caplog.records)


def test_an_interrupt_passes_through_and_frees_the_workspace(run, stages, project):
    stages.fail["train"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run()
    assert holder(project) is None
    stages.fail.clear()
    assert hows(run()) == ["skipped", "ran", "ran", "ran", "ran"]


def test_the_whole_flow_holds_the_workspace(run, stages, project, monkeypatch):
    seen = []
    original = stages.__call__

    def look(name, root, *, progress=None):
        seen.append(holder(project).command)
        return original(name, root, progress=progress)

    in_place_of_stages(monkeypatch, look)
    run()
    assert seen == ["detectflow run"] * 5 and holder(project) is None


def test_a_held_workspace_is_refused_naming_its_holder_or_waited_for(run, stages, project):
    hold = (
        "import pathlib, sys, time; from engine.project.workspace_lock import workspace_lock\n"
        "with workspace_lock(pathlib.Path(sys.argv[1]), 'the other one'):\n"
        "    print('held', flush=True); time.sleep(float(sys.argv[2]))"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(project), "1.5"], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline().strip() == "held"
    with pytest.raises(WorkspaceError, match=rf"process {other.pid} \(the other one\)"):
        run(wait=False)
    assert stages.ran == [] and not (project / "dvc.lock").exists()
    assert hows(run()) == ["ran"] * 5
    other.wait()


def test_without_dvc_it_runs_with_one_warning(run, project, caplog):
    import shutil

    shutil.rmtree(project / ".dvc")
    assert hows(run()) == ["ran"] * 5
    assert hows(run()) == ["ran"] * 5
    warned = [r for r in caplog.records if "no .dvc folder" in r.getMessage()]
    assert len(warned) == 2  # one a run


def test_only_lost_connections_are_retried():
    import urllib.error

    from prefect.states import Failed
    from prefect.task_engine import TaskRunTimeoutError

    from flows.pipeline import is_transient

    lost = DataError("could not download")
    lost.__cause__ = urllib.error.URLError("connection reset")
    missing = DataError("could not download")
    missing.__cause__ = urllib.error.HTTPError("http://x", 404, "not found", {}, None)
    assert is_transient(None, None, Failed(data=lost))
    assert not is_transient(None, None, Failed(data=missing))
    assert not is_transient(None, None, Failed(data=DataError("two classes of one name")))
    assert not is_transient(None, None, Failed(data=WorkspaceError("disk full")))
    assert is_transient(None, None, Failed(data=TimeoutError("a server did not answer")))
    assert not is_transient(None, None, Failed(data=TaskRunTimeoutError("a limit of ours")))


def test_a_lost_connection_is_tried_again_and_a_mistake_is_not(run, stages, monkeypatch):
    from flows import pipeline

    soon = pipeline.TASKS["prepare"].with_options(retry_delay_seconds=0)
    monkeypatch.setitem(pipeline.TASKS, "prepare", soon)
    lost = DataError("could not download")
    lost.__cause__ = ConnectionResetError("reset by peer")
    for error, tries in ((lost, 3), (DataError("two classes of one name"), 1)):
        stages.fail["prepare"], stages.ran = error, []
        with pytest.raises(DataError):
            run()
        assert stages.ran == ["prepare"] * tries


def test_a_stage_that_takes_too_long_is_ended_once_and_the_next_run_goes_on(
    run, stages, project, monkeypatch
):
    from flows import pipeline

    original = pipeline.run_stage

    def slow(name, root, *, progress=None):
        if name in stages.slow:
            stages.ran.append(name)
            for _ in range(
                600
                # an exception from another thread comes between two steps of Python, not into a
                # sleep
            ):
                time.sleep(0.1)
        return original(name, root, progress=progress)

    in_place_of_stages(monkeypatch, slow)
    for stage in (
        "prepare",
        "train",
    ):  # prepare is a stage that may be tried again, but not for this
        stages.slow, stages.ran = {stage}, []
        with pytest.raises(
            pipeline.StageTimeout,
            match=f"stage {stage} was ended after 0.02 min .*goes on from there",
        ):
            run(timeouts_min={stage: 0.02})
        assert stages.ran.count(stage) <= 1 and holder(project) is None
    stages.slow = set()
    assert hows(run(timeouts_min={"train": 10})) == ["skipped", "ran", "ran", "ran", "ran"]


@pytest.mark.parametrize(
    "limits, words",
    [({"tarin": 5}, "Did you mean 'train'"), ({"train": 0}, "train: 0.0 is no number")],
)
def test_a_limit_that_is_none(run, stages, limits, words):
    with pytest.raises(ConfigError, match=words):
        run(timeouts_min=limits)
    assert stages.ran == []


class TestWhatPrefectShows:
    @pytest.fixture
    def client(self):
        from prefect import get_client

        with get_client(sync_client=True) as client:
            yield client

    def newest(self, client):
        from prefect.client.schemas.sorting import FlowRunSort

        return client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]

    def artifacts(self, client, flow_run):
        from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
        )
        return {artifact.key: artifact for artifact in found}

    def test_name_tasks_log_progress_and_result(self, run, client):
        run({"train.model": "yolov8s"})
        flow_run = self.newest(client)
        assert flow_run.name == "digits yolov8s" and flow_run.state.is_completed()
        artifacts = self.artifacts(client, flow_run)
        assert {f"{stage}-progress" for stage in STAGES} <= artifacts.keys()
        assert float(artifacts["train-progress"].data) == 100.0
        assert "epoch 2 of 2 · mAP50 0.500" in artifacts["train-progress"].description
        result = artifacts["pipeline-result"].data
        assert (
            "| train | ran |" in result
            and "| mAP50 (test)" not in result
            and "| mAP50 | 0.8750 |" in result
        )
        assert "**detector version 3** HOLD: better: not proven better" in result
        assert "- detectflow promote detector/3" in result
        assert artifacts["decision"].data.startswith(
            "# detector version 3\n\n**HOLD**: better: not proven better"
        )
        assert "Nothing has been decided yet" in artifacts["champion-history"].data

        deadline = time.monotonic() + 20  # Prefect sends log lines and task states in batches
        while True:
            lines = self.lines(client, flow_run)
            tasks = self.tasks(client, flow_run)
            if len(tasks) == 5 and "line of register" in lines or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        for stage in STAGES:
            assert lines.count(f"line of {stage}") == 1
        assert tasks == dict.fromkeys(STAGES, "Completed")

    def lines(self, client, flow_run):
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

        logs = client.read_logs(
            log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run.id])), limit=200
        )
        return [log.message for log in logs]

    def tasks(self, client, flow_run):
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        found = client.read_task_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run.id]))
        )
        return {each.name: each.state_name for each in found if each.state_name == "Completed"}

    def test_a_failure_shows_the_reason_first(self, run, stages, client):
        stages.fail["train"] = DataError("a.jpg cannot be read")
        with pytest.raises(DataError):
            run()
        flow_run = self.newest(client)
        assert (
            flow_run.state.is_failed()
            and "DataError: a.jpg cannot be read" in flow_run.state.message
        )
        assert self.artifacts(client, flow_run)["pipeline-result"].data.startswith(
            "**train failed:** DataError: a.jpg"
        )

    def test_a_wrong_parameter_shows_which_and_the_run_has_the_name_of_what_is_in_the_file(
        self, run, client
    ):
        with pytest.raises(ConfigError):
            run({"train.epocs": 3})
        flow_run = self.newest(client)
        shown = self.artifacts(client, flow_run)["pipeline-result"]
        assert flow_run.name == "digits yolov8n" and shown.description == "why it ended without one"
        assert shown.data.startswith(
            "**parameters failed:** ConfigError: params.yaml: unknown key 'train.epocs'"
        )
