"""What is reported of a run: names that MLflow takes, settings as they came to be, code and data by
their hashes.
"""

import json
import subprocess
import sys

import pytest
import toys

from engine.config import DetectionTrainConfig, Params
from engine.tracking import run_metadata
from engine.tracking.run_description import describe

NAMES = [
    "train/box_loss",
    "warm-up and lr/weight",
    "test/mAP50-95",
    "Zellgröße (µm)",
    "../up",
    "/lead//double",
    "a" * 400,
    "",
    "..",
    "ключ",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_becomes_one_that_mlflow_takes(name):
    from mlflow.utils.validation import (
        _validate_metric_name,
        _validate_param_name,
        _validate_tag_name,
    )

    legal = run_metadata.legal_name(name)
    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(legal)
    assert len(legal) <= 250


def test_legal_names_stay_as_they_are():
    assert run_metadata.legal_name("test/mAP50-95") == "test/mAP50-95"


def test_settings_are_flat_and_the_trainers_choice_replaces_auto_but_not_the_places():
    params = Params.build(
        {"train": {"epochs": 3}, "data": {"options": {"train": 40}}, "validate": {"batch": 8}}
    )
    places = {"project": "/home/me/ckpt", "name": "f1", "data": "/home/me/d"}
    resolved = DetectionTrainConfig.build({"epochs": 3, "lr0": 0.002, **places})
    flat = run_metadata.flat_params(params, resolved)
    assert (
        flat["train.epochs"] == "3"
        and flat["train.lr0"] == "0.002"
        and flat["validate.batch"] == "8"
    )
    assert (
        flat["data.options.train"] == "40"
        and flat["export.formats"] == '["onnx"]'
        and flat["export.imgsz"] == "null"
    )
    assert not any("/home/me" in value for value in flat.values())
    assert not {f"train.{name}" for name in run_metadata.PLACES} & flat.keys()


def test_a_long_value_is_cut_at_what_mlflow_takes():
    params = Params.build({"train": {"freeze": ["x" * 10] * 1000}})
    assert len(run_metadata.flat_params(params)["train.freeze"]) == 6000


def test_metrics_take_the_stages_prefix():
    summary = {"metrics/mAP50-95": 0.5, "val/box_loss": 1, "split": "test", "ok": True}
    assert run_metadata.metrics_of(summary, "test") == {
        "test/mAP50-95": 0.5,
        "test/val_box_loss": 1.0,
    }


def test_a_split_is_known_by_its_images_and_boxes(tmp_path):
    root = toys.make_workspace(tmp_path)
    before = {split: run_metadata.split_digest(root, split) for split in ("train", "val", "test")}
    assert len(set(before.values())) == 3
    with (root / "data" / "prepared" / "train.jsonl").open("a") as stream:
        stream.write("{}\n")  # more to train on: the test images are the same
    assert (
        run_metadata.split_digest(root, "test") == before["test"]
        and run_metadata.split_digest(root, "train") != before["train"]
    )


def test_git_gives_the_commit_and_whether_files_differ_from_it(tmp_path):
    def git(*words):
        settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *settings, *words],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    assert run_metadata.git_tags(tmp_path, Params()) == {}
    git("init", "-q", "-b", "main")
    (tmp_path / "code.py").write_text("1\n")
    (tmp_path / "dvc.lock").write_text("a\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    tags = run_metadata.git_tags(tmp_path, Params())
    assert (
        tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
        and tags["mlflow.source.git.branch"] == "main"
    )
    assert tags["mlflow.source.git.dirty"] == "False"
    (tmp_path / "dvc.lock").write_text("b\n")  # the run itself writes it
    assert run_metadata.git_tags(tmp_path, Params())["mlflow.source.git.dirty"] == "False"
    (tmp_path / "code.py").write_text("2\n")
    assert run_metadata.git_tags(tmp_path, Params())["mlflow.source.git.dirty"] == "True"


def test_dvc_gives_its_hashes_and_a_damaged_lock_nothing(tmp_path):
    stages = {
        "prepare": {
            "deps": [
                {"path": "data/raw", "md5": "dd.dir"},  # of earlier versions
                {"path": "data/raw/batch #2", "md5": "ee.dir"},
                {"path": "reports/code/prepare.json", "md5": "ff"},
            ],
            "outs": [{"path": "data/prepared", "md5": "aa.dir"}],
        },
        "train": {
            "outs": [
                {"path": "weights", "md5": "bb.dir"},
                {"path": "reports/train", "md5": "cc.dir"},
            ]
        },
    }
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": stages}))
    assert run_metadata.dvc_tags(tmp_path) == {
        "dvc.data/raw": "dd.dir",
        "dvc.data/raw/batch _2": "ee.dir",
        "dvc.data/prepared": "aa.dir",
        "dvc.weights": "bb.dir",
    }
    (tmp_path / "dvc.lock").write_text("<<<<<<< merge\n")
    assert run_metadata.dvc_tags(tmp_path) == {}


@pytest.mark.parametrize(
    "environment, page",
    [
        ({}, "http://127.0.0.1:4200"),
        ({"PREFECT_API_URL": "https://prefect.team/api"}, "https://prefect.team"),
        ({"PREFECT_API_URL": "https://me:secret@prefect.team/api/"}, "https://prefect.team"),
        (
            {"PREFECT_API_URL": "http://a:1/api", "PREFECT_UI_URL": "https://pages.team/"},
            "https://pages.team",
        ),
        (
            {
                "PREFECT_API_URL": "http://127.0.0.1:9/api",
                "DETECTFLOW_TEMPORARY_SERVER": "http://127.0.0.1:9/api",
            },
            "http://127.0.0.1:4200",
        ),
    ],
)
def test_the_flow_run_and_its_page_are_reported_where_there_is_one(
    clean_environment, monkeypatch, environment, page
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run_metadata.flow_tags() == {}
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "abc")
    assert run_metadata.flow_tags() == {
        "prefect.flow_run_id": "abc",
        "prefect.flow_run_url": f"{page}/runs/flow-run/abc",
    }


def test_the_description_shows_what_there_is_and_no_empty_table():
    tags = {
        "dataset": "squares",
        "weights_sha256": "f" * 64,
        "prefect.flow_run_url": "http://p/runs/flow-run/1",
    }
    early = describe(
        {"train.model": "yolov8n", "train.imgsz": "160"},
        {"train/box_loss": 1.0},
        {"dataset": "squares"},
    )
    assert "squares" in early and "|" not in early
    late = describe(
        {}, {"val best/mAP50-95": 0.5, "test/mAP50-95": 0.25, "test/recall": 0.75}, tags
    )
    assert (
        "| mAP50-95&emsp; | 0.250&emsp; | 0.500 |" in late
        and "| recall&emsp; | 0.750&emsp; |  |" in late
        and "| precision" not in late
    )
    assert "[a flow run of Prefect](http://p/runs/flow-run/1)" in late
    assert late.startswith("mAP50-95 **0.250** on test, **0.500** on val, best epoch: ")


def test_links_and_the_stages_adapter_do_not_import_mlflow():
    code = (
        "import sys, engine.tracking.mlflow_links; print({'mlflow', 'torch'} & set(sys.modules))\n"
    )
    code += "import engine.tracking.stage_runs, engine.registry.registry; print({'mlflow'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=toys.ROOT
    )
    assert done.stdout.split() == ["set()", "set()"], done.stderr
