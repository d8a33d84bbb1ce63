"""The loss: its terms by hand, invariances, and that it goes down on one batch."""

import math

import pytest
import torch

from engine.models.yolov8 import build_model
from engine.models.yolov8.decode import decode, expected_distances
from engine.models.yolov8.loss import (
    DetectionLoss,
    focal_distances,
    padded_targets,
    xyxy_to_distances,
)
from engine.models.yolov8.network import BINS
from engine.types import Batch


def batch(boxes, classes, index, images=2, size=(64, 96)):
    return Batch(
        img=torch.rand(images, 3, *size, generator=torch.Generator().manual_seed(0)),
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        cls=torch.tensor(classes, dtype=torch.float32).reshape(-1, 1),
        batch_idx=torch.tensor(index, dtype=torch.float32),
    )


TWO = ([[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.3, 0.4], [0.7, 0.6, 0.2, 0.5]], [0, 1, 0], [0, 0, 1])


def test_distribution_focal_loss_by_hand():
    logits = torch.zeros(1, 4 * BINS)
    assert focal_distances(logits, torch.full((1, 4), 3.25)).item() == pytest.approx(math.log(BINS))
    sure = torch.full((1, 4, BINS), -1e4)
    sure[..., 3], sure[..., 4] = math.log(0.75), math.log(0.25)
    expected = -(
        0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    )  # the entropy: no distribution does better
    assert focal_distances(sure.reshape(1, -1), torch.full((1, 4), 3.25)).item() == pytest.approx(
        expected, abs=1e-5
    )
    assert expected_distances(sure.reshape(1, -1)).tolist() == [pytest.approx([3.25] * 4)]


def test_distances_are_clamped_to_the_bins():
    far = xyxy_to_distances(torch.tensor([[-50.0, 2.0, 50.0, 8.0]]), torch.tensor([[1.0, 4.0]]))
    assert far.tolist() == [pytest.approx([14.99, 2.0, 14.99, 4.0])]


def test_padded_targets_by_hand():
    three = batch(
        [[0.5, 0.5, 1, 1], [0.25, 0.5, 0.5, 0.5], [0.5, 0.5, 0.2, 0.2]],
        [2, 1, 0],
        [2, 0, 2],
        images=3,
    )
    classes, boxes, real = padded_targets(three, 3, (64, 96))
    assert real.tolist() == [[True, False], [False, False], [True, True]]
    assert classes.tolist() == [[1, 0], [0, 0], [2, 0]]
    assert boxes[2, 0].tolist() == [0, 0, 96, 64] and boxes[0, 0].tolist() == [0, 16, 48, 48]


def test_items_add_up_to_the_loss_per_image():
    model, data = build_model("yolov8n", 2), batch(*TWO)
    loss, items = DetectionLoss()(model(data["img"]), data)
    assert loss.item() == pytest.approx(2 * items.sum().item(), rel=1e-6)
    assert items.shape == (3,) and not items.requires_grad and loss.requires_grad


def test_mixed_precision_around_it_does_not_round_the_boxes():
    model, data = build_model("yolov8n", 2), batch(*TWO)
    preds = model(data["img"])
    wanted = DetectionLoss()(preds, data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = DetectionLoss()(preds, data)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def test_each_gain_scales_its_own_term():
    model, data = build_model("yolov8n", 2).eval(), batch(*TWO)
    preds = model(data["img"])
    one = DetectionLoss(box=1, cls=1, dfl=1)(preds, data)[1]
    torch.testing.assert_close(
        DetectionLoss(box=2, cls=3, dfl=5)(preds, data)[1], one * torch.tensor([2.0, 3, 5])
    )


def test_the_order_of_boxes_does_not_matter():
    model, data = build_model("yolov8n", 2).eval(), batch(*TWO)
    turned = batch(*(list(reversed(part)) for part in TWO))
    preds = model(data["img"])
    torch.testing.assert_close(DetectionLoss()(preds, data)[0], DetectionLoss()(preds, turned)[0])


def test_no_boxes_at_all_still_teaches_the_background():
    model, data = build_model("yolov8n", 2), batch([], [], [])
    loss, items = DetectionLoss()(model(data["img"]), data)
    loss.backward()
    assert items[0] == 0 and items[2] == 0 and items[1] > 0
    assert model.head.cls[0][-1].bias.grad.abs().sum() > 0


def test_class_weights_scale_the_class_term_of_their_class():
    model, data = build_model("yolov8n", 2).eval(), batch(*TWO)
    preds = model(data["img"])
    plain = DetectionLoss()(preds, data)[1]
    torch.testing.assert_close(
        DetectionLoss(class_weights=torch.tensor([3.0, 3.0]))(preds, data)[1][1], 3 * plain[1]
    )
    heavier = DetectionLoss(class_weights=torch.tensor([1.0, 3.0]))(preds, data)[1]
    assert plain[1] < heavier[1] < 3 * plain[1] and heavier[0] == plain[0]


def test_one_batch_is_learnt_by_heart():
    torch.manual_seed(0)
    model, data, loss_of = build_model("yolov8n", 2), batch(*TWO), DetectionLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    first = None
    for _ in range(60):
        loss, _ = loss_of(model(data["img"]), data)
        first = first or loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < first / 4
    boxes, scores = decode(model(data["img"]))
    best = boxes[0, scores[0, :, 0].argmax()]
    assert torch.allclose(best, torch.tensor([24.0, 16, 72, 48]), atol=4)
