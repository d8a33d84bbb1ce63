"""Figures of a run: whole, the same for the same data, and without error or warning whatever the
data.
"""

import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.metrics import coco_ap
from engine.metrics.calibration import calibration_error, reliability
from engine.plots import (
    plot_confusion,
    plot_curves,
    plot_labels,
    plot_reliability,
    plot_results,
)
from engine.plots.curves import panels
from engine.plots.labels import relative_boxes
from engine.plots.results import group_columns
from engine.plots.style import PALETTE, luminance, mpl_colour, plain
from engine.types import Detections, ImageRecord

ODD_NAMES = [
    "_hidden",
    "$a_b$",
    "",
    "$5",
    "a\nb",
    "细胞",
    "Эритроцит",
    "x" * 100,
    "ein langer Name, der 1 heißt",
    "\x07",
]
CURVES = ["PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png"]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def scene(classes, images=12, seed=0, truths=4):
    """Records with boxes of random classes, and detections near them."""
    random = np.random.default_rng(seed)
    records, found = [], []
    for i in range(images):
        size = tuple(int(side) for side in random.integers(60, 200, 2))
        kinds = random.integers(0, classes, truths)
        corner, sides = random.uniform(0, 30, (truths, 2)), random.uniform(5, 25, (truths, 2))
        boxes = np.concatenate((corner, corner + sides), 1)
        records.append(ImageRecord(Path(f"/none/{i}.jpg"), str(i), size, boxes, kinds))
        moved = boxes + random.normal(0, 2, boxes.shape)
        found.append(
            Detections(
                moved.astype(np.float32), random.uniform(0.1, 1, truths).astype(np.float32), kinds
            )
        )
    return records, found


def scored(classes, names=None, **more):
    records, found = scene(classes, **more)
    return coco_ap(found, records, names or [f"kind {i}" for i in range(classes)])


def read_image(path):
    image = cv2.imread(str(path))
    assert image is not None, f"{path} is no image"
    return image


def inked(image):
    """Share of pixels that are not white."""
    return (image < 250).any(-1).mean()


@pytest.mark.parametrize("classes", [1, 80])
def test_four_curves_are_written_whole_for_any_number_of_classes(tmp_path, classes):
    paths = plot_curves(scored(classes, images=40), tmp_path / "new")
    assert [p.name for p in paths] == CURVES
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(CURVES)
    for path in paths:
        assert read_image(path).shape == (672, 1140, 3) and inked(read_image(path)) > 0.02


def test_curves_without_ground_truth_or_images_say_so(tmp_path):
    records, found = scene(2)
    bare = [replace(r, boxes=np.zeros((0, 4)), classes=np.zeros(0, int)) for r in records]
    for name, scores in {
        "bare": coco_ap(found, bare, ["a", "b"]),
        "none": coco_ap([], [], ["a", "b"]),
    }.items():
        for path in plot_curves(scores, tmp_path / name):
            assert 0 < inked(read_image(path)) < 0.02


def test_classes_without_ground_truth_are_left_out_of_the_mean():
    scores = scored(2, names=["a", "b", "never seen"])
    for panel in panels(scores):
        assert np.isnan(panel.y[2]).all() and np.isnan(panel.values[2])
        assert panel.mean == pytest.approx(np.nanmean(panel.values))
    f1 = panels(scores)[1]
    assert f1.marked == scores.confidence
    at = np.abs(f1.x - f1.marked).argmin()
    assert f1.y[:2, at].mean() == pytest.approx(f1.y[:2].mean(0).max()) == pytest.approx(f1.mean)


def test_the_same_scores_give_the_same_bytes(tmp_path):
    first, second = (plot_curves(scored(3), tmp_path / name) for name in ("one", "two"))
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    other = plot_curves(scored(3, seed=1), tmp_path / "three")
    assert first[1].read_bytes() != other[1].read_bytes()


@pytest.mark.parametrize("classes", [0, 1, 80])
def test_confusion_of_any_size_is_bounded_and_not_empty(tmp_path, classes):
    counts = np.diag(np.arange(classes + 1)) * 3
    image = read_image(
        plot_confusion(counts, [f"kind {i}" for i in range(classes)], tmp_path / "new" / "c.png")
    )
    assert 400 < image.shape[0] <= 2400 and 400 < image.shape[1] <= 2400 and inked(image) > 0.1


