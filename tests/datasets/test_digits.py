"""The demo dataset: the same bytes for the same seed, honest splits, boxes tight around the ink,
and easy to see.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from engine.datasets import demo_digits
from engine.datasets.demo_digits import (
    CONTRAST,
    FRACTIONS,
    NAMES,
    draw_digit,
    enlarge,
    open_reader,
    sample,
)
from engine.errors import ConfigError
from engine.types import SPLITS

SMALL = {"train": 12, "val": 6, "test": 6}


@pytest.fixture(scope="module")
def images():
    return list(open_reader({"train": 60, "val": 30, "test": 30}, 0))


def decode(image) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(image.content, np.uint8), cv2.IMREAD_COLOR)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    first, again, other = (list(open_reader(SMALL, seed)) for seed in (3, 3, 4))
    assert first == again
    assert all(a.content != b.content for a, b in zip(first, other))


def test_an_image_depends_on_its_number_alone():
    """Asking for more images of a split changes none of those that were there."""
    few, many = (list(open_reader({**SMALL, "train": n}, 0)) for n in (12, 14))
    by_name = {image.name: image for image in many}
    assert all(by_name[image.name] == image for image in few)


def test_counts_and_sizes_are_options():
    reader = open_reader({**SMALL, "size": 96, "max_px": 40, "max_digits": 3}, 0)
    found = list(reader)
    assert reader.total == len(found) == 24 and [
        sum(i.split == s for i in found) for s in SPLITS
    ] == [12, 6, 6]
    assert all(decode(image).shape == (96, 96, 3) and 1 <= len(image.rows) <= 3 for image in found)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"trian": 4}, "unknown key 'trian'. Did you mean 'train'"),
        ({"train": 0}, "greater than or equal to 1"),
        ({"size": 64}, "max_px must be at most"),
        ({"min_px": 50, "max_px": 40}, "must not be larger"),
        ({"train": "many"}, "valid integer"),
    ],
)
def test_wrong_options_are_explained(options, message):
    with pytest.raises(ConfigError, match=message):
        open_reader(options, 0)


def test_no_scan_and_no_stretch_of_a_photograph_is_shared_between_splits():
    from sklearn.datasets import load_digits

    reader = open_reader(SMALL, 0)
    scans = {split: np.concatenate(reader._scans[split]) for split in SPLITS}
    assert sum(map(len, scans.values())) == len(load_digits().images) == 1797
    hashes = {split: {scan.tobytes() for scan in scans[split]} for split in SPLITS}
    assert not (
        hashes["train"] & hashes["test"]
        or hashes["train"] & hashes["val"]
        or hashes["val"] & hashes["test"]
    )
    for split, fraction in FRACTIONS.items():
        assert abs(len(scans[split]) / 1797 - fraction) < 0.01
    stretches = sorted(demo_digits._stretches(640).values())
    assert stretches == [(0, 384), (384, 512), (512, 640)]


def test_boxes_are_within_the_image_and_hardly_overlap(images):
    for image in images:
        boxes = [row.box for row in image.rows]
        assert boxes and all(
            0 <= x1 < x2 <= 160 and 0 <= y1 < y2 <= 160 for x1, y1, x2, y2 in boxes
        )
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            for a1, b1, a2, b2 in boxes[:i]:
                shared = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
                assert shared <= 0.05 * min((x2 - x1) * (y2 - y1), (a2 - a1) * (b2 - b1))
    heights = [row.box[3] - row.box[1] for image in images for row in image.rows]
    assert 16 < min(heights) and max(heights) < 80 and np.mean(heights) > 30
    assert {row.name for image in images for row in image.rows} == set(NAMES)


def test_the_box_is_that_of_the_ink():
    """A scan with one full pixel: its ink touches all four sides of what is cut out."""
    rng = np.random.default_rng(0)
    for i in range(20):
        scan = np.zeros((1, 8, 8))
        scan[0, 1:7, 2 + i % 3 : 5] = 1
        ink = draw_digit(enlarge(scan)[0], 40, rng)
        assert all(
            side.max() >= demo_digits.BOX_INK for side in (ink[0], ink[-1], ink[:, 0], ink[:, -1])
        )
        assert 25 < ink.shape[0] < 55


def test_ink_stands_out_from_what_is_under_it():
    """On a plain background the ink of every image differs from it by a good part of the grey
    scale.
    """
    for level in (0, 60, 128, 200, 255):
        for seed in range(10):
            image = np.full((40, 40, 3), float(level))
            demo_digits._write(image, np.ones((40, 40)), (0, 0), np.random.default_rng(seed))
            assert abs(image.mean() - level) > 0.7 * CONTRAST[0]


def test_sampling_by_hand():
    image = np.array([[0.0, 1], [2, 3]])
    y, x = np.array([0.0, 0.5, 0, -0.5, 5]), np.array([1.0, 0.5, 0.25, 0, 0])
    assert sample(image, y, x).tolist() == [1, 1.5, 0.25, 0, 0]


def test_scikit_learn_is_imported_only_when_digits_are_made():
    """Its import takes seconds; everybody else must do without."""
    import ast

    for file in (Path(demo_digits.__file__).parents[1]).rglob("*.py"):
        for node in ast.parse(file.read_text()).body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [getattr(node, "module", "") or ""]
            )
            assert not any(name.split(".")[0] == "sklearn" for name in names), file
