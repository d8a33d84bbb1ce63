"""What is chosen for annotators, the files they get, and what comes back."""

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from label_cases import BOX, CLASSES, FAR, dataset, sample_of

from engine.cli import main
from engine.config import DataConfig
from engine.data.manifest import load_prepared
from engine.datasets.convert import convert
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.errors import DataError, WorkspaceError
from engine.labelling.choice import choose, features, uncertainty
from engine.labelling.files import TOOLS, write_tasks
from engine.labelling.relabel import relabel_tasks
from engine.types import SPLITS


def records_of(data):
    return [record for split in SPLITS for record in data.records(split)]


@pytest.fixture
def data(tmp_path):
    """Ten images with a cat in each; prepared."""
    source = dataset(tmp_path / "source", 10)
    prepare(load_description(source), tmp_path / "prepared", DataConfig())
    return load_prepared(tmp_path / "prepared")


def tasks_of(data, number=10):
    """Of a model that is right but for three images: a dog instead of the cat, a second object, and
    nothing."""
    records = sorted(records_of(data), key=lambda record: record.name)
    seen = [([BOX], [0.9], ["cat"])] * len(records)
    seen[2] = ([BOX], [0.95], ["dog"])
    seen[5] = ([BOX, FAR], [0.9, 0.85], ["cat", "dog"])
    seen[7] = ([], [], [])
    samples = [sample_of(record, *each) for record, each in zip(records, seen, strict=True)]
    return relabel_tasks(samples, records, CLASSES, 0.5, number)


# Choice -------------------------------------------------------------------------------------------


def test_contradicted_labels_come_first_then_hard_images(data):
    tasks = tasks_of(data)
    assert [(task.name, task.why) for task in tasks] == [
        ("2.png", "label error"),
        ("5.png", "label error"),
        ("7.png", "hard"),
    ]
    assert tasks[0].detail == "labelled 'cat', the model sees 'dog' (0.95)"
    assert tasks[0].suggested == ()  # on a label: its box would be in the way
    assert [(each.name, each.box) for each in tasks[1].suggested] == [("dog", tuple(FAR))]
    assert tasks[2].detail == "1 missed, 0 false alarms"
    assert len(tasks_of(data, number=1)) == 1


def test_a_box_without_area_is_nothing_to_begin_with(data):
    records = records_of(data)
    flat = [0.0, 5.0, 0.0, 40.0]  # cut off at the edge of the image
    samples = [sample_of(r, [FAR, flat], [0.9, 0.9], ["dog", "dog"]) for r in records]
    for task in relabel_tasks(samples, records, CLASSES, 0.5, 10):
        assert [each.box for each in task.found] == [tuple(FAR)]


def test_uncertainty_by_hand():
    assert uncertainty(np.array([0.5])) == pytest.approx(1.0)
    assert uncertainty(np.array([0.5, 0.5])) == pytest.approx(2.0)
    assert uncertainty(np.array([0.25])) == pytest.approx(0.8112781)
    assert uncertainty(np.array([0.05, 1.0])) == pytest.approx(0.0, abs=1e-6)  # nothing; no doubt
    assert uncertainty(np.array([])) == 0.0


def test_the_most_uncertain_first_and_no_two_alike():
    places = np.array([[0.0], [0.01], [5.0], [9.0]])
    assert choose([3.0, 2.9, 2.0, 1.0], places, 3) == [0, 2, 3]
    assert choose([3.0, 2.9, 2.0, 1.0], places, 9) == [0, 2, 3, 1]  # all, each once
    assert choose([0.0, 0.0], np.zeros((2, 1)), 2) == [0, 1]
    assert choose([], np.zeros((0, 0)), 3) == []


def test_features_are_near_for_images_that_look_alike():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (80, 60, 3), np.uint8), (0, 0), 5)
    brighter = np.clip(image.astype(int) + 5, 0, 255).astype(np.uint8)
    a, b, c = (features(each) for each in (image, brighter, np.zeros_like(image)))
    assert a.shape == (768,) and np.linalg.norm(a - b) < np.linalg.norm(a - c) / 5


# Files --------------------------------------------------------------------------------------------


def written(data, folder, tool, copy=True):
    folder.mkdir(parents=True)
    tasks = tasks_of(data)
    write_tasks(folder, TOOLS[tool], tasks, CLASSES, "model/1", copy)
    return tasks


def test_cvat_gets_labels_and_what_has_none(data, tmp_path):
    written(data, tmp_path / "out", "cvat")
    text = (tmp_path / "out" / "annotations.xml").read_text()
    assert re.findall(r'<image id="(\d)" name="(\w+.png)" width="120" height="100"', text) == [
        ("0", "2.png"),
        ("1", "5.png"),
        ("2", "7.png"),
    ]
    boxes = re.findall(r'<box label="(\w+)" source="(\w+)"', text)
    assert boxes == [("cat", "manual"), ("cat", "manual"), ("dog", "auto"), ("cat", "manual")]
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [each["name"] for each in labels] == list(CLASSES)
    rows = list(csv.DictReader((tmp_path / "out" / "tasks.csv").open()))
    assert [row["why"] for row in rows] == ["label error", "label error", "hard"]
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3