@pytest.mark.parametrize("classes", [1, 5, 12])
def test_confusion_with_long_names_is_not_cut_at_an_edge(tmp_path, classes):
    names = [f"{'long ' * 6}{i}" for i in range(classes)]
    image = read_image(plot_confusion(np.eye(classes + 1, dtype=int), names, tmp_path / "c.png"))
    for edge in (image[:3], image[-3:], image[:, :3], image[:, -3:]):
        assert inked(edge) == 0


def test_confusion_is_coloured_by_row_fractions_and_written_with_counts(tmp_path):
    names = ["a", "b"]
    base = np.array([[8, 1, 1], [0, 5, 5], [3, 2, 0]])
    same, tenfold, other = (
        read_image(plot_confusion(c, names, tmp_path / f"{i}.png"))
        for i, c in enumerate((base, base * 10, np.array([[8, 1, 1], [0, 9, 1], [3, 2, 0]])))
    )
    text, colour = (same != tenfold).any(-1).mean(), (same != other).any(-1).mean()
    assert 0 < text < 0.02 < colour  # ten times as many: other digits in the same colours
    large = np.kron(np.eye(20, dtype=np.int64), np.ones((2, 2), np.int64)) * 10**15
    paths = [
        plot_confusion(each, ["x"] * 39, tmp_path / f"big{i}.png")
        for i, each in enumerate((large, large * 3))
    ]
    assert (
        paths[0].read_bytes() == paths[1].read_bytes()
    )  # counts too long for their cells are not written


def test_confusion_of_the_wrong_shape_is_our_own_mistake(tmp_path):
    with pytest.raises(ValueError, match=r"2 names need counts of shape \(3, 3\), not \(2, 2\)"):
        plot_confusion(np.zeros((2, 2)), ["a", "b"], tmp_path / "c.png")
    assert not list(tmp_path.iterdir())


def history(epochs, every=1):
    rows = []
    for epoch in range(epochs):
        row = {
            "epoch": str(epoch),
            "time_s": "1.5",
            "train/box_loss": f"{2 / (epoch + 1)}",
            "lr/bias": "0.01",
        }
        seen = epoch % every == 0
        row |= {
            "metrics/mAP50": f"{epoch / epochs}" if seen else "",
            "val/box_loss": f"{3 / (epoch + 1)}" if seen else "",
        }
        rows.append(row)
    return rows


def test_columns_that_belong_together_are_in_one_panel():
    columns = [
        "epoch",
        "time_s",
        "train/box_loss",
        "train/cls_loss",
        "metrics/precision",
        "metrics/recall",
        "metrics/mAP50",
        "metrics/mAP50-95",
        "val/box_loss",
        "val/cls_loss",
        "lr/bias",
        "lr/weight",
    ]
    assert group_columns(columns) == {
        "box_loss": {"train": "train/box_loss", "val": "val/box_loss"},
        "cls_loss": {"train": "train/cls_loss", "val": "val/cls_loss"},
        "precision and recall": {"precision": "metrics/precision", "recall": "metrics/recall"},
        "mAP": {"mAP50": "metrics/mAP50", "mAP50-95": "metrics/mAP50-95"},
        "learning rate": {"bias": "lr/bias", "weight": "lr/weight"},
    }
    assert group_columns(["train/accuracy", "metrics/accuracy", "gpu/memory"]) == {
        "accuracy": {"train": "train/accuracy"},
        "accuracy (metric)": {"accuracy": "metrics/accuracy"},
        "gpu": {"memory": "gpu/memory"},
    }


@pytest.mark.parametrize(
    "rows", [[], history(1), history(60, every=7), [{"epoch": 0, "train/a": 1}]]
)
def test_results_of_any_length(tmp_path, rows):
    image = read_image(plot_results(rows, tmp_path / "results.png"))
    assert image.shape[0] >= 300 and inked(image) > 0.001


def test_an_absent_value_is_a_gap_however_it_is_written(tmp_path):
    def with_gap(absent):
        rows = history(8)
        for row in rows[3:6]:
            row["train/box_loss"] = absent
        return plot_results(rows, tmp_path / f"{len(list(tmp_path.iterdir()))}.png").read_bytes()

    missing = history(8)
    for row in missing[3:6]:
        del row["train/box_loss"]
    same = {with_gap(absent) for absent in ("", None, float("inf"), "n/a")}
    same.add(plot_results(missing, tmp_path / "missing.png").read_bytes())
    assert len(same) == 1 and with_gap(0.0) not in same


