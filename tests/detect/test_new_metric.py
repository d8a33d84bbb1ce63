"""A headline metric that is added in one place is a column of results.csv and stands in the summary
of a run, in what MLflow and the registry say of it, and in its trace.
"""

import json

import pytest

from engine.core.results import read_results
from engine.detect import DetectionTrainer
from engine.lineage.render import _value_text
from engine.metrics import reported
from engine.metrics.headlines import headline_names, headlines
from engine.metrics.reported import Metric
from engine.registry.candidate import Candidate, Measured
from engine.registry.version_description import describe_version
from engine.stages.layout import Layout
from engine.tracking.run_description import describe


@pytest.fixture(autouse=True)
def _one_place(monkeypatch):
    toy = Metric("AR-toy", "ar100", headline=True)
    monkeypatch.setattr(reported, "METRICS", (*reported.METRICS, toy))


def test_names_people_read_begin_with_the_primary_one():
    assert headline_names()[0] == "mAP50-95" and "AR-toy" in headline_names()
    assert headlines({"metrics/AR-toy": 0.5, "metrics/AR1": 1, "metrics/recall": None}) == {
        "AR-toy": 0.5
    }


def test_a_training_writes_it(shapes, tmp_path):
    settings = {"model": "yolov8n", "data": str(shapes), "imgsz": 64, "epochs": 1, "batch": 6}
    settings |= {"project": str(tmp_path), "device": "cpu", "plots": False, "verbose": False}
    result = DetectionTrainer(overrides=settings).train()
    columns = list(read_results(result.save_dir / "results.csv")[0])
    assert columns[5:10] == list(reported.headline_keys()) and columns[9] == "metrics/AR-toy"
    assert result.metrics["metrics/AR-toy"] == result.metrics["metrics/AR100"]


def test_whoever_sums_up_a_model_shows_it(tmp_path):
    from flows.artifacts import describe as describe_progress
    from flows.summary import summarize

    metrics = {"metrics/mAP50-95": 0.25, "metrics/AR-toy": 0.5}
    layout = Layout(tmp_path)
    layout.summary("validate").parent.mkdir(parents=True)
    layout.summary("validate").write_text(json.dumps({"split": "test", **metrics}))
    assert summarize(tmp_path, "run", [], 1.0).metrics == {"mAP50-95": 0.25, "AR-toy": 0.5}
    news = {"stage": "train", "done": 1, "total": 2, "metrics": metrics}
    assert describe_progress(news) == "epoch 1 of 2 · mAP50-95 0.250 · AR-toy 0.500"
    by_name = {"test/mAP50-95": 0.25, "test/AR-toy": 0.5}
    assert "| AR-toy&emsp; | 0.500 |" in describe({}, by_name, {})
    candidate = Candidate(
        name="detector",
        file=tmp_path / "best.onnx",
        onnx_sha256="",
        measured=Measured("metrics/mAP50-95", 0.25, "test", ""),
        metrics=by_name,
    )
    page = describe_version(candidate, [], "1", {})
    assert page.startswith("On test: mAP50-95 0.250, AR-toy 0.500.")
    assert _value_text("metrics on test", metrics) == "mAP50-95 0.25, AR-toy 0.5"
