"""The bootstrap over images: how far average precision could be off, of one model or of two on the
same images.

Images are drawn with repeats, whole groups at a time (images of one patient or camera are not
independent), and AP follows for each draw from what COCO's matching found once (`MatchTable`). All
draws are computed together: `ap_of_draws` equals `MatchTable.ap` of each draw and is a few hundred
times as fast.
Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.difference import LEVEL
from engine.errors import DataError
from engine.metrics.curves import IGNORED, TRUE
from engine.metrics.match_table import IOU_THRESHOLDS, RECALLS, MatchTable

RESAMPLES = 2000
MOST_NUMBERS = 20_000_000  # of one array; more draws are taken in parts


@dataclass(frozen=True, eq=False)
class Draws:
    """How often each group was drawn. Letters: S images, G groups, B draws."""

    group: np.ndarray  # (S,) int, the group of each image
    counts: np.ndarray  # (G, B) uint16

    def of_images(self, b: int) -> np.ndarray:
        """(S,) how often each image counts in draw `b`."""
        return self.counts[self.group, b].astype(np.int64)


def draw(groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> Draws:
    """As many groups as there are, drawn with repeats, `resamples` times.

    groups: the name of each image's group; an image without one has a name of its own.
    """
    _, group = np.unique(np.asarray(groups, np.str_), return_inverse=True)
    size = int(group.max()) + 1 if len(group) else 0
    counts = np.zeros((size, resamples), np.uint16)
    rng = np.random.default_rng(seed)
    for b in range(resamples if size else 0):
        counts[:, b] = np.bincount(rng.integers(0, size, size), minlength=size)
    return Draws(group.reshape(-1), counts)


@dataclass(frozen=True, eq=False)
class ApOfDraws:
    """Average precision of each draw. NaN where a class has no box to find in that draw."""

    ap: np.ndarray  # (C, B) mean over IoU .50 to .95
    ap50: np.ndarray  # (C, B)

    @property
    def map(self) -> np.ndarray:
        """(B,) the mean over the classes that a draw has."""
        return _mean_of_present(self.ap)

    @property
    def map50(self) -> np.ndarray:
        return _mean_of_present(self.ap50)


def ap_of_draws(table: MatchTable, draws: Draws) -> ApOfDraws:
    """AP of every class in every draw.

    Raises:
        DataError: the draws are of another number of images.
    """
    if len(draws.group) != len(table.images):
        raise DataError(
            f"draws of {len(draws.group)} images for a table of {len(table.images)} images."
        )
    groups, resamples = draws.counts.shape
    truths = np.zeros((groups, len(table.names)))
    np.add.at(truths, draws.group, table.truths)
    ap, ap50 = (np.full((len(table.names), resamples), np.nan) for _ in range(2))
    rankings = {int(c): _rank(table, draws.group, int(c)) for c in np.flatnonzero(truths.sum(0))}
    longest = max((len(ranking.ends) for ranking in rankings.values()), default=0)
    for columns in _blocks(resamples, max(1, MOST_NUMBERS // max(longest, groups, 1))):
        counts = draws.counts[:, columns].astype(np.float64)
        for c, ranking in rankings.items():
            totals = truths[:, c] @ counts
            values = np.where(totals > 0, _average_precision(ranking, counts, totals), np.nan)
            ap[c, columns], ap50[c, columns] = values.mean(0), values[0]
    return ApOfDraws(ap, ap50)


@dataclass(frozen=True, eq=False)
class _Ranking:
    """The detections of one class, best first, up to the last true one.

    Precision peaks where a true detection has just been counted. Only these P places are computed,
    true at any of the T thresholds; what lies between two of them counts in one sum.
    """

    group: np.ndarray  # (D,) of each detection
    ends: np.ndarray  # (P,) the places, rows of D
    true: list[np.ndarray]  # for each threshold the true ones, rows of P
    ignored: list[np.ndarray]  # for each threshold the detections on a crowd, rows of D


def _rank(table: MatchTable, group: np.ndarray, c: int) -> _Ranking:
    rows = np.flatnonzero(table.classes == c)
    rows = rows[np.argsort(-table.scores[rows], kind="stable")]
    ends = np.flatnonzero((table.outcome[rows] == TRUE).any(1))
    rows = rows[: ends[-1] + 1 if len(ends) else 0]
    outcome = table.outcome[rows]
    return _Ranking(
        group[table.image[rows]],
        ends,
        [np.flatnonzero(column == TRUE) for column in outcome[ends].T],
        [np.flatnonzero(column == IGNORED) for column in outcome.T],
    )


def _average_precision(ranking: _Ranking, counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """(T, b) from counts (G, b) of some draws and the boxes to find in each of them (b,).

    As in `match_table.py`, all draws at once: each row is one place of the ranking, and the sums
    run over rows, which a loop does several times as fast as `np.cumsum`.
    """
    ap = np.zeros((len(IOU_THRESHOLDS), counts.shape[1]))
    begins = [0, *(ranking.ends[:-1] + 1)]
    seen = np.stack(
        [counts[ranking.group[begin : end + 1]].sum(0) for begin, end in zip(begins, ranking.ends)]
        or [totals]
    )
    _run_over_rows(np.add, seen)
    totals = np.maximum(totals, 1)
    for t, (true, ignored) in enumerate(zip(ranking.true, ranking.ignored, strict=True)):
        if not len(true):
            continue
        places = ranking.ends[true]
        found = counts[ranking.group[places]]
        _run_over_rows(np.add, found)
        counted = seen[true]
        if len(ignored):
            left_out = np.concatenate([np.zeros_like(totals)[None], counts[ranking.group[ignored]]])
            _run_over_rows(np.add, left_out)
            counted -= left_out[np.searchsorted(ignored, places)]
        envelope = found / np.maximum(counted, 1, out=counted)
        _run_over_rows(np.maximum, envelope[::-1])
        reached = _recalls_reached(found / totals)
        reached[1:] -= reached[:-1].copy()
        ap[t] = np.einsum("ij,ij->j", envelope, reached) / len(RECALLS)
    return ap


def _run_over_rows(operation: np.ufunc, rows: np.ndarray) -> None:
    for before, row in zip(rows[:-1], rows[1:]):
        operation(before, row, out=row)


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """How many of COCO's 101 recalls are at or below each value; to the last bit, for COCO's .35 is
    a little more than 35 of 100.
    """
    nearest = np.floor(recall * (len(RECALLS) - 1) + 1e-6)
    return nearest + (RECALLS[nearest.astype(np.intp)] <= recall)


def expanded_levels(groups: int, level: float = LEVEL) -> np.ndarray:
    """(2,) the percentiles, as fractions, that make an interval of `level` of draws of so many
    groups.
    """
    from scipy.stats import norm, t

    inner = t.ppf([(1 - level) / 2, (1 + level) / 2], groups - 1)
    return norm.cdf(inner * math.sqrt(groups / (groups - 1)))


def _blocks(size: int, most: int) -> Iterator[slice]:
    for start in range(0, size, most):
        yield slice(start, min(start + most, size))


def _mean_of_present(values: np.ndarray) -> np.ndarray:
    present = ~np.isnan(values)
    return np.where(present, values, 0).sum(0) / np.where(present.any(0), present.sum(0), np.nan)
