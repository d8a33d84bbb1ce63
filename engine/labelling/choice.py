"""Which images of an unlabelled folder are worth labelling: those the model is unsure about, and of
these not twice the same.

Uncertainty of an image: the entropy, in bits, of each of its detections being an object, summed
over the detections, so that a doubtful crowd counts more than one doubtful box. Source: Brust,
Käding and Denzler, Active Learning for Deep Object Detection (1809.09875), where sums do best.
Diversity: greedy k-centre on small copies of the images, weighted by uncertainty: the next image is
the one with the greatest product of its uncertainty and its distance to the nearest chosen one.
Source: Sener and Savarese, Active Learning for CNNs: A Core-Set Approach (1708.00489). Equal images
give an equal choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

LEAST_SCORE = 0.1  # of a detection that may be an object
THUMBNAIL_PX = 16


def uncertainty(scores: np.ndarray) -> float:
    """Bits, of the scores (K,) of one image; 0 where nothing is found."""
    p = np.clip(np.asarray(scores, np.float64), 1e-9, 1 - 1e-9)
    p = p[p >= LEAST_SCORE]
    return float(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())


def features(image: np.ndarray) -> np.ndarray:
    """(768,) of an image (H, W, 3) uint8 BGR: a small copy, its colours from 0 to 1."""
    small = cv2.resize(image, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).reshape(-1) / 255


def choose(uncertain: Sequence[float], described: np.ndarray, number: int) -> list[int]:
    """Indices of at most `number` images, in the order of their choice.

    uncertain: (S,) bits, as `uncertainty` gives them. described: (S, F) features.
    """
    values = np.asarray(uncertain, np.float64)
    chosen: list[int] = []
    nearest = np.full(len(values), np.inf)
    left = np.ones(len(values), bool)
    while left.any() and len(chosen) < number:
        worth = values if not chosen else values * nearest
        if not (worth[left] > 0).any():  # copies of chosen ones, or images with nothing in doubt
            worth = values + np.where(np.isinf(nearest), 0, nearest) * 1e-6
        best = int(np.where(left, worth, -1.0).argmax())
        chosen.append(best)
        left[best] = False
        distance = np.linalg.norm(described - described[best], axis=1)
        nearest = np.minimum(nearest, distance)
    return chosen
