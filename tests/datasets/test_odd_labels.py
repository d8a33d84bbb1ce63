"""Labels that stand out: boxes unlike all others of their class, rare classes, labels that a model
contradicts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.datasets.findings import Findings
from engine.datasets.label_errors import LabelErrors
from engine.datasets.outliers import report_imbalance, report_outliers
from engine.types import Detections, ImageRecord


def records_of(
    boxes: list[list[float]], classes: list[int], size=(1000, 1000)
) -> list[ImageRecord]:
    """One box an image."""
    return [
        ImageRecord(
            Path("x"),
            f"{k:064x}",
            size,
            np.array([box], np.float64),
            np.array([index]),
            "train",
            name=f"{k}.png",
        )
        for k, (box, index) in enumerate(zip(boxes, classes, strict=True))
    ]


def test_boxes_unlike_all_others_of_their_class():
    random = np.random.default_rng(0)
    sides = random.uniform(90, 110, (60, 2))
    usual = [[0, 0, w, h] for w, h in sides]
    odd = [
        [0, 0, 400, 400],
        [0, 0, 400, 25],
    ]  # four times as large; sixteen times as wide as high, of usual area
    findings = Findings.with_policies({})
    report_outliers(["cat"], records_of(usual + odd, [0] * 62), findings)
    assert findings.counts == {"size_outlier": 1, "aspect_outlier": 1}
    assert "measures 40.0% of the image's side, its class 10.0% (median)" in str(
        findings.examples["size_outlier"][0]
    )
    assert "is 16.00 times as wide as high, its class 1.0" in str(
        findings.examples["aspect_outlier"][0]
    )


def test_few_boxes_and_boxes_all_alike_are_no_outliers():
    findings = Findings.with_policies({})
    report_outliers(
        ["cat"], records_of([[0, 0, 10, 10]] * 9 + [[0, 0, 900, 900]], [0] * 10), findings
    )
    report_outliers(
        ["cat"], records_of([[0, 0, 10, 10]] * 50 + [[0, 0, 11, 10]], [0] * 51), findings
    )
    empty = ImageRecord(Path("x"), "0", (9, 9), np.zeros((0, 4)), np.zeros(0, np.int64))
    report_outliers(["cat"], [empty], findings)
    assert findings.counts == {}


def test_class_imbalance():
    findings = Findings.with_policies({})
    report_imbalance(
        ["a", "b", "c", "d"],
        records_of([[0, 0, 9, 9]] * 32, [0] * 21 + [1] * 2 + [2] * 9),
        findings,
    )
    details = [finding.detail for finding in findings.examples["class_imbalance"]]
    assert details == ["class 'b' has 2 boxes, 'a' has 21"], (
        "2.1 is just below a tenth; d has none, which is unused_class"
    )
    report_imbalance(["a"], records_of([], []), findings)
    assert findings.counts == {"class_imbalance": 1}


# --- label errors ---------------------------------------------------------------------------------


def seen(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, classes = zip(*rows) if rows else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int64),
    )


def contradictions(detections: Detections, crowd: bool = False) -> list[str]:
    """One cat at [10, 10, 50, 50]; the model counts classes the other way round, and knows a
    cow.
    """
    record = records_of([[10, 10, 50, 50]], [0])[0]
    if crowd:
        record = ImageRecord(**{**vars(record), "crowd": np.array([True])})
    findings = Findings.with_policies({})
    errors = LabelErrors(["cat", "dog"])
    errors.add(record, detections, {0: 1, 1: 0})
    errors.report(findings)
    return [finding.detail for finding in findings.examples.get("label_error", [])]


DOG, CAT, COW = 0, 1, 2  # in the model


def test_what_counts_as_a_contradiction():
    agrees = ([11, 10, 50, 51], 0.95, CAT)
    assert contradictions(seen(agrees)) == []
    assert contradictions(seen(([11, 10, 50, 51], 0.95, DOG))) == [
        "labelled 'cat', the model sees 'dog' (0.95)"
    ]
    assert contradictions(seen(agrees, ([60, 60, 90, 90], 0.9, DOG))) == [
        "no label where the model sees 'dog' (0.90)"
    ]
    assert contradictions(seen()) == ["'cat': the model sees nothing there"]


def test_what_does_not():
    agrees = ([11, 10, 50, 51], 0.95, CAT)
    assert contradictions(seen(agrees, ([60, 60, 90, 90], 0.79, DOG))) == [], "not sure enough"
    assert contradictions(seen(agrees, ([60, 60, 90, 90], 0.99, COW))) == [], (
        "a class the dataset does not know"
    )
    assert contradictions(seen(([12, 12, 50, 50], 0.06, DOG))) == [], "a doubt is no contradiction"
    assert contradictions(seen(([12, 12, 30, 30], 0.9, CAT)), crowd=True) == [], (
        "somewhere in a crowd"
    )


def test_the_most_confident_contradiction_comes_first():
    both = seen(([11, 10, 50, 51], 0.85, DOG), ([60, 60, 90, 90], 0.97, DOG))
    assert contradictions(both) == [
        "no label where the model sees 'dog' (0.97)",
        "labelled 'cat', the model sees 'dog' (0.85)",
    ]
