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
from typing import TYPE_CHECKING

import numpy as np

from engine.difference import LEVEL
from engine.errors import DataError
from engine.metrics.curves import FALSE, IGNORED, TRUE
from engine.metrics.match_table import IOU_THRESHOLDS, RECALLS, MatchTable

if TYPE_CHECKING:
    from scipy.sparse import csr_array

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
    rankings = {c: _rank(table, draws, c) for c in np.flatnonzero(truths.sum(0)).tolist()}
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

    While one true detection follows another precision rises, whatever the draw, so the envelope of
    precision changes only where such a run ends. Only these P places are computed, those of each
    threshold; what lies between two of them counts in one sum.
    """

    ends: np.ndarray  # (P,) the places, rows of D
    seen: csr_array  # (P, G) detections of each group since the place before
    at: list[_AtThreshold]


@dataclass(frozen=True, eq=False)
class _AtThreshold:
    """The p of the P places where a run of true detections ends at one IoU threshold."""

    places: np.ndarray  # (p,) rows of P
    found: csr_array  # (p, G) true detections of each group since the place before
    ignored: csr_array | None  # (p, G) the same of detections on a crowd; None: there are none


def _rank(table: MatchTable, draws: Draws, c: int) -> _Ranking:
    rows = np.flatnonzero(table.classes == c)
    rows = rows[np.argsort(-table.scores[rows], kind="stable")]
    outcome, group = table.outcome[rows], draws.group[table.image[rows]]
    ends_at = [_ends_of_runs(column) for column in outcome.T]
    ends = np.unique(np.concatenate(ends_at))

    def between(which: np.ndarray, places: np.ndarray) -> csr_array:
        return _sums_between(which, group[which], places, len(draws.counts))

    at = []
    for places, column in zip(ends_at, outcome.T, strict=True):
        ignored = np.flatnonzero(column == IGNORED)
        at.append(
            _AtThreshold(
                np.searchsorted(ends, places),
                between(np.flatnonzero(column == TRUE), places),
                between(ignored, places) if len(ignored) else None,
            )
        )
    return _Ranking(ends, between(np.arange(len(rows)), ends), at)


def _ends_of_runs(outcome: np.ndarray) -> np.ndarray:
    """Rows of the true detections after which a false one comes before the next true one; the last
    true one is an end, too.
    """
    true = np.flatnonzero(outcome == TRUE)
    false_before = np.cumsum(outcome == FALSE)[true]
    return true[np.append(np.diff(false_before), 1)[: len(true)] > 0]


def _sums_between(
    which: np.ndarray, group: np.ndarray, places: np.ndarray, groups: int
) -> csr_array:
    """(P, G) that times the counts of groups (G, b) is how many of the detections `which` (rows of
    D, ascending, each of one group) each draw has between one place (not counted) and the next
    (counted).
    """
    from scipy.sparse import csr_array

    pointers = np.append(0, np.searchsorted(which, places, side="right"))
    group = group[: pointers[-1]]
    return csr_array((np.ones(len(group)), group, pointers), shape=(len(places), groups))


def _average_precision(ranking: _Ranking, counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """(T, b) from counts (G, b) of some draws and the boxes to find in each of them (b,).

    As in `match_table.py`, all draws at once: each row is one place of the ranking, and the sums
    run over rows, which a loop does several times as fast as `np.cumsum`.
    """
    ap = np.zeros((len(IOU_THRESHOLDS), counts.shape[1]))
    totals = np.maximum(totals, 1)
    seen = _run_over_rows(np.add, ranking.seen @ counts)
    for t, at in enumerate(ranking.at):
        if not len(at.places):
            continue
        found = _run_over_rows(np.add, at.found @ counts)
        counted = seen[at.places]
        if at.ignored is not None:
            counted -= _run_over_rows(np.add, at.ignored @ counts)
        envelope = np.divide(found, np.maximum(counted, 1, out=counted), out=counted)
        _run_over_rows(np.maximum, envelope[::-1])
        reached = _recalls_reached(np.divide(found, totals, out=found))
        for before, row in zip(reached[-2::-1], reached[:0:-1]):
            np.subtract(row, before, out=row)
        ap[t] = np.einsum("ij,ij->j", envelope, reached) / len(RECALLS)
    return ap


def _run_over_rows(operation: np.ufunc, rows: np.ndarray) -> np.ndarray:
    """`rows` itself, each now the result of the operation on all rows up to it."""
    for before, row in zip(rows[:-1], rows[1:]):
        operation(before, row, out=row)
    return rows


def _recalls_reached(recall: np.ndarray) -> np.ndarray:
    """How many of COCO's 101 recalls are at or below each value; to the last bit, for COCO's .35 is
    a little more than 35 of 100.
    """
    step = RECALLS[1]  # times n, RECALLS[n] to the last bit
    nearest = recall * (len(RECALLS) - 1)
    nearest += 1e-6
    np.floor(nearest, out=nearest)
    nearest += nearest * step <= recall
    return nearest


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