def test_label_studio_gets_labels_as_annotations_and_the_model_as_predictions(data, tmp_path):
    written(data, tmp_path / "out", "label-studio")
    first, second, third = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert first["data"]["image"] == "/data/local-files/?d=images/2.png"
    (label,) = first["annotations"][0]["result"]
    (model,) = first["predictions"][0]["result"]
    assert label["value"]["rectanglelabels"] == ["cat"]
    assert model["value"]["rectanglelabels"] == ["dog"] and model["score"] == 0.95
    assert label["value"]["x"] == pytest.approx(100 * BOX[0] / 120)
    assert len(second["predictions"][0]["result"]) == 2 and not third["predictions"][0]["result"]
    interface = (tmp_path / "out" / "interface.cfg").read_text()
    assert {label["from_name"], label["to_name"]} <= set(re.findall(r'name="(\w+)"', interface))


def test_without_copies_the_files_are_listed(data, tmp_path):
    tasks = written(data, tmp_path / "out", "cvat", copy=False)
    listed = (tmp_path / "out" / "images.txt").read_text().splitlines()
    assert listed == [str(task.file) for task in tasks] and all(Path(f).is_file() for f in listed)
    assert not (tmp_path / "out" / "images").exists()


def test_an_image_that_is_gone_is_said(data, tmp_path):
    tasks = tasks_of(data)
    tasks[0].file.unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(WorkspaceError, match=r"2.png: cannot be copied"):
        write_tasks(tmp_path / "out", TOOLS["cvat"], tasks, CLASSES, "m", True)


# There and back -----------------------------------------------------------------------------------


def corrected_in_cvat(folder):
    file = folder / "annotations.xml"
    text = file.read_text()
    first, rest = text.split("</image>", 1)
    file.write_text(first.replace('label="cat"', 'label="dog"') + "</image>" + rest)


def corrected_in_label_studio(folder):
    file = folder / "tasks.json"
    tasks = json.loads(file.read_text())
    tasks[0]["annotations"][0]["result"][0]["value"]["rectanglelabels"] = ["dog"]
    # the annotator takes over what the model found in the second image
    taken = [
        {**region, "id": f"n{i}"} for i, region in enumerate(tasks[1]["predictions"][0]["result"])
    ]
    tasks[1]["annotations"] = [{"id": 7, "result": taken}]
    tasks[2]["annotations"] = []  # not reached yet
    file.write_text(json.dumps(tasks))


@pytest.mark.parametrize(
    ("tool", "edit"),
    [("cvat", corrected_in_cvat), ("label-studio", corrected_in_label_studio)],
)
def test_what_annotators_changed_is_what_diff_shows(tool, edit, data, tmp_path, capsys):
    returned = tmp_path / "returned"
    written(data, returned, tool)
    edit(returned)
    done = convert(data.folder, tmp_path / "new", "coco", DataConfig(), returned)
    assert done.images == 10 and done.added == 0
    assert done.corrected == (3 if tool == "cvat" else 2)
    assert main(["diff", str(data.folder), str(tmp_path / "new"), f"out={tmp_path / 'diff'}"]) == 0
    found = json.loads((tmp_path / "diff" / "diff.json").read_text())
    assert found["boxes"] == {"added": 1, "removed": 0, "moved": 0, "relabelled": 1}
    assert found["images"]["added"] == found["images"]["removed"] == []
    said = capsys.readouterr().out
    assert "2.png: 'cat' is 'dog' now" in said and "5.png: 'dog' added" in said


def test_new_images_of_a_batch_are_added(data, tmp_path):
    batch = dataset(tmp_path / "batch", 3, seed=99, names=("cow",))
    done = convert(data.folder, tmp_path / "new", "coco", DataConfig(), batch)
    assert (done.images, done.corrected, done.added) == (13, 0, 3)
    assert done.names == (*CLASSES, "cow")
    assert sum(done.splits.values()) == 3


def test_new_images_of_a_batch_are_in_what_is_trained_on_next(data, tmp_path):
    """A dataset with splits leaves out images that are in none: the work would be lost."""
    batch = dataset(tmp_path / "batch", 3, seed=99)
    convert(data.folder, tmp_path / "new", "coco", DataConfig(), batch)
    prepare(load_description(tmp_path / "new"), tmp_path / "again", DataConfig())
    again = load_prepared(tmp_path / "again")
    assert len(records_of(again)) == 13
    for split in SPLITS:  # nobody else moves
        assert {r.sha256 for r in data.records(split)} <= {r.sha256 for r in again.records(split)}


def test_without_splits_new_images_get_none(tmp_path):
    source = dataset(tmp_path / "source", 10)
    batch = dataset(tmp_path / "batch", 3, seed=99)
    done = convert(source, tmp_path / "new", "coco", DataConfig(), batch)
    assert done.added == 3 and not done.splits
    assert not list((tmp_path / "new").rglob("instances_test.json"))


def test_a_batch_without_annotations_corrects_nothing(data, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no annotations found"):
        convert(data.folder, tmp_path / "new", "coco", DataConfig(), tmp_path / "empty")
    assert not (tmp_path / "new").exists()
