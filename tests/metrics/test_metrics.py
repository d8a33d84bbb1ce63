"""COCO AP against pycocotools, the rest against cases worked out by hand and against each other."""

import contextlib
import csv
import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from engine.errors import DataError
from engine.metrics import DetectionMetrics, coco_ap
from engine.metrics.curves import TRUE, match
from engine.metrics.image_matches import make_sample, overlaps
from engine.types import Detections, ImageRecord

BOX = [10.0, 10.0, 50.0, 50.0]
ELSEWHERE = [100.0, 100.0, 140.0, 140.0]


def record(boxes, classes, crowd=None, name="a"):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    crowd = None if crowd is None else np.array(crowd, bool)
    return ImageRecord(
        Path(f"/x/{name}.jpg"),
        f"sha-{name}",
        (200, 200),
        boxes,
        np.array(classes, np.int64),
        crowd=crowd,
    )


def detections(boxes, scores, classes):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes, np.array(scores, np.float32), np.array(classes, np.int64))


def random_case(
    seed, images=6, num_classes=4, most=12, size=300.0, used=None, ties=False, crowds=True, grid=0
):
    """Truth of all COCO sizes and detections that partly hit it; some images without one, the
    other, or both. With `grid`
    all corners are multiples of it: overlaps are then often equal, or exactly a threshold."""
    rng = np.random.default_rng(seed)
    used = used or range(num_classes)
    records, found = [], []
    for i in range(images):
        n, k = (int(rng.integers(0, m + 1)) * int(rng.random() > 0.2) for m in (most, 2 * most))
        corner = rng.uniform(0, size, (n, 2))
        boxes = np.concatenate((corner, corner + np.exp(rng.uniform(1, 5.3, (n, 2)))), 1)
        classes = rng.choice(list(used), n)
        crowd = rng.random(n) < 0.15 if crowds else None
        guess = rng.uniform(0, size, (k, 4))
        guess[:, 2:] = guess[:, :2] + np.exp(rng.uniform(1, 5.3, (k, 2)))
        kinds = rng.integers(0, num_classes, k)
        if n:
            near = rng.random(k) < 0.8
            source = rng.integers(0, n, k)
            noise = rng.normal(0, 0.08, (k, 4)) * np.tile(boxes[source, 2:] - boxes[source, :2], 2)
            guess[near], kinds[near] = (boxes[source] + noise)[near], classes[source[near]]
            guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 0.5)
        if grid:
            boxes, guess = (np.round(each / grid) * grid for each in (boxes, guess))
            boxes[:, 2:], guess[:, 2:] = (
                np.maximum(each[:, 2:], each[:, :2] + grid) for each in (boxes, guess)
            )
        scores = rng.integers(0, 5, k) / 4 if ties else rng.random(k)
        order = np.argsort(-scores, kind="stable")
        records.append(record(boxes, classes, crowd, f"{i:04d}"))
        found.append(detections(guess[order], scores[order], kinds[order]))
    return found, records


