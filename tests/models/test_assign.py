"""Task-aligned assignment: a case worked out by hand, and what must hold for any."""

import pytest
import torch

from engine.boxes import ciou
from engine.models.yolov8.assign import assign
from engine.models.yolov8.network import anchor_points

POINTS, STRIDES = anchor_points([(8, 8), (4, 4), (2, 2)], (8, 16, 32), "cpu")
POINTS = POINTS * STRIDES  # pixels of a 64 x 64 input
A, C = len(POINTS), 3


def case(seed, b=3, m=4):
    g = torch.Generator().manual_seed(seed)
    scores = torch.rand(b, A, C, generator=g)
    half = 4 + 12 * torch.rand(b, A, 4, generator=g)
    boxes = torch.cat((POINTS - half[..., :2], POINTS + half[..., 2:]), -1)
    low = 40 * torch.rand(b, m, 2, generator=g)
    target_boxes = torch.cat((low, low + 4 + 20 * torch.rand(b, m, 2, generator=g)), -1)
    classes = torch.randint(0, C, (b, m), generator=g)
    return scores, boxes, POINTS, classes, target_boxes, torch.ones(b, m, dtype=torch.bool)


def slow(scores, boxes, points, classes, target_boxes, is_target, topk, least_side=0):
    """One image, in loops, straight from the words of the notes."""
    wanted, u, t, alpha, beta = {}, {}, {}, 0.5, 6.0
    for j, box in enumerate(target_boxes.tolist()):
        if not is_target[j]:
            continue
        middle, side = (
            ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2),
            (
                max(box[2] - box[0], least_side),
                max(box[3] - box[1], least_side),
            ),
        )
        inside = [
            k
            for k, point in enumerate(points.tolist())
            if all(abs(p - m) < s / 2 for p, m, s in zip(point, middle, side, strict=True))
        ]
        for k in inside:
            u[j, k] = max(float(ciou(target_boxes[j], boxes[k])), 0.0)
            t[j, k] = float(scores[k, classes[j]]) ** alpha * u[j, k] ** beta
        for k in sorted(inside, key=lambda k: -t[j, k])[:topk]:
            if t[j, k] > 0:
                wanted.setdefault(k, []).append(j)
    chosen = {}
    for k, by in wanted.items():
        containing = [j for j, other in u if other == k]
        chosen[k] = by[0] if len(by) == 1 else max(containing, key=lambda j: u[j, k])
    soft = torch.zeros_like(scores)
    for k, j in chosen.items():
        mine = [other for other, owner in chosen.items() if owner == j]
        scale = max(u[j, o] for o in mine) / (max(t[j, o] for o in mine) + 1e-9)
        soft[k, classes[j]] = t[j, k] * scale
    return chosen, soft


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("topk", [3, 10])
@pytest.mark.parametrize("least_side", [0.0, 16.0])
def test_it_agrees_with_the_slow_reference(seed, topk, least_side):
    inputs = case(seed)
    found = assign(*inputs, topk=topk, least_side=least_side)
    scores, boxes, points, classes, target_boxes, is_target = inputs
    for i in range(len(scores)):
        owner, soft = slow(
            scores[i],
            boxes[i],
            points,
            classes[i],
            target_boxes[i],
            is_target[i],
            topk,
            least_side,
        )
        assert found.foreground[i].nonzero()[:, 0].tolist() == sorted(owner)
        assert all(found.target[i, k] == j for k, j in owner.items())
        torch.testing.assert_close(found.scores[i], soft, rtol=1e-4, atol=1e-6)
        for k, j in owner.items():
            assert torch.equal(found.boxes[i, k], target_boxes[i, j])


def test_by_hand_two_points_in_one_target():
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]])
    target = torch.tensor([[[0.0, 0.0, 16.0, 8.0]]])
    boxes = torch.tensor(
        [[[0.0, 0, 16, 8], [0.0, 0, 8, 8], [0.0, 0, 16, 8]]]
    )  # exact, half, exact but outside
    scores = torch.full((1, 3, 1), 0.25)
    found = assign(
        scores,
        boxes,
        points,
        torch.zeros(1, 1, dtype=torch.int64),
        target,
        torch.ones(1, 1, dtype=torch.bool),
    )
    assert found.foreground.tolist() == [[True, True, False]]
    # The best point's u is 1 and its t the largest, so its soft target is 1; the other's is
    # (u/1)^6, both scores equal.
    u = float(ciou(target[0, 0], boxes[0, 1]))
    assert found.scores[0, :, 0].tolist() == pytest.approx([1.0, u**6, 0.0], abs=1e-5)


