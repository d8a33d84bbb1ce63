"""Tables of errors as random numbers make them, with a known rate of found boxes for each image."""

import numpy as np

from engine.error_analysis.error_types import MISSED, NO_ERROR, TYPES, ErrorTable


def drawn_errors(seed, images=100, hit=0.7, classes=2, boxes=3.0, false=1.0):
    """hit: the chance that a box is found, one number or one for each image."""
    rng = np.random.default_rng(seed)
    hit = np.broadcast_to(hit, images)
    truth_image = np.repeat(np.arange(images), rng.poisson(boxes, images))
    truth_class = rng.integers(0, classes, len(truth_image))
    found = np.flatnonzero(rng.random(len(truth_image)) < hit[truth_image])
    extra = np.repeat(np.arange(images), rng.poisson(false, images))
    image = np.concatenate([truth_image[found], extra])
    kind = np.concatenate([truth_class[found], rng.integers(0, classes, len(extra))])
    true = np.arange(len(image)) < len(found)
    scores = np.where(true, rng.beta(4, 2, len(image)), rng.beta(2, 4, len(image)))
    target = np.concatenate([found, np.full(len(extra), -1)])
    order = np.lexsort((-scores, image))
    found_by = np.full(len(truth_image), -1)
    found_by[target[order][true[order]]] = np.flatnonzero(true[order])
    assert MISSED == len(TYPES) - 1
    return ErrorTable(
        tuple(f"c{c}" for c in range(classes)),
        tuple(f"{i:04d}" for i in range(images)),
        truth_image,
        truth_class,
        np.tile([0.0, 0.0, 50.0, 50.0], (len(truth_image), 1)),
        found_by,
        image[order],
        kind[order],
        scores[order],
        np.tile([0.0, 0.0, 50.0, 50.0], (len(image), 1)),
        true[order].astype(np.int8),
        np.where(true[order], NO_ERROR, TYPES.index("background")).astype(np.int8),
        target[order],
    )
