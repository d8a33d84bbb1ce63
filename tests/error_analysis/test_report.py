"""errors.json and the comparison of two models: what a reader finds in them, on real images."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from error_cases import collected, detections, random_case, record

from engine.error_analysis.error_types import TYPES, find_errors
from engine.error_analysis.images import best_of_each_box, image_losses, label_errors
from engine.error_analysis.pair import of_classes, pair_report, summary
from engine.error_analysis.properties import measure_image, measure_images
from engine.error_analysis.report import error_report
from engine.errors import DataError
from engine.metrics.collector import pack, unpack

NAMES = ("cat", "dog")
BOX, FAR = [20.0, 20.0, 80.0, 80.0], [100.0, 100.0, 160.0, 160.0]


def write_images(folder, records):
    """The records with image files, every second one dark."""
    from dataclasses import replace

    rng = np.random.default_rng(0)
    found = []
    for i, each in enumerate(records):
        high = 60 if i % 2 else 255
        file = folder / each.name
        cv2.imwrite(str(file), rng.integers(0, high, (200, 200, 3), np.uint8))
        found.append(replace(each, file=file, meta={"camera": f"cam{i % 2}"}))
    return found


@pytest.fixture
def metrics(tmp_path):
    """24 images: in each a cat, found, and in dark ones a dog that is not; one cat is called a dog,
    one found object has no label."""
    records = write_images(
        tmp_path,
        [
            record([BOX, FAR] if i % 2 else [BOX], [0, 1][: 1 + i % 2], name=f"{i}")
            for i in range(24)
        ],
    )
    found = [detections([BOX], [0.9], [0]) for _ in records]
    found[4] = detections([BOX], [0.95], [1])
    found[6] = detections([BOX, FAR], [0.9, 0.85], [0, 1])
    return collected(found, records, NAMES), records


def report_of(metrics, folder=None, names=NAMES):
    collected_, records = metrics
    scores = collected_.compute()
    return error_report(
        collected_.samples(),
        names,
        scores.confidence,
        scores.map50_area,
        records,
        "test",
        folder,
    ), scores


def test_the_report_says_what_was_planted(metrics, tmp_path):
    report, scores = report_of(metrics, tmp_path)
    assert json.loads(json.dumps(report)) == report  # plain values
    assert (report["split"], report["images"], report["boxes"]) == ("test", 24, 36)
    assert report["ap50"] == pytest.approx(scores.map50, abs=1e-6)
    assert [row["type"] for row in report["error_types"]] == list(TYPES)
    counts = {row["type"]: row["count"] for row in report["error_types"]}
    assert counts == {**dict.fromkeys(TYPES, 0), "classification": 1, "background": 1, "missed": 12}
    assert [(r["class"], r["errors"]["missed"]) for r in report["by_class"]] == [
        ("dog", 12),
        ("cat", 0),
    ]
    medium = next(row for row in report["by_size"] if row["slice"] == "medium")
    assert medium["boxes"] == 36 and medium["ap50"] == pytest.approx(scores.map50, abs=1e-6)
    assert medium["recall"] == pytest.approx(23 / 36, abs=1e-6) and medium["errors"]["missed"] == 12
    assert {row["column"] for row in report["slices"]} == {"brightness", "sharpness", "camera"}


def test_errors_of_labels_and_hardest_images_come_with_pictures(metrics, tmp_path):
    report, _ = report_of(metrics, tmp_path)
    first, second, third = report["label_errors"][:3]
    assert (first["image"], first["kind"], first["class"], first["seen"]) == (
        "4.jpg",
        "wrong class",
        "cat",
        "dog",
    )
    assert first["score"] == 0.95 and first["box"] == BOX
    assert (second["image"], second["kind"], second["class"]) == ("6.jpg", "no label", "dog")
    assert (third["kind"], third["score"]) == ("no object", 0.5)
    hardest = report["hardest"]
    assert hardest[0] == {
        "image": "4.jpg",
        "missed": 1,
        "false_alarms": 1,
        "loss": 1.95,
        "picture": "errors/001.jpg",
    }
    assert (
        len(hardest) == 14
        and [row["picture"] is None for row in hardest] == [False] * 12 + [True] * 2
    )
    for row in (*hardest[:12], *report["label_errors"][:12]):
        assert cv2.imread(str(tmp_path / row["picture"])).shape[1] > 800  # two images side by side
    assert len(list((tmp_path / "errors").iterdir())) == 24


def test_without_a_folder_and_with_images_gone_there_are_no_pictures(metrics, tmp_path):
    assert report_of(metrics)[0]["hardest"][0]["picture"] is None
    for each in metrics[1]:
        each.file.unlink()
    report, _ = report_of(metrics, tmp_path / "out")
    assert report["hardest"][0]["picture"] is None
    assert {row["column"] for row in report["slices"]} == {"camera"}


@pytest.mark.parametrize("boxes", [[], [BOX]])
def test_nothing_to_find_or_nothing_found_is_a_report_too(boxes, tmp_path):
    records = write_images(
        tmp_path, [record(boxes, [0] * len(boxes), name=f"{i}") for i in range(3)]
    )
    report, _ = report_of(
        (collected([detections([], [], [])] * 3, records, NAMES), records), tmp_path
    )
    assert json.loads(json.dumps(report)) == report
    assert report["ap50"] == (0.0 if boxes else None)
    missed = report["error_types"][-1]
    assert missed == {"type": "missed", "count": 3 * len(boxes), "cost": 1.0 if boxes else None}


def test_losses_are_those_of_the_images_in_the_table_of_metrics():
    found, records = random_case(2, images=20, crowds=False)
    names = ("a", "b", "c", "d")
    metrics = collected(found, records, names)
    scores = metrics.compute()
    losses = image_losses(find_errors(metrics.samples(), names), scores.confidence)
    assert losses.missed.tolist() == [row["fn"] for row in scores.per_image]
    assert losses.false_alarms.tolist() == [row["fp"] for row in scores.per_image]


def test_a_box_of_two_classes_is_asked_about_its_best_one():
    metrics = collected([detections([BOX, BOX], [0.95, 0.9], [0, 1])], [record([BOX], [0])], NAMES)
    (sample,) = metrics.samples()
    assert best_of_each_box(sample, 0.1).classes.tolist() == [0]
    assert label_errors([sample], NAMES) == []


def test_properties_of_images_known_by_hand(tmp_path):
    flat = np.full((100, 200, 3), 50, np.uint8)
    assert measure_image(flat) == (50.0, 0.0, 2.0)
    stripes = np.zeros((100, 100, 3), np.uint8)
    stripes[:, ::2] = 255
    sharp = measure_image(stripes)[1]
    assert sharp > 20 * measure_image(cv2.GaussianBlur(stripes, (5, 5), 2))[1]
    rows = measure_images([tmp_path / "gone.jpg"])
    assert np.isnan(rows).all() and rows.shape == (1, 3)
    assert measure_images([]).shape == (0, 3)


# Two models ---------------------------------------------------------------------------------------


def test_what_a_model_gains_and_loses(tmp_path):
    records = write_images(tmp_path, [record([BOX, FAR], [0, 1], name=f"{i}") for i in range(4)])
    only_cat, only_dog = detections([BOX], [0.9], [0]), detections([FAR], [0.9], [1])
    both = detections([BOX, FAR], [0.9, 0.8], [0, 1])
    a = collected([only_cat, only_cat, both, both], records, NAMES).samples()
    b = collected([both, only_dog, both, only_cat], records, NAMES).samples()
    report = pair_report(a, b, NAMES, ("old", "new"), tmp_path)
    assert [row["image"] for row in report["gained"]] == ["0.jpg"]
    assert [row["image"] for row in report["lost"]] == ["3.jpg"]
    assert (report["images_gained"], report["images_lost"]) == (1, 1)
    classes = {row["class"]: row for row in report["classes"]}
    assert classes["cat"] == {
        "class": "cat",
        "boxes": 4,
        "both": 3,
        "gained": 0,
        "lost": 1,
        "neither": 0,
        "false_alarms": {"a": 0, "b": 0},
    }
    assert classes["dog"]["gained"] == 2 and classes["dog"]["lost"] == 1
    assert cv2.imread(str(tmp_path / report["lost"][0]["picture"])).shape[1] > 1200  # three
    assert "1 of 4 images better, 1 worse; 2 of 8 boxes gained, 2 lost" in summary(report)
    assert json.loads(json.dumps(report)) == report


def test_false_alarms_of_either_model_count_for_their_class():
    records = [record([BOX], [0], name=f"{i}") for i in range(3)]
    right = detections([BOX], [0.9], [0])
    more = detections([FAR, FAR, BOX], [0.95, 0.94, 0.9], [0, 1, 0])  # below what is right
    a = collected([right, more, right], records, NAMES).samples()
    b = collected([right, right, right], records, NAMES).samples()
    report = pair_report(a, b, NAMES, ("old", "new"))
    classes = {row["class"]: row for row in report["classes"]}
    assert classes["cat"]["false_alarms"] == {"a": 1, "b": 0} and classes["cat"]["both"] == 3
    # A class without a box to find is there for its false alarm.
    kinds = dict.fromkeys(("boxes", "both", "gained", "lost", "neither"), 0)
    assert classes["dog"] == {"class": "dog", **kinds, "false_alarms": {"a": 1, "b": 0}}
    assert (report["images_gained"], report["images_lost"]) == (1, 0)


def test_a_model_against_itself_gains_nothing():
    found, records = random_case(4)
    samples = collected(found, records, ("a", "b", "c", "d")).samples()
    report = pair_report(samples, samples, ("a", "b", "c", "d"), ("x", "x"))
    assert report["gained"] == report["lost"] == []
    with pytest.raises(DataError, match="other images"):
        pair_report(samples, samples[1:], ("a", "b", "c", "d"), ("x", "x"))


def test_rounding_of_another_format_is_no_change():
    records = [record([BOX], [0], name=f"{i}") for i in range(4)]
    a, b = (
        collected([detections([BOX, FAR], [0.9, s], [0, 0])] * 4, records, NAMES).samples()
        for s in (0.95, 0.95 - 1e-5)  # a false alarm in each image
    )
    report = pair_report(a, b, NAMES, ("best.pt", "best.onnx"))
    assert report["images_gained"] == report["images_lost"] == 0


def test_only_the_images_and_classes_that_count():
    found, records = random_case(4, crowds=True)
    samples = collected(found, records, ("a", "b", "c", "d")).samples()
    keys = [" ".join(s.key) for s in samples]
    (one,) = of_classes(samples, ("a", "b", "c", "d"), ("d", "a"), keys[1:2])
    kept = np.isin(samples[1].classes, (0, 3))
    np.testing.assert_array_equal(one.classes, np.where(samples[1].classes[kept] == 3, 0, 1))
    np.testing.assert_array_equal(one.boxes, samples[1].boxes[kept])
    assert len(one.gt_classes) == len(one.gt_crowd) == len(one.gt_boxes)


def test_samples_come_back_from_a_file_as_they_were():
    found, records = random_case(6)
    samples = collected(found, records, ("a", "b", "c", "d")).samples()
    back = unpack(pack(samples))
    assert [s.key for s in back] == [s.key for s in samples] and unpack(pack([])) == []
    for one, other in zip(samples, back, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.gt_crowd, other.gt_crowd)
    assert Path(back[0].file) == records[0].file
