"""Functions from a detector's scores to probabilities, as they travel with a model. Which ones: see
`calibration.py`.

Letters: N detections, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SMALLEST = 1e-12  # distance of a score from 0 and 1 that a logit can be taken of


@dataclass(frozen=True)
class ScoreMap:
    """A strictly increasing function from scores to scores: lines through the points (x, y), both
    in logits and increasing, continued with `slope` on both sides.
    """

    x: tuple[float, ...] = (0.0,)
    y: tuple[float, ...] = (0.0,)
    slope: float = 1.0

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Calibrated scores, float64, of scores in [0, 1] of any shape."""
        scores = np.asarray(scores, np.float64)
        return scores if self == IDENTITY else sigmoid(self.of_logits(logit(scores)))

    def of_logits(self, z: np.ndarray) -> np.ndarray:
        beyond = np.minimum(z - self.x[0], 0) + np.maximum(z - self.x[-1], 0)
        return np.interp(z, self.x, self.y) + self.slope * beyond

    @property
    def inverse(self) -> ScoreMap:
        """From calibrated scores back."""
        return ScoreMap(self.y, self.x, 1 / self.slope)


IDENTITY = ScoreMap()


@dataclass(frozen=True)
class Calibration:
    """What was chosen for C classes."""

    method: str  # of METHODS
    maps: tuple[ScoreMap, ...]  # of each class
    own: tuple[bool, ...]  # whether it is the class's own; else that of all classes together

    def __call__(self, scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """(N,) calibrated scores of detections of these classes (N,)."""
        scores = np.array(scores, np.float64)
        for c in np.unique(classes):
            mine = classes == c
            scores[mine] = self.maps[c](scores[mine])
        return scores


def logit(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(np.asarray(scores, np.float64), SMALLEST, 1 - SMALLEST)
    return np.log(inside) - np.log1p(-inside)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * z))
