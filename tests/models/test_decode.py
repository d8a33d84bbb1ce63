"""From logits to boxes, and NMS: by hand and against torchvision's plain form."""

import ast
import functools
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.models.nms import nms, nms_of_groups
from engine.models.yolov8 import build_model
from engine.models.yolov8.decode import (
    decode,
    distances_to_xyxy,
    expected_distances,
)
from engine.models.yolov8.family import YOLOv8Family
from engine.models.yolov8.network import BINS, Preds, anchor_points

pyfunc_file = Path(__file__).parents[2] / "engine" / "registry" / "pyfunc_model.py"


def test_a_point_with_known_distances_gives_the_known_box():
    points, strides = anchor_points([(2, 2)], (8,), "cpu")
    logits = torch.full((1, 4, 4, BINS), -1e4)
    for side, bin_ in enumerate((1, 2, 3, 4)):
        logits[..., side, bin_] = 0
    boxes, scores = decode(Preds(logits.reshape(1, 4, -1), torch.zeros(1, 4, 2), points, strides))
    assert boxes[0, 3].tolist() == [(1.5 - 1) * 8, (1.5 - 2) * 8, (1.5 + 3) * 8, (1.5 + 4) * 8]
    assert (scores == 0.5).all()


def test_distances_round_trip():
    points = torch.rand(7, 2) * 10
    distances = torch.rand(7, 4) * 5
    boxes = distances_to_xyxy(distances, points)
    torch.testing.assert_close(
        torch.cat((points - boxes[:, :2], boxes[:, 2:] - points), 1), distances
    )
    assert expected_distances(torch.zeros(4 * BINS)).tolist() == pytest.approx([7.5] * 4)


