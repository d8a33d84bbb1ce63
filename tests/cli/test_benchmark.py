"""benchmark loader: every combination that was asked for is measured, nothing is left behind, wrong
words are told.
"""

import json

import pytest
import yaml

from engine.cli import main

TINY = {"train": 6, "val": 2, "test": 2, "size": 64, "min_px": 16, "max_px": 40}


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("DETECTFLOW_STATE", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("train: {imgsz: 64, batch: 4, device: cpu}\n")
    (tmp_path / "data").mkdir()
    tiny = {
        "name": "tiny",
        "format": "generated",
        "generator": "digits",
        "options": TINY,
        "names": list("0123456789"),
    }
    (tmp_path / "data" / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_combination_is_a_row_and_the_disk_cache_is_gone_afterwards(project, capsys):
    words = ["data=data/tiny.yaml", "workers=0,1", "cache=ram,disk", "epochs=2", "format=json"]
    assert main(["benchmark", "loader", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["imgsz"], told["batch"], told["device"]) == (6, [64, 64], 4, "cpu")
    asked = [(c, w, a) for c in ("ram", "disk") for w in (0, 1) for a in (True, False)]
    assert [(row["cache"], row["workers"], row["augment"]) for row in told["rows"]] == asked
    assert all(
        row["first_epoch"] > 0 and row["later_epochs"] > 0 and row["first_batch_s"] > 0
        for row in told["rows"]
    )
    assert not list(project.rglob("benchmark-*")) and not list(project.rglob("*.bin"))


def test_the_table_says_what_was_measured(project, capsys):
    words = [
        "data=data/tiny.yaml",
        "workers=0",
        "cache=none",
        "augment=false",
        "images=5",
        "epochs=2",
        "imgsz=32",
    ]
    assert main(["benchmark", "loader", *words]) == 0
    first, _, heads, row = capsys.readouterr().out.splitlines()
    assert (
        first == "5 images of data/tiny.yaml (train), 32 x 32 px, batch 4, uint8 to cpu; images/s"
    )
    assert heads.split()[:3] == ["cache", "workers", "augment"]
    assert row.split()[:3] == ["none", "0", "no"]


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "not nothing"),
        (["loder"], "Did you mean 'loader'"),
        (["loader", "worker=1"], "Did you mean 'workers'"),
        (["loader", "cache=rom"], "Did you mean 'ram'"),
        (["loader", "workers=-1"], "workers=-1: expected a whole number, 0 or more"),
        (["loader", "workers=0,65"], "workers=65: expected 64 or less"),
        (["loader", "split=[1]"], "There are: train, val, test"),
        (["loader", "epochs=1"], "epochs=1: expected a whole number, 2 or more"),
        (["loader", "augment=perhaps"], "There are: true, false"),
        (["loader", "format=csv"], "There are: text, json"),
        (["loader", "batch=-1"], "for example batch=16"),
        (["loader", "imgsz=33"], "imgsz"),
        (
            ["loader"],
            "data/prepared: no prepared dataset. Prepare it (`detectflow run`) or bring it (`dvc "
            "pull`)",
        ),
    ],
)
def test_wrong_words(project, capsys, words, said):
    assert main(["benchmark", *words]) == 2
    assert said in capsys.readouterr().err


def test_outside_a_project_a_dataset_must_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", "loader"]) == 2
    assert "no project here or above" in capsys.readouterr().err
