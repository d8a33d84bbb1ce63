"""Images with truth and detections, written down or drawn at random."""

from pathlib import Path

import numpy as np

from engine.metrics import DetectionMetrics
from engine.types import Detections, ImageRecord


def record(boxes, classes, crowd=None, name="a", **more):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    crowd = None if crowd is None else np.array(crowd, bool)
    kinds = np.array(classes, np.int64)
    file = Path(f"/x/{name}.jpg")
    return ImageRecord(
        file, f"sha-{name}", (200, 200), boxes, kinds, crowd=crowd, name=f"{name}.jpg", **more
    )


def detections(boxes, scores, classes):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return Detections(boxes, np.array(scores, np.float64), np.array(classes, np.int64))


def collected(found, records, names):
    """Metrics that have seen these images."""
    metrics = DetectionMetrics(names)
    for each, record_ in zip(found, records, strict=True):
        metrics.update(each, record_)
    return metrics


def random_case(seed, images=6, classes=4, most=12, hit=0.8, size=300.0, crowds=True):
    """(detections, records): most detections hit a box more or less, some of the wrong class; some
    images hold nothing, in some nothing is found.

    hit: the fraction of near detections, one number or one for each image.
    """
    rng = np.random.default_rng(seed)
    records, found = [], []
    for i, rate in enumerate(np.broadcast_to(hit, images)):
        n, k = (int(rng.integers(0, m + 1)) * int(rng.random() > 0.2) for m in (most, 2 * most))
        corner = rng.uniform(0, size, (n, 2))
        boxes = np.concatenate((corner, corner + np.exp(rng.uniform(1, 5.3, (n, 2)))), 1)
        kinds = rng.integers(0, classes, n)
        crowd = rng.random(n) < 0.15 if crowds else None
        guess = rng.uniform(0, size, (k, 4))
        guess[:, 2:] = guess[:, :2] + np.exp(rng.uniform(1, 5.3, (k, 2)))
        guessed = rng.integers(0, classes, k)
        if n:
            near = rng.random(k) < rate
            source = rng.integers(0, n, k)
            noise = rng.normal(0, 0.08, (k, 4)) * np.tile(boxes[source, 2:] - boxes[source, :2], 2)
            guess[near] = (boxes[source] + noise)[near]
            right = near & (rng.random(k) < 0.8)
            guessed[right] = kinds[source[right]]
            guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 0.5)
        found.append(detections(guess, rng.random(k), guessed))
        records.append(record(boxes, kinds, crowd, f"{i:04d}"))
    return found, records