def test_the_export_output_is_the_decoded_one():
    model = build_model("yolov8n", 2).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        exported = YOLOv8Family().export_module(model, (64, 64))(x)
        boxes, scores = decode(model(x))
    assert boxes.shape == (2, 84, 4) and scores.shape == (2, 84, 2)
    torch.testing.assert_close(exported[0], boxes, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(exported[1], scores)


BOXES = torch.tensor([[[0.0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60], [0, 0, 10, 10]]])
SCORES = torch.tensor([[[0.9, 0.0], [0.8, 0.3], [0.2, 0.7], [0.1, 0.6]]])


def found(**options):
    boxes, scores, classes = nms(BOXES, SCORES, **{"conf": 0.25, "iou": 0.5, **options})[0]
    return list(zip([round(s, 3) for s in scores.tolist()], classes.tolist(), boxes[:, 0].tolist()))


def test_doubles_go_within_a_class_only():
    # (score, class, x1): 0.8 overlaps 0.9 in class 0; 0.3 overlaps 0.6 in class 1; 0.6 lies on 0.9
    # but is another class.
    assert found() == [(0.9, 0, 0.0), (0.7, 1, 50.0), (0.6, 1, 0.0)]
    assert found(agnostic=True) == [(0.9, 0, 0.0), (0.7, 1, 50.0)]


def test_single_label_class_filter_limit_and_threshold():
    assert found(multi_label=False, iou=1.0) == [
        (0.9, 0, 0.0),
        (0.8, 0, 1.0),
        (0.7, 1, 50.0),
        (0.6, 1, 0.0),
    ]
    assert found(iou=1.0)[-1] == (0.3, 1, 1.0)
    assert found(classes=[1]) == [(0.7, 1, 50.0), (0.6, 1, 0.0)]
    assert found(max_det=1) == [(0.9, 0, 0.0)]
    assert found(conf=0.95) == []


@pytest.mark.parametrize("seed", range(12))
def test_looking_at_the_best_candidates_first_changes_nothing(seed, monkeypatch):
    """Against all at once: many classes and one, equal scores, fewer and more boxes than are looked
    at first.
    """
    from torchvision.ops import batched_nms

    import engine.models.nms as module

    monkeypatch.setattr(module, "FIRST_CANDIDATES", 8)
    generator = torch.Generator().manual_seed(seed)
    count, classes = (5, 60, 400)[seed % 3], 1 + seed % 4
    corner, size = (torch.rand(count, 2, generator=generator) * scale for scale in (60, 40))
    boxes, scores = (
        torch.cat((corner, corner + size + 4), 1),
        torch.rand(count, classes, generator=generator),
    )
    scores = (scores * 4).round() / 4 if seed % 2 else scores
    for most in (1, 7, 40, 1000):
        mine = nms(boxes[None], scores[None], 0.1, 0.5, max_det=most)[0]
        rows, kinds = (scores > 0.1).nonzero(as_tuple=True)
        values = scores[rows, kinds]
        order = values.argsort(descending=True, stable=True)
        keep = order[
            batched_nms(boxes[rows[order]], values[order], kinds[order], 0.5).sort().values[:most]
        ]
        for got, wanted in zip(mine, (boxes[rows[keep]], values[keep], kinds[keep]), strict=True):
            assert torch.equal(got, wanted)


@functools.cache
def nms_of_the_registered_model():
    """Its file stands alone and imports MLflow: the function as it is there."""
    source = Path(pyfunc_file).read_text(encoding="utf-8")
    (function,) = [node for node in ast.parse(source).body if getattr(node, "name", "") == "nms"]
    names = {"np": np}
    exec(compile(ast.Module([function], []), "pyfunc_model.py", "exec"), names)
    return names["nms"]


def greedy(boxes, scores, groups, iou):
    """By the definition, one box after the other, in fractions: nothing is rounded."""

    def overlap(a, b):
        w = min(a[2], b[2]) - max(a[0], b[0])
        h = min(a[3], b[3]) - max(a[1], b[1])
        area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
        common = max(w, 0) * max(h, 0)
        union = sum(area) - common
        return Fraction(common, union) if union else Fraction(0)

    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(groups[i] != groups[k] or overlap(boxes[i], boxes[k]) <= iou for k in kept):
            kept.append(i)
    return sorted(kept)


def test_classes_do_not_meet_below_zero_either():
    boxes = torch.tensor([[0, 0, 640, 640], [-600, -600, 40, 40]])  # of two classes
    keep = nms_of_groups(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.5)
    assert keep.tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(40))
def test_it_is_the_plain_greedy_rule_also_where_the_overlap_is_the_threshold(seed):
    rng = random.Random(seed)
    side, count = rng.choice((4, 10, 300)), rng.randint(0, 60)
    boxes = []
    for _ in range(count):
        x, y = rng.randint(-2 * side, side), rng.randint(-2 * side, side)
        boxes.append([x, y, x + rng.randint(0, side), y + rng.randint(0, side)])
    scores = [rng.choice((0.25, 0.5, 0.75, rng.random())) for _ in boxes]
    groups = [rng.randint(0, 3) for _ in boxes]
    tensors = (
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float64),
        torch.tensor(groups, dtype=torch.int64),
    )
    for iou in (Fraction(1, 2), Fraction(1, 3), Fraction(3, 5), Fraction(7, 10)):
        wanted = greedy(boxes, scores, groups, iou)
        assert nms_of_groups(*tensors, float(iou)).tolist() == wanted
        arrays = [tensor.numpy() for tensor in tensors]
        assert sorted(nms_of_the_registered_model()(*arrays, float(iou), 1000)) == wanted


def test_more_candidates_than_the_limit_keep_the_best(monkeypatch):
    import engine.models.nms as module

    monkeypatch.setattr(module, "CANDIDATES", 2)
    assert found() == [(0.9, 0, 0.0)]


def test_images_do_not_meet():
    both = nms(BOXES.expand(2, -1, -1), torch.stack((SCORES[0], torch.zeros(4, 2))), 0.25, 0.5)
    assert len(both) == 2 and len(both[0][0]) == 3 and len(both[1][0]) == 0
    assert both[1][0].shape == (0, 4)
