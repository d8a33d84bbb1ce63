"""Calibration: from a detector's scores to probabilities that a detection is right (of its class,
at IoU .50), and how far scores are from that.

A calibration is one increasing function a class, a line or a few joined ones in the logits of the
scores: what is better stays better, so the average precision of a class does not change. Four
methods are tried on validation images, and the one that predicts images it has not seen best is
kept: none at all, temperature (Guo et al. 2017, 1706.04599), logistic (Platt 1999; of detectors
Kueppers et al. 2020, 2004.13546) and isotonic (Zadrozny and Elkan 2002), whose steps are joined by
lines because steps would make scores equal.

Letters: N detections, S images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.metrics.curves import IGNORED, TRUE
from engine.metrics.match_table import MatchTable
from engine.metrics.score_maps import IDENTITY, Calibration, ScoreMap, logit, sigmoid

METHODS = ("none", "temperature", "logistic", "isotonic")  # the simplest first
# Below this score nearly every detection is false, and there are so many of them that a calibration
# would be about nothing else.
LOWEST = 0.05
BINS = 15  # of the expected calibration error, as in Guo et al.
FOLDS = 5
FEWEST, FEWEST_OF_EACH = 50, 5  # detections, true and false ones, that a function needs
STEPS, FEWEST_IN_STEP = 20, 10  # of the isotonic method
STEEPEST = 20.0


def no_calibration(classes: int) -> Calibration:
    """Scores stay as they are."""
    return Calibration("none", (IDENTITY,) * classes, (False,) * classes)


@dataclass(frozen=True, eq=False)
class Detected:
    """The detections of a table that a calibration is about: score at least LOWEST, not on a
    crowd.
    """

    scores: np.ndarray  # (N,) of the network
    true: np.ndarray  # (N,) bool, at IoU .50
    classes: np.ndarray  # (N,)
    image: np.ndarray  # (N,) index into the table's images


def detected(table: MatchTable) -> Detected:
    kept = (table.scores >= LOWEST) & (table.outcome[:, 0] != IGNORED)
    return Detected(
        table.scores[kept],
        table.outcome[kept, 0] == TRUE,
        table.classes[kept],
        table.image[kept],
    )


# Choosing -----------------------------------------------------------------------------------------


def choose_calibration(table: MatchTable, groups: Sequence[str] | None = None) -> Calibration:
    """The method with the lowest log loss on images that it has not seen (FOLDS parts, whole groups
    of images), with one function for all classes or one for each, fitted to all images. A class of
    few detections takes the function of all classes; where these are few too, nothing is
    calibrated.

    groups: of each image of the table; None: each is its own.
    """
    found, classes = detected(table), len(table.names)
    if not _enough(found.true):
        return no_calibration(classes)
    names = np.asarray(table.images if groups is None else groups, np.str_)
    _, group = np.unique(names, return_inverse=True)
    group = group.reshape(-1)
    folds = min(FOLDS, int(group.max()) + 1)
    if folds < 2:
        return no_calibration(classes)
    fold = (np.random.default_rng(0).permutation(int(group.max()) + 1) % folds)[group]
    fold = fold[found.image]
    ways = [("none", False), *((method, own) for method in METHODS[1:] for own in (False, True))]
    losses = {way: _held_out_loss(*way, found, fold, classes) for way in ways}
    best = min(ways, key=losses.__getitem__)
    return _fit_all(*best, found, np.ones(len(fold), bool), classes)


def _held_out_loss(
    method: str, by_class: bool, found: Detected, fold: np.ndarray, classes: int
) -> float:
    total = 0.0
    for held_out in np.unique(fold):
        mine = fold == held_out
        calibration = _fit_all(method, by_class, found, ~mine, classes)
        scores = calibration(found.scores[mine], found.classes[mine])
        total += log_loss(scores, found.true[mine]) * mine.sum()
    return total / len(fold)


def _fit_all(
    method: str, by_class: bool, found: Detected, kept: np.ndarray, classes: int
) -> Calibration:
    if method == "none" or not _enough(found.true[kept]):
        return no_calibration(classes)
    shared = fit(method, found.scores[kept], found.true[kept])
    maps, own = [], []
    for c in range(classes):
        mine = kept & (found.classes == c)
        own.append(by_class and _enough(found.true[mine]))
        maps.append(fit(method, found.scores[mine], found.true[mine]) if own[-1] else shared)
    return Calibration(method, tuple(maps), tuple(own))


def _enough(true: np.ndarray) -> bool:
    count = int(true.sum())
    return len(true) >= FEWEST and FEWEST_OF_EACH <= count <= len(true) - FEWEST_OF_EACH


def fit(method: str, scores: np.ndarray, true: np.ndarray) -> ScoreMap:
    """The function of one of METHODS that says best which detections (N,) are true (N,) bool."""
    if method == "none":
        return IDENTITY
    if method == "isotonic":
        return _isotonic(scores, true)
    return _line(scores, true, moves=method == "logistic")


def _line(scores: np.ndarray, true: np.ndarray, moves: bool) -> ScoreMap:
    """The line a z + b in logits with the lowest log loss, a between 1 / STEEPEST and STEEPEST. Not
    `moves`: b = 0, and 1 / a is the temperature.

    The targets are Platt's, a little inside 0 and 1, so that a threshold that parts true from false
    without a mistake does not make the line infinitely steep.
    """
    from scipy.optimize import minimize

    z, count = logit(scores), true.sum()
    target = np.where(true, (count + 1) / (count + 2), 1 / (len(true) - count + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = np.exp(parameters[0]), parameters[1] if moves else 0.0
        line = a * z + b
        wrong = sigmoid(line) - target
        value = (np.logaddexp(0, line) - target * line).mean()
        slope = np.array([(wrong * z).mean() * a, wrong.mean()])
        return float(value), slope[: len(parameters)]

    limit = np.log(STEEPEST)
    bounds = [(-limit, limit), (None, None)][: 1 + moves]
    best = minimize(loss, np.zeros(1 + moves), jac=True, method="L-BFGS-B", bounds=bounds).x
    return ScoreMap((0.0,), (float(best[1]) if moves else 0.0,), float(np.exp(best[0])))


def _isotonic(scores: np.ndarray, true: np.ndarray) -> ScoreMap:
    """Lines through the middles of isotonic regression's steps; beyond them the logit moves on by
    as much as that of the score. At most STEPS parts of equal size are regressed, equal scores
    together.
    """
    from scipy.optimize import isotonic_regression

    values, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    size = max(FEWEST_IN_STEP, -(-len(scores) // STEPS))
    part = ((np.cumsum(counts) - counts) // size)[place.reshape(-1)]
    _, part = np.unique(part, return_inverse=True)
    part = part.reshape(-1)
    weight = np.bincount(part)
    hits, total = np.bincount(part, true), np.bincount(part, logit(scores))
    steps = isotonic_regression(hits / weight, weights=weight)
    starts = steps.blocks[:-1]
    weight, total = (np.add.reduceat(each, starts) for each in (weight, total))
    rates = steps.x[starts].copy()
    # Not 0 and 1, however few detections say so; still increasing.
    rates[0] = max(rates[0], min(0.5 / (weight[0] + 1), rates[1] / 2 if len(rates) > 1 else 1))
    before = rates[-2] if len(rates) > 1 else 0.0
    rates[-1] = min(rates[-1], max(1 - 0.5 / (weight[-1] + 1), (1 + before) / 2))
    return ScoreMap(tuple(map(float, total / weight)), tuple(map(float, logit(rates))))


# How far scores are from probabilities ------------------------------------------------------------


def reliability(scores: np.ndarray, true: np.ndarray, bins: int = BINS) -> list[dict[str, Any]]:
    """Of each of `bins` equal intervals of the score: low, high, detections, the mean of their
    scores, and the fraction of them that is true; None where there is none.
    """
    place = np.clip((np.asarray(scores) * bins).astype(int), 0, bins - 1)
    rows = []
    for number in range(bins):
        mine = place == number
        count = int(mine.sum())
        rows.append(
            {
                "low": number / bins,
                "high": (number + 1) / bins,
                "detections": count,
                "score": float(np.mean(scores[mine])) if count else None,
                "true": float(np.mean(true[mine])) if count else None,
            }
        )
    return rows


def calibration_error(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The expected calibration error (ECE): the mean distance of score and fraction of true ones,
    over the detections. None without any.
    """
    total = sum(row["detections"] for row in rows)
    if not total:
        return None
    held = [row for row in rows if row["detections"]]
    return sum(row["detections"] * abs(row["score"] - row["true"]) for row in held) / total


def log_loss(scores: np.ndarray, true: np.ndarray) -> float:
    """The mean negative log likelihood of what became of the detections."""
    z = logit(scores)
    return float((np.logaddexp(0, z) - true * z).mean())