def test_by_hand_a_small_target_may_be_learned_by_the_points_around_it():
    """5 x 4 px between four points at stride 8: none inside, four where its sides count as 16."""
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0], [20.0, 4.0]])
    target = torch.tensor([[[5.0, 6.0, 10.0, 10.0]]])
    scores = torch.full((1, 5, 1), 0.5)
    rest = (torch.zeros(1, 1).long(), target, torch.ones(1, 1).bool())
    boxes = target.expand(1, 5, 4)  # all find it
    assert not assign(scores, boxes, points, *rest).foreground.any()
    found = assign(scores, boxes, points, *rest, least_side=16)
    # about (7.5, 8): x from -0.5 to 15.5, y from 0 to 16
    assert found.foreground.tolist() == [[True, True, True, True, False]]
    assert torch.equal(found.boxes[0, 0], target[0, 0])  # learned as it is
    wide = torch.tensor([[[0.0, 6.0, 24.0, 10.0]]])  # only the short side counts as more
    found = assign(scores, wide.expand(1, 5, 4), points, rest[0], wide, rest[2], least_side=16)
    assert found.foreground.all()


def test_by_hand_a_contested_point_may_go_to_a_third_target():
    """Target 0 and 1 want point 0; target 2 fits its box best, but wants only its own point 1."""
    points = torch.tensor([[4.0, 4.0], [6.0, 6.0]])
    target = torch.tensor([[[0.0, 0, 9, 9], [0.0, 0, 10, 10], [0.0, 0, 8, 8]]])
    boxes = torch.tensor([[[0.0, 0, 8, 8], [0.0, 0, 8, 8]]])
    scores = torch.tensor([[[0.9, 0.1], [0.01, 0.9]]])  # point 0 is of class 0, point 1 of class 1
    classes = torch.tensor([[0, 0, 1]])
    found = assign(scores, boxes, points, classes, target, torch.ones(1, 3).bool(), topk=1)
    assert found.target[0].tolist() == [2, 2] and found.foreground.all()
    assert found.scores[0, :, 0].tolist() == [0.0, 0.0]
    weaker = (0.1 / 0.9) ** 0.5  # of t, at equal u
    assert found.scores[0, :, 1].tolist() == pytest.approx([weaker, 1.0], abs=1e-5)


def test_batching_changes_nothing():
    inputs = case(7)
    whole = assign(*inputs)
    for i in range(3):
        alone = assign(*(x if x is POINTS else x[i : i + 1] for x in inputs))
        assert all(torch.equal(a[i], b[0]) for a, b in zip(whole[:3], alone[:3], strict=True))
        torch.testing.assert_close(
            whole.scores[i], alone.scores[0]
        )  # powers may differ in the last bit


def test_padding_and_the_order_of_targets_change_nothing():
    scores, boxes, points, classes, target_boxes, is_target = case(3)
    plain = assign(scores, boxes, points, classes, target_boxes, is_target)
    padded = assign(
        scores,
        boxes,
        points,
        torch.cat((classes, torch.zeros(3, 2, dtype=torch.int64)), 1),
        torch.cat((target_boxes, torch.tensor([0.0, 0, 64, 64]).expand(3, 2, 4)), 1),
        torch.cat((is_target, torch.zeros(3, 2, dtype=torch.bool)), 1),
    )
    turned = assign(scores, boxes, points, classes.flip(1), target_boxes.flip(1), is_target)
    for other in (padded, turned):
        assert torch.equal(plain.foreground, other.foreground)
        torch.testing.assert_close(plain.scores, other.scores)


@pytest.mark.parametrize("m", [0, 2])
def test_no_targets_is_all_background(m):
    scores, boxes, points, *_ = case(0)
    found = assign(
        scores,
        boxes,
        points,
        torch.zeros(3, m, dtype=torch.int64),
        torch.zeros(3, m, 4),
        torch.zeros(3, m, dtype=torch.bool),
    )
    assert not found.foreground.any() and not found.scores.any()


def test_soft_targets_never_exceed_one_and_reach_the_best_overlap():
    found = assign(*case(11))
    assert 0 < found.scores.max() <= 1 + 1e-6
    assert ((found.scores > 0).sum(-1) <= 1).all()
