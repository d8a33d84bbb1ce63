"""benchmarks/loader.py: every combination that was asked for is measured, nothing is left behind, wrong
arguments are reported.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.errors import ConfigError

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "loader.py"
spec = importlib.util.spec_from_file_location("benchmark_loader", FILE)
loader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(loader)

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
    assert loader.main(words) == 0
    reported = json.loads(capsys.readouterr().out)
    assert (reported["images"], reported["imgsz"], reported["batch"], reported["device"]) == (
        6,
        [64, 64],
        4,
        "cpu",
    )
    asked = [(c, w, a) for c in ("ram", "disk") for w in (0, 1) for a in (True, False)]
    assert [(row["cache"], row["workers"], row["augment"]) for row in reported["rows"]] == asked
    assert all(
        row["first_epoch"] > 0 and row["later_epochs"] > 0 and row["first_batch_s"] > 0
        for row in reported["rows"]
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
    assert loader.main(words) == 0
    first, _, heads, row = capsys.readouterr().out.splitlines()
    assert (
        first == "5 images of data/tiny.yaml (train), 32 x 32 px, batch 4, uint8 to cpu; images/s"
    )
    assert heads.split()[:3] == ["cache", "workers", "augment"]
    assert row.split()[:3] == ["none", "0", "no"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["worker=1"], "Did you mean 'workers'"),
        (["cache=rom"], "Did you mean 'ram'"),
        (["workers=-1"], "workers=-1: expected a whole number, 0 or more"),
        (["workers=0,65"], "workers=65: expected 64 or less"),
        (["split=[1]"], "There are: train, val, test"),
        (["epochs=1"], "epochs=1: expected a whole number, 2 or more"),
        (["augment=perhaps"], "There are: true, false"),
        (["format=csv"], "There are: text, json"),
        (["batch=-1"], "for example batch=16"),
        (["imgsz=0"], "imgsz"),
        (
            [],
            "data/prepared: no prepared dataset. Prepare it (`detectflow run`) or bring it (`dvc "
            "pull`)",
        ),
    ],
)
def test_wrong_arguments(project, words, said):
    with pytest.raises(ConfigError) as caught:
        loader.main(words)
    assert said in str(caught.value)


def test_outside_a_project_a_dataset_must_be_named(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, str(FILE)], capture_output=True, text=True)
    assert done.returncode == 2 and "no project here or above" in done.stderr