def pycocotools_scores(found, records, num_classes):
    """The twelve COCO metrics and a table per class, by the reference implementation, from its own
    JSON-like input.
    """

    def rows(boxes, classes, image, **more):
        boxes = np.asarray(boxes, np.float64)
        for j, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            yield {
                "image_id": image,
                "category_id": int(classes[j]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            } | {k: v[j] for k, v in more.items()}

    truth, results = [], []
    for i, (d, r) in enumerate(zip(found, records, strict=True), 1):
        crowd = [0] * len(r.classes) if r.crowd is None else [int(c) for c in r.crowd]
        truth += rows(r.boxes, r.classes, i, iscrowd=crowd)
        results += rows(d.boxes, d.classes, i, score=[float(s) for s in d.scores])
    for i, row in enumerate(truth, 1):
        row |= {"id": i, "area": row["bbox"][2] * row["bbox"][3]}
    with contextlib.redirect_stdout(io.StringIO()):
        gt, dt = COCO(), COCO()
        for index, annotations in ((gt, truth), (dt, results)):
            index.dataset = {
                "images": [{"id": i} for i in range(1, len(records) + 1)],
                "categories": [{"id": c + 1} for c in range(num_classes)],
                "annotations": annotations,
            }
            index.createIndex() if index is gt else None
        if results:
            dt = gt.loadRes(results)
        else:
            dt.createIndex()
        evaluation = COCOeval(gt, dt, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    per_class = {"ap": precision[..., 0, -1].mean((0, 1)), "ar": recall[..., 0, -1].mean(0)}
    per_class |= {
        "ap50": precision[0, ..., 0, -1].mean(0),
        "ap75": precision[5, ..., 0, -1].mean(0),
    }
    for i, area in enumerate(("small", "medium", "large"), 1):
        per_class |= {
            f"ap_{area}": precision[..., i, -1].mean((0, 1)),
            f"ar_{area}": recall[..., i, -1].mean(0),
        }
    return evaluation.stats, per_class


def difference_from_pycocotools(found, records, num_classes):
    """Our scores, and the largest difference of the twelve metrics and of every metric per class;
    None counts as -1.
    """
    scores = coco_ap(found, records, [f"c{i}" for i in range(num_classes)])
    stats, per_class = pycocotools_scores(found, records, num_classes)
    ours = [
        scores.map,
        scores.map50,
        scores.map75,
        scores.map_small,
        scores.map_medium,
        scores.map_large,
    ]
    ours += [
        scores.ar1,
        scores.ar10,
        scores.ar100,
        scores.ar_small,
        scores.ar_medium,
        scores.ar_large,
    ]
    pairs = [(ours, stats)] + [
        ([row[key] for row in scores.per_class], theirs) for key, theirs in per_class.items()
    ]
    worst = max(
        np.abs([-1 if v is None else v for v in mine] - np.asarray(theirs)).max()
        for mine, theirs in pairs
    )
    return scores, worst


def assert_equals_pycocotools(found, records, num_classes):
    scores, worst = difference_from_pycocotools(found, records, num_classes)
    assert worst <= 1e-9
    return scores


def test_equal_to_pycocotools_in_three_hundred_random_cases():
    """One to eight images, one to five classes; with and without crowds, equal scores, equal
    overlaps, silent classes.
    """
    worst = {}
    for seed in range(300):
        classes = 1 + seed % 5
        options = {"ties": seed % 2 == 0, "crowds": seed % 3 > 0, "grid": (0, 4, 20)[seed // 5 % 3]}
        used = range(0, classes, 2) if seed % 7 == 0 else None
        case = random_case(seed, images=1 + seed % 8, num_classes=classes, used=used, **options)
        worst[seed] = difference_from_pycocotools(*case, classes)[1]
    bad = {seed: value for seed, value in worst.items() if not value <= 1e-9}
    assert len(worst) == 300 and not bad
    print(f"\n{len(worst)} cases against pycocotools, worst difference {max(worst.values()):.1e}")


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 8),
    num_classes=st.integers(1, 5),
    ties=st.booleans(),
    crowds=st.booleans(),
    grid=st.sampled_from([0, 4, 20]),
)
def test_equal_to_pycocotools(seed, images, num_classes, ties, crowds, grid):
    found, records = random_case(seed, images, num_classes, ties=ties, crowds=crowds, grid=grid)
    assert_equals_pycocotools(found, records, num_classes)


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_pycocotools_with_classes_that_never_occur(seed):
    scores = assert_equals_pycocotools(*random_case(seed, num_classes=5, used=[1, 3]), 5)
    assert [row["ap"] is None for row in scores.per_class] == [True, False, True, False, True]


@pytest.mark.parametrize("ties", [False, True])
def test_equal_to_pycocotools_beyond_a_hundred_detections(ties):
    found, records = random_case(7, images=4, num_classes=1, most=160, ties=ties)
    assert max(len(d) for d in found) > 150
    assert_equals_pycocotools(found, records, 1)


@pytest.mark.parametrize("what", ["nothing found", "nothing there", "neither"])
def test_equal_to_pycocotools_when_a_side_is_empty(what):
    found, records = random_case(3)
    if what != "nothing there":
        found = [detections([], [], [])] * len(found)
    if what != "nothing found":
        records = [record([], [], name=r.file.stem) for r in records]
    scores = assert_equals_pycocotools(found, records, 4)
    assert scores.map == (0.0 if what == "nothing found" else None)


def test_half_of_the_boxes_found_is_51_of_101_recall_points():
    """recall [.5], precision [1]: the envelope is 1 at recall 0, .01, .. .50 and 0 beyond."""
    scores = coco_ap([detections([BOX], [0.9], [0])], [record([BOX, ELSEWHERE], [0, 0])], ["cell"])
    assert scores.map == scores.map50 == pytest.approx(51 / 101, abs=1e-12)
    assert round(scores.map, 5) == 0.50495


def test_a_case_by_hand():
    """Two classes: cells found once right, once wrong; stripes missed; spots never occur and are
    left out of means.
    """
    truth = record([BOX, ELSEWHERE, BOX], [0, 0, 1])
    found = detections([BOX, [0, 0, 5, 5], BOX], [0.9, 0.6, 0.3], [0, 0, 2])
    scores = coco_ap([found], [truth], ["cell", "stripe", "spot"])
    assert scores.map50 == pytest.approx((51 / 101 + 0) / 2)
    cell, stripe, spot = scores.per_class
    assert cell == {
        "name": "cell",
        "images": 1,
        "instances": 2,
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "ap50": pytest.approx(51 / 101),
        "ap75": pytest.approx(51 / 101),
        "ap": pytest.approx(51 / 101),
        "ar": 0.5,
        "ap_small": None,
        "ap_medium": pytest.approx(51 / 101),
        "ap_large": None,
        "ar_small": None,
        "ar_medium": 0.5,
        "ar_large": None,
    }
    assert (stripe["precision"], stripe["recall"], stripe["ap"], stripe["instances"]) == (
        0.0,
        0.0,
        0.0,
        1,
    )
    assert (spot["precision"], spot["recall"], spot["f1"], spot["ap"], spot["images"]) == (
        None,
        None,
        None,
        None,
        0,
    )
    # Best where the wrong cell is out and the right one in: .601 to .900, of which the middle is
    # taken.
    assert scores.confidence == pytest.approx(0.75)
    assert (scores.precision, scores.recall, scores.f1) == (0.5, 0.25, pytest.approx(1 / 3))
    assert scores.per_image == [
        {"name": "a.jpg", "file": "/x/a.jpg", "n_gt": 3, "n_pred": 1, "tp": 1, "fp": 0, "fn": 2}
    ]
    assert scores.confusion.tolist() == [[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_the_curves_by_hand():
    truth = record([BOX, ELSEWHERE], [0, 0])
    curves = coco_ap(
        [detections([BOX, [0, 0, 5, 5]], [0.75, 0.25], [0, 0])], [truth], ["cell"]
    ).curves
    at = [np.flatnonzero(curves.confidence == c)[0] for c in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert curves.precision[0, at].tolist() == [0.5, 0.5, 1, 1, 0]
    assert curves.recall[0, at].tolist() == [0.5, 0.5, 0.5, 0.5, 0]
    assert curves.f1[0, at].tolist() == pytest.approx([0.5, 0.5, 2 / 3, 2 / 3, 0])
    assert curves.pr[0].tolist() == [1.0] * 51 + [0.0] * 50


@pytest.mark.parametrize("seed", range(8))
def test_ap50_of_our_own_matches_is_cocos(seed):
    """Ties our matching (P, R, F1) to the reference: the same matches, summed up COCO's way, give
    COCO's AP50.
    """
    found, records = random_case(seed, num_classes=1, ties=seed % 2 == 0)
    if not sum(len(r.classes) for r in records):
        pytest.skip("no truth drawn")
    matches = match([make_sample(d, r, 1) for d, r in zip(found, records, strict=True)], 1)
    order = np.argsort(-matches.scores, kind="stable")
    order = order[matches.outcome[order] < 2]
    tp = np.cumsum(matches.outcome[order] == TRUE)
    precision = tp / np.arange(1, len(tp) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    first = np.searchsorted(tp / matches.truths.sum(), np.linspace(0, 1, 101), side="left")
    ap = np.mean([envelope[i] if i < len(envelope) else 0 for i in first])
    assert ap == pytest.approx(coco_ap(found, records, ["a"]).map50, abs=1e-9)


def test_a_second_detection_of_the_same_box_is_false():
    scores = coco_ap([detections([BOX, BOX], [0.9, 0.8], [0, 0])], [record([BOX], [0])], ["cell"])
    assert scores.confusion.tolist() == [[1, 0], [1, 0]]
    assert scores.curves.precision[0, 0] == 0.5


def test_detections_on_a_crowd_count_nowhere():
    truth = record([[0, 0, 100, 100], ELSEWHERE], [0, 0], crowd=[True, False])
    found = detections([[5, 5, 20, 20], [60, 60, 90, 90], ELSEWHERE], [0.9, 0.8, 0.7], [0, 0, 0])
    scores = coco_ap([found], [truth], ["cell"])
    assert scores.instances == 1 and scores.map == 1.0 and scores.precision == 1.0
    counts = {key: scores.per_image[0][key] for key in ("n_gt", "n_pred", "tp", "fp", "fn")}
    assert counts == {
        "n_gt": 1,
        "n_pred": 3,
        "tp": 1,
        "fp": 0,
        "fn": 0,
    } and scores.confidence == pytest.approx(0.349)
    assert scores.confusion.tolist() == [[1, 0], [0, 0]]


def test_confusion_pairs_by_overlap_and_prefers_the_higher_score():
    truth = record([BOX], [1])
    both = detections(
        [BOX, BOX], [0.9, 0.8], [0, 1]
    )  # one box under two names, as multi-label NMS gives
    assert coco_ap([both], [truth], ["a", "b"]).confusion.tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
    ]
    shifted = detections([np.add(BOX, [8, 0, 8, 0]), BOX], [0.9, 0.8], [0, 1])
    assert coco_ap([shifted], [truth], ["a", "b"]).confusion.tolist() == [
        [0, 0, 0],
        [0, 1, 0],
        [1, 0, 0],
    ]


@pytest.mark.parametrize("seed", range(5))
def test_confusion_accounts_for_every_box_once(seed):
    found, records = random_case(seed, crowds=False)
    scores = coco_ap(found, records, list("abcd"))
    rows, columns = scores.confusion.sum(1)[:-1], scores.confusion.sum(0)[:-1]
    truth = np.concatenate([r.classes for r in records])
    sure = np.concatenate([d.classes[d.scores >= 0.25] for d in found])
    assert rows.tolist() == np.bincount(truth, minlength=4).tolist()
    assert columns.tolist() == np.bincount(sure, minlength=4).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_the_table_of_images_adds_up_to_the_totals(seed):
    found, records = random_case(seed, num_classes=1)
    scores = coco_ap(found, records, ["a"])
    n, tp, fp, fn = (sum(row[k] for row in scores.per_image) for k in ("n_gt", "tp", "fp", "fn"))
    assert n == scores.instances == tp + fn
    assert scores.recall == pytest.approx(tp / n) and scores.precision == pytest.approx(
        tp / (tp + fp)
    )


def flat(scores):
    return json.dumps([scores.report(), scores.per_image], allow_nan=False)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), shards=st.integers(1, 4))
def test_neither_order_nor_shards_change_anything(seed, shards):
    found, records = random_case(seed, ties=True)
    whole = coco_ap(found, records, list("abcd"))
    rng = np.random.default_rng(seed)
    parts = [DetectionMetrics("abcd") for _ in range(shards)]
    for i in rng.permutation(len(records)):
        parts[rng.integers(shards)].update(found[i], records[i])
    parts[-1].update(found[0], records[0])  # a sampler that pads: seen twice, counted once
    merged = DetectionMetrics("abcd")
    for i in rng.permutation(shards):
        merged.merge(parts[i].state())
    assert len(merged) == len(records)
    assert flat(merged.compute()) == flat(whole)
    np.testing.assert_array_equal(merged.compute().curves.f1, whole.curves.f1)


def test_no_images_at_all_is_none_everywhere_and_valid_json():
    scores = DetectionMetrics(["a", "b"]).compute()
    assert (
        set(scores.to_dict().values()) == {None}
        and scores.fitness == 0.0
        and scores.confidence is None
    )
    assert scores.confusion.shape == (3, 3)
    flat(scores)
    merged = DetectionMetrics(["a"])
    merged.merge(DetectionMetrics(["a"]).state())
    assert len(merged) == 0


def test_canonical_names():
    scores = coco_ap([detections([BOX], [0.9], [0])], [record([BOX], [0])], ["cell"])
    found = scores.to_dict()
    assert list(found)[:4] == [
        "metrics/precision",
        "metrics/recall",
        "metrics/mAP50",
        "metrics/mAP50-95",
    ]
    assert found["metrics/mAP50-95"] == 1.0 == scores.fitness
    assert (found["metrics/mAP-small"], found["metrics/mAP-medium"]) == (
        None,
        1.0,
    )  # 40 x 40 pixels is medium
    csv.DictWriter(io.StringIO(), scores.per_class[0]).writerows(scores.per_class)


def test_what_cannot_be_scored_is_named():
    metrics = DetectionMetrics(["a", "b"])
    with pytest.raises(DataError, match="a.jpg: detection of class 2, but there are 2 class names"):
        metrics.update(detections([BOX], [0.9], [2]), record([BOX], [0]))
    with pytest.raises(DataError, match="annotation of class -1"):
        metrics.update(detections([], [], []), record([BOX], [-1]))
    with pytest.raises(DataError, match="not finite"):
        metrics.update(detections([BOX], [float("nan")], [0]), record([BOX], [0]))


def test_overlap_of_degenerate_boxes_is_zero():
    iou, covered = overlaps(np.array([[5.0, 5, 5, 5], BOX]), np.array([[5.0, 5, 5, 5], BOX]))
    assert iou.tolist() == [[0, 0], [0, 1]] and covered[0].tolist() == [0, 0]


def test_a_hundred_images_take_well_below_a_second():
    found, records = random_case(0, images=100, num_classes=10, most=150)
    started = time.perf_counter()
    coco_ap(found, records, [str(i) for i in range(10)])
    assert time.perf_counter() - started < 3  # .5 s alone; the machine may be busy
