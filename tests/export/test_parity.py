"""The comparison of an exported file with PyTorch, on answers written by hand."""

import pytest
import torch

from engine.boxes import xywh_to_xyxy
from engine.detect.runtime import Runtime
from engine.errors import ExportError
from engine.export import parity
from engine.export.parity import BOX_PX, SCORE, Parity, check_parity


def candidates(raw):
    """(B, 4 + C, N), boxes as xywh -> boxes (B, N, 4) xyxy, scores (B, N, C)."""
    return xywh_to_xyxy(raw[:, :4].mT), raw[:, 4:].mT


def answers(raw, **other):
    """A runtime that always says `raw`."""
    settings = {"names": ("a",), "imgsz": (32, 32), "device": torch.device("cpu"), **other}
    return Runtime(lambda images: candidates(raw), **settings)


def raw_of(*rows):
    """(1, 5, A) from rows of x, y, w, h, score."""
    return torch.tensor(rows, dtype=torch.float32).T[None]


FAR_APART = ((10, 10, 8, 8, 0.9), (100, 100, 8, 8, 0.6), (200, 10, 8, 8, 0.1))


def compare(ours, theirs, **other):
    return check_parity(
        answers(ours), answers(theirs, **other), [torch.zeros(1, 3, 32, 32)], "a.onnx"
    )


def test_differences_are_the_largest_over_all_points():
    ours, theirs = raw_of(*FAR_APART), raw_of(*FAR_APART)
    theirs[0, 2, 2] += 0.05  # a box below the confidence counts too
    theirs[0, 4, 0] -= 0.0005
    theirs[0, 0, 1] += 0.02
    assert compare(ours, theirs).metrics() == {
        "images": 1,
        "max_box_px": 0.05,
        "max_score": 0.0005,
        "detections": 2,
        "max_detection_px": 0.02,
        "flips": 0,
    }


