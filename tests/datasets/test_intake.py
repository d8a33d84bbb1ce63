"""Boxes that are there twice: what is found, reported once each, and that one image may have
very many.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from engine.datasets.findings import Findings
from engine.datasets.formats.base import Row, SourceImage
from engine.datasets.image_scan import Shape
from engine.datasets.label_checks import DUPLICATE_IOU, check_labels, iou_with

H, W = 1000, 2000


def repeats(
    boxes: np.ndarray,
    names: list[str] | None = None,
    policy: str = "warn",
    crowd: tuple[int, ...] = (),
):
    """[(earlier, later), ...] as found, and how many boxes are left; boxes are called by their
    number.
    """
    names = names or ["cat"] * len(boxes)
    named = enumerate(zip(names, boxes.tolist(), strict=True))
    rows = [Row(name, tuple(box), n in crowd, ref=str(n)) for n, (name, box) in named]
    findings = Findings.with_policies({"duplicate_box": policy}, keep=1 << 30)
    image = SourceImage("a.png", tuple(rows), "a.xml", size=(H, W))
    labels = check_labels(image, Shape((H, W), (H, W), 1), (), findings, tiny_px=0)
    texts = [found.detail for found in findings.examples.get("duplicate_box", ())]
    return [(int(text.rpartition(" ")[2]), int(text.partition(":")[0])) for text in texts], len(
        labels.boxes
    )


def by_all_pairs(
    boxes: np.ndarray, names: list[str], policy: str, crowd: tuple[int, ...]
) -> list[tuple[int, int]]:
    """The slow reference."""
    found: dict[int, int] = {}
    for i in range(len(boxes)):
        for j in range(i + 1, len(boxes)):
            same = (
                names[i] == names[j]
                and not {i, j} & set(crowd)
                and iou_with(boxes[i], boxes[j : j + 1])[0] > DUPLICATE_IOU
            )
            if same and j not in found and not (policy == "drop" and i in found):
                found[j] = i
    return sorted((i, j) for j, i in found.items())


@pytest.mark.parametrize("policy", ["warn", "drop"])
def test_each_box_that_repeats_one_is_reported_as_by_a_comparison_of_all_pairs(policy):
    rng = np.random.default_rng(0)
    some = 0
    for _ in range(20):
        centres, sides = rng.uniform(200, 800, (12, 2)), rng.uniform(1, 300, (12, 2))
        boxes = np.concatenate((centres - sides / 2, centres + sides / 2), 1)[
            rng.integers(0, 12, 60)
        ]
        boxes = (
            boxes + rng.normal(0, 0.03, boxes.shape) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        ).round(4)
        names, crowd = rng.choice(["cat", "dog"], 60).tolist(), (3, 17)
        expected = by_all_pairs(boxes, names, policy, crowd)
        found, left = repeats(boxes, names, policy, crowd)
        assert found == expected and left == 60 - len(expected) * (policy == "drop")
        some += len(expected)
    assert some > 200


def test_an_image_without_and_with_one_box():
    assert repeats(np.zeros((0, 4))) == ([], 0)
    assert repeats(np.array([[1, 1, 9, 9.0]])) == ([], 1)
    assert repeats(np.array([[1, 1, 9, 9.0]] * 2), crowd=(0, 1)) == ([], 2)


def test_a_thousand_equal_boxes_are_reported_once_each():
    found, _ = repeats(np.array([[1, 1, 9, 9.0]] * 1000))
    assert found == [(0, n) for n in range(1, 1000)]


def test_one_image_may_have_very_many_boxes():
    """A table of all pairs would take 72 MB for one number each."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 900, (3000, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(5, 60, (3000, 2))), 1)
    boxes[-1] = boxes[0] + 0.01
    tracemalloc.start()
    found, _ = repeats(boxes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (0, 2999) in found and peak < 20e6
