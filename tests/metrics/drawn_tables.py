"""Tables of matches as random numbers make them, for statistics that need many of them."""

import numpy as np

from engine.metrics import MatchTable
from engine.metrics.match_table import IOU_THRESHOLDS


def drawn_table(seed, images=30, classes=3, boxes=3.0, false=4.0, ignored=0.0, ties=False):
    """A table in which a detection may be true at any set of thresholds (COCO's matching does not
    promise that what is true at .75 is true at .50), the truth drawn from `seed[0]` alone.
    """
    truth, rng = np.random.default_rng(seed[0]), np.random.default_rng(seed)
    number = truth.poisson(boxes, images)
    of_image = np.repeat(np.arange(images), number)
    of_class = truth.integers(0, classes, len(of_image))
    truths = np.zeros((images, classes), np.int32)
    np.add.at(truths, (of_image, of_class), 1)
    found = rng.random(len(of_image)) < 0.8
    overlap = rng.uniform(0.4, 1.0, found.sum())
    noise = rng.random((found.sum(), 10)) < 0.05
    hits = ((overlap[:, None] >= IOU_THRESHOLDS) ^ noise).astype(np.int8)
    extra = rng.poisson(false, images)
    image = np.concatenate([of_image[found], np.repeat(np.arange(images), extra)])
    kind = np.concatenate([of_class[found], rng.integers(0, classes, extra.sum())])
    outcome = np.concatenate([hits, np.zeros((extra.sum(), 10), np.int8)])
    outcome[(outcome == 0) & (rng.random(outcome.shape) < ignored)] = 2
    scores = rng.random(len(image))
    if ties:
        scores = np.round(scores, 1)
    order = np.lexsort((-scores, image))
    return MatchTable(
        tuple(f"c{c}" for c in range(classes)),
        tuple(f"{i:04d}.jpg" for i in range(images)),
        truths,
        image[order].astype(np.int32),
        kind[order].astype(np.int32),
        scores[order],
        outcome[order],
    )
