"""Plots: drawn where they should be, whole, stable, and quiet about odd input. How they look is
for eyes.
"""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from engine.errors import DataError
from engine.plots import draw_detections, plot_images
from engine.plots.style import class_colour, ink_on, shorten
from engine.types import Detections


def detections(boxes, scores, classes):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, int),
    )


def grey(height=200, width=200):
    return np.full((height, width, 3), 128, np.uint8)


def test_drawing_leaves_the_original_alone_and_uses_the_class_colour():
    image = grey()
    drawn = draw_detections(image, detections([[50, 80, 150, 160]], [0.9], [1]), ["a", "b"])
    assert (image == 128).all() and drawn.shape == image.shape and drawn.dtype == np.uint8
    assert tuple(drawn[160, 100, ::-1]) == class_colour(1)  # BGR: the lower edge
    assert (drawn[120, 100] == 128).all()  # the inside stays visible
    changed = np.argwhere((drawn != 128).any(-1))
    assert changed.min(0).tolist() >= [80 - 20, 45] and changed.max(0).tolist() <= [165, 155]


@pytest.mark.parametrize(
    "box",
    [
        [-50, -50, 900, 900],
        [0, 0, 3, 3],
        [198, 198, 200, 200],
        [90, 90, 90, 90],
        [np.nan, 0, np.inf, 9],
    ],
)
def test_boxes_at_and_beyond_the_border_are_drawn_without_error(box):
    drawn = draw_detections(grey(), detections([box], [0.5], [7]), ["only one name"])
    assert drawn.shape == (200, 200, 3)


def test_tiny_images_and_names_of_any_script():
    names = ["ein sehr langer Name für eine Klasse, die niemand braucht", "Эритроцит", "", "细胞"]
    found = detections([[0, 0, 6, 6]] * 4, [0.4, 0.3, 0.2, 0.1], [0, 1, 2, 3])
    assert draw_detections(grey(8, 8), found, names).shape == (8, 8, 3)
    assert (draw_detections(grey(8, 8), detections([], [], []), names) == 128).all()


def test_the_best_detection_lies_on_top():
    found = detections([[50, 80, 150, 160]] * 2, [0.9, 0.2], [0, 1])
    assert tuple(draw_detections(grey(), found, ["a", "b"])[160, 100, ::-1]) == class_colour(0)


def test_colours_are_stable_distinct_and_labels_contrast():
    colours = [class_colour(i) for i in range(80)]
    assert len(set(colours)) == 80 and colours[0] == (0, 114, 178)
    assert ink_on((240, 228, 66)) == (0, 0, 0) and ink_on((0, 0, 120)) == (255, 255, 255)


def test_long_names_are_cut_in_the_middle():
    assert shorten("short") == "short"
    assert shorten("abcdefghijkl", 7) == "abc…jkl" and len(shorten("x" * 99)) == 24


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_grid_of_images_of_several_sizes(tmp_path, suffix):
    images = [grey(64, 64), grey(100, 40), grey(30, 200)] * 7
    boxes = [np.array([[5.0, 5, 20, 20]])] * 20 + [np.zeros((0, 4))]
    classes = [np.array([0])] * 20 + [np.zeros(0, int)]
    path = plot_images(
        images,
        boxes,
        classes,
        None,
        ["cell"],
        tmp_path / f"new/batch{suffix}",
        titles=["a.jpg"] * 21,
    )
    sheet = cv2.imread(str(path))
    assert sheet.shape[1] == 4 * 500 + 5 * 6 and [p.name for p in path.parent.iterdir()] == [
        path.name
    ]
    again = plot_images(
        images, boxes, classes, None, ["cell"], tmp_path / f"again{suffix}", titles=["a.jpg"] * 21
    )
    assert again.read_bytes() == path.read_bytes()


def test_a_grid_of_one_none_and_with_scores(tmp_path):
    one = plot_images(
        [grey()],
        [np.array([[9, 9, 50, 50.0]])],
        [np.array([0])],
        [np.array([0.5])],
        ["a"],
        tmp_path / "1.png",
    )
    assert cv2.imread(str(one)).shape == (640 + 12, 640 + 12, 3)
    assert plot_images([], [], [], None, [], tmp_path / "0.png").exists()


def test_an_unknown_kind_of_picture_is_named(tmp_path):
    with pytest.raises(DataError, match="'.xyz'.*Use .jpg or .png"):
        plot_images([grey()], [np.zeros((0, 4))], [np.zeros(0)], None, [], tmp_path / "a.xyz")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_plots_does_not_import_matplotlib():
    code = "import sys, engine.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
