"""`detectflow tasks`, with a real network: what it writes, and how it refuses."""

import csv
import json
import shutil

import pytest
from label_cases import dataset

from engine.cli import main
from engine.config import DataConfig
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.labelling.choice import uncertainty

NAMES = ("square", "disc")  # of the random network


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A prepared dataset, and a folder of new images and one that the dataset has too."""
    root = tmp_path_factory.mktemp("tasks")
    source = dataset(root / "source", 8, names=NAMES)
    prepare(load_description(source), root / "prepared", DataConfig())
    new = dataset(root / "new", 6, seed=5)
    (new / "annotations.xml").unlink()
    shutil.copy(source / "0.png", new / "copy.png")
    return root / "prepared", new


def test_both_kinds_of_tasks_come_with_their_reasons(folders, random_weights, tmp_path, capsys):
    prepared, new = folders
    before = {file: file.read_bytes() for file in new.iterdir()}
    out = tmp_path / "out"
    words = [f"model={random_weights}", f"data={prepared}", f"unlabelled={new}", f"out={out}"]
    assert main(["tasks", *words, "number=4", "format=label-studio", "copy=true"]) == 0
    said = capsys.readouterr().out
    assert "1 images of" in said and "LOCAL_FILES_DOCUMENT_ROOT" in said
    tasks = json.loads((out / "label" / "tasks.json").read_text())
    assert len(tasks) == 4 and all(task["annotations"] == [] for task in tasks)
    assert len(json.loads((out / "relabel" / "tasks.json").read_text())) == 4
    rows = list(csv.DictReader((out / "label" / "tasks.csv").open()))
    assert {row["why"] for row in rows} == {"uncertain"} and "copy.png" not in {
        row["source"] for row in rows
    }
    assert max(rows, key=lambda row: float(row["score"])) == rows[0]  # the least sure is first
    assert {file: file.read_bytes() for file in new.iterdir()} == before


def test_the_choice_is_the_same_again_and_that_of_the_scores(folders, random_weights, tmp_path):
    from engine.detect import DetectionPredictor

    prepared, new = folders
    for name in ("a", "b"):
        words = [f"model={random_weights}", f"unlabelled={new}", f"out={tmp_path / name}"]
        assert main(["tasks", *words, f"data={prepared}", "number=3"]) == 0
    a, b = ((tmp_path / name / "label" / "tasks.csv").read_text() for name in ("a", "b"))
    assert a == b
    predictor = DetectionPredictor({"model": str(random_weights), "conf": 0.1, "save": False})
    bits = {r.path.name: uncertainty(r.scores) for r in predictor(str(new))}
    del bits["copy.png"]
    first = next(csv.DictReader(a.splitlines()))
    assert first["source"] == max(bits, key=bits.get)
    assert float(first["score"]) == pytest.approx(max(bits.values()), abs=1e-3)


def test_images_in_folders_of_the_folder_count(folders, random_weights, tmp_path):
    prepared, new = folders
    day = tmp_path / "new" / "monday" / "left"
    day.mkdir(parents=True)
    shutil.copy(new / "1.png", day / "a.png")
    shutil.copy(new / "2.png", tmp_path / "new" / "a.png")
    (tmp_path / "new" / ".thumbs").mkdir()
    shutil.copy(new / "3.png", tmp_path / "new" / ".thumbs" / "a.png")
    words = [f"model={random_weights}", f"data={prepared}", f"unlabelled={tmp_path / 'new'}"]
    assert main(["tasks", *words, f"out={tmp_path / 'out'}", "copy=true"]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "label" / "tasks.csv").open()))
    assert {row["source"] for row in rows} == {"a.png", "monday/left/a.png"}
    assert len({row["image"] for row in rows}) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out=x", "format=cvt"], "Did you mean 'cvat'"),
        (["out=x", "number=0"], "number=0: expected a number of images from 1 up"),
        ([], "no out given"),
        (["out=."], "is there already and is not overwritten"),
        (["out=x", "split=tst"], "split=tst: expected all, train, val, test"),
        (["out=x", "copy=maybe"], "copy='maybe', expected true or false"),
        (["out=x", "modl=y"], "unknown key 'modl'"),
        (["out=x", "unlabelled=nowhere", "data={prepared}"], "nowhere: no such folder"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(words, message, folders, random_weights, capsys):
    words = [word.format(prepared=folders[0]) for word in words]
    assert main(["tasks", f"model={random_weights}", *words]) in (1, 2)
    assert message in capsys.readouterr().err


def test_out_never_lies_in_the_images(folders, random_weights, capsys):
    _, new = folders
    words = [f"model={random_weights}", f"unlabelled={new}", f"out={new / 'tasks'}"]
    assert main(["tasks", *words]) == 1
    assert "into which nothing is written" in capsys.readouterr().err