def test_a_column_without_numbers_has_no_panel(tmp_path):
    with_empty = [row | {"val/dfl_loss": "", "metrics/recall": None} for row in history(3)]
    first, second = (
        plot_results(rows, tmp_path / f"{i}.png") for i, rows in enumerate((history(3), with_empty))
    )
    assert first.read_bytes() == second.read_bytes()


def test_relative_boxes_by_hand():
    boxes = np.array(
        [[0, 0, 20, 50], [10, 20, 30, 20], [0, 0, 40, 100.0]]
    )  # the second has no area, the third is a crowd
    record = ImageRecord(
        Path("a"), "", (100, 40), boxes, np.zeros(3, int), crowd=np.array([False, False, True])
    )
    shares, aspect = relative_boxes([record])
    np.testing.assert_allclose(shares, [[0.25, 0.25, 0.5, 0.5]])
    np.testing.assert_allclose(aspect, [0.4])
    assert relative_boxes([])[0].shape == (0, 4)


@pytest.mark.parametrize("classes", [1, 300])
def test_labels_of_any_number_of_classes(tmp_path, classes):
    records, _ = scene(classes)
    image = read_image(
        plot_labels(records, [f"kind {i}" for i in range(classes)], tmp_path / "labels.png")
    )
    assert image.shape == (912, 1440, 3) and inked(image) > 0.02


def test_labels_do_not_depend_on_the_resolution_of_the_images(tmp_path):
    records, _ = scene(3)
    twice = [replace(r, size=(2 * r.size[0], 2 * r.size[1]), boxes=2 * r.boxes) for r in records]
    first, second = (
        plot_labels(each, ["a", "b", "c"], tmp_path / f"{i}.png")
        for i, each in enumerate((records, twice))
    )
    assert first.read_bytes() == second.read_bytes()


def test_labels_of_nothing_and_of_images_without_boxes(tmp_path):
    empty = ImageRecord(Path("a"), "", (10, 10), np.zeros((0, 4)), np.zeros(0, int))
    for number, (records, names) in enumerate((([], []), ([empty], ["a"]), ([], ["a", "b"]))):
        read_image(plot_labels(records, names, tmp_path / f"{number}.png"))


def test_odd_names_are_drawn_everywhere(tmp_path):
    records, found = scene(len(ODD_NAMES), images=20)
    scores = coco_ap(found, records, ODD_NAMES)
    for path in (
        *plot_curves(scores, tmp_path),
        plot_confusion(scores.confusion, ODD_NAMES, tmp_path / "confusion.png"),
        plot_labels(records, ODD_NAMES, tmp_path / "labels.png"),
        plot_results(
            [{"epoch": 1, "train/$x$_loss": 1, "odd/_y": 2, "metrics/": 3}],
            tmp_path / "results.png",
        ),
    ):
        assert inked(read_image(path)) > 0.001


def test_names_stay_distinct_when_they_are_shortened():
    names = [f"class number {i} of a very long list" for i in range(12)]
    short = plain(names)
    assert len(set(short)) == 12 and all(len(text) <= 24 for text in short)
    assert plain(["_a", "b\n c", "", "$x$"]) == [" _a", "b c", "(no name)", r"\$x\$"]


def test_the_first_twenty_colours_differ_clearly_and_show_on_white():
    apart = [np.abs(np.subtract(a, b)).sum() for i, a in enumerate(PALETTE) for b in PALETTE[:i]]
    assert len(PALETTE) == 20 and min(apart) > 50
    for index in range(100):
        colour = mpl_colour(index)
        assert all(0 <= part <= 1 for part in colour)
        assert luminance(tuple(round(part * 255) for part in colour)) < 0.45


@pytest.mark.parametrize("number", [0, 1, 300])
def test_a_reliability_diagram_of_any_number_of_detections(tmp_path, number):
    random = np.random.default_rng(0)
    scores = random.uniform(0.05, 1, number)
    rows = reliability(scores, random.random(number) < scores)
    calibration = {
        "method": "logistic",
        "ece_before": calibration_error(rows),
        "ece_after": calibration_error(rows),
        "reliability": {"before": rows, "after": rows},
    }
    paths = [plot_reliability(calibration, tmp_path / name) for name in ("a.png", "b.png")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert cv2.imread(str(paths[0])).shape[1] > 800