@pytest.mark.parametrize(
    "row, by, message",
    [(0, 1.5 * BOX_PX, "boxes by 0.15 px"), (4, 1.5 * SCORE, "scores by 0.0015")],
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_difference_beyond_the_tolerance_fails_with_both_numbers(row, by, message, sign):
    theirs = raw_of(*FAR_APART)
    theirs[0, row, 1] += sign * by
    with pytest.raises(ExportError, match=f"a.onnx: .*{message}"):
        compare(raw_of(*FAR_APART), theirs)


def test_what_is_not_finite_and_other_shapes_fail():
    good, bad = raw_of(*FAR_APART), raw_of(*FAR_APART)
    bad[0, 0, 0] = torch.nan
    with pytest.raises(ExportError, match="boxes by nan px"):
        compare(good, bad)
    with pytest.raises(ExportError, match="weights are damaged"):
        compare(bad, good)
    shapes = (
        r"boxes \(1, 2, 4\) and scores \(1, 2, 1\) where PyTorch gives \(1, 3, 4\) and \(1, 3, 1\)"
    )
    with pytest.raises(ExportError, match=shapes):
        compare(good, good[..., :2])
    with pytest.raises(ExportError, match="stride 16, the weights say 32"):
        compare(good, good, stride=16)
    with pytest.raises(ExportError, match="needs_nms False, the weights say True"):
        compare(good, good, meta={"needs_nms": False})


def test_rounding_at_a_threshold_is_no_failure():
    above, below = (
        raw_of((10, 10, 8, 8, 0.9), (50, 50, 8, 8, 0.2502)),
        raw_of((10, 10, 8, 8, 0.9), (50, 50, 8, 8, 0.2498)),
    )
    assert compare(above, below).flips == compare(below, above).flips == 1
    # Two boxes over each other change places when their scores do.
    first = raw_of((10, 10, 8, 8, 0.7001), (10.5, 10, 8, 8, 0.7))
    assert compare(first, raw_of((10, 10, 8, 8, 0.7), (10.5, 10, 8, 8, 0.7001))).flips == 2
    # Boxes of width 10 moved by 1.764 and 1.768: IoU .7001 and .6997.
    over, under = (
        raw_of((10, 10, 10, 9, 0.9), (10 + moved, 10, 10, 9, 0.8)) for moved in (1.764, 1.768)
    )
    assert compare(over, under).flips == compare(under, over).flips == 1


def compare_detections(ours, theirs):
    so_far = Parity()
    parity._compare_detections(candidates(ours), candidates(theirs), so_far, "a.onnx")
    return so_far


def test_a_detection_without_counterpart_fails():
    """Raw outputs that agree cannot get here; the comparison after NMS must not rely on it."""
    two, one = raw_of(*FAR_APART[:2]), raw_of(FAR_APART[0], (100, 100, 8, 8, 0.2))
    moved = raw_of(FAR_APART[0], (101, 100, 8, 8, 0.6))
    none = two * torch.tensor([1, 1, 1, 1, 0.0])[:, None]
    for ours, theirs, counts in (
        (two, one, "2 .* file 1; 1"),
        (one, two, "1 .* file 2; 1"),
        (two, none, "2 .* file 0; 2"),
    ):
        with pytest.raises(ExportError, match=f"PyTorch has {counts} of them have no counterpart"):
            compare_detections(ours, theirs)
    so_far = compare_detections(two, moved)
    assert so_far.flips == 2  # over each other: NMS would have kept either


def test_where_nothing_is_confident_the_best_are_compared():
    weak = raw_of((10, 10, 8, 8, 0.02), (50, 50, 8, 8, 0.015), (90, 90, 8, 8, 0.001))
    assert compare(weak, weak).detections == 2


# -- a network that needs no NMS: its candidates are detections ------------------------------------


def compare_final(ours, theirs):
    final = {"meta": {"needs_nms": False}}
    return check_parity(
        answers(ours, **final), answers(theirs, **final), [torch.zeros(1, 3, 32, 32)], "a.onnx"
    )


def test_final_detections_are_compared_as_sets():
    """Equal scores may change places, and nothing is suppressed."""
    over = ((10, 10, 8, 8, 0.9), (10, 10, 8, 8.05, 0.9), (90, 90, 8, 8, 0.3))
    found = compare_final(raw_of(*over), raw_of(*over[::-1]))
    assert (found.detections, found.flips, found.max_score) == (3, 0, 0)
    moved = raw_of(over[1], (10.02, 10, 8, 8, 0.9004), over[2])
    found = compare_final(raw_of(*over), moved).metrics()
    assert (found["max_detection_px"], found["max_score"], found["flips"]) == (0.02, 0.0004, 0)


@pytest.mark.parametrize(
    "second",
    [
        (100, 100, 8, 8, 0.6 + 1.5 * SCORE),
        (100 + 2.5 * BOX_PX, 100, 8, 8, 0.6),
        (100, 100, 8, 8, torch.nan),
    ],
    ids=["score", "box", "nan"],
)
def test_a_final_detection_that_differs_fails(second):
    last = (200, 10, 8, 8, 0.1)
    ours, theirs = raw_of(FAR_APART[0], FAR_APART[1], last), raw_of(FAR_APART[0], second, last)
    for one, other in ((ours, theirs), (theirs, ours)):
        with pytest.raises(ExportError, match="no counterpart|not finite|on one side only"):
            compare_final(one, other)


def test_a_final_detection_is_missed_unless_it_lies_at_the_threshold():
    """The network's own threshold is not known: the weakest detection may be on one side only."""
    three, two = raw_of(*FAR_APART), raw_of(*FAR_APART[:2])
    assert compare_final(three, two).flips == compare_final(two, three).flips == 1
    with pytest.raises(ExportError, match="PyTorch has 3 detections.*file 2; 1 of them"):
        compare_final(three, raw_of(FAR_APART[0], FAR_APART[2]))
    none = raw_of(*FAR_APART)[..., :0]
    assert compare_final(none, none).detections == 0
