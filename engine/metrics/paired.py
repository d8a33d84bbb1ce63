"""Two models on the same images: how much better is one, and how sure is that.

The difference of a metric is computed on the images as they are and on each draw of the bootstrap
(`bootstrap.py`), both models on the same draw: what makes an image hard for both cancels.

Intervals are expanded percentiles: those of the draws, at levels that allow for a bootstrap's
spread being too small by (n - 1) / n and for few groups (Student's t). On 20 images the plain
percentiles cover less than they say; from 200 groups on they are nearly equal (`benchmarks/gate.py`
prints both).
Source: Hesterberg, What Teachers Should Know About the Bootstrap (2015), 1411.5279.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.difference import LEVEL, Difference
from engine.errors import DataError
from engine.metrics.bootstrap import (
    RESAMPLES,
    ApOfDraws,
    Draws,
    ap_of_draws,
    draw,
    expanded_levels,
)
from engine.metrics.match_table import MatchTable

AP, AP50 = "AP50-95", "AP50"


@dataclass(frozen=True)
class Paired:
    """The comparison of two models on S images in G groups."""

    images: int
    groups: int
    resamples: int
    seed: int
    mean: Mapping[str, Difference]  # by metric
    classes: Mapping[str, Mapping[str, Difference]]  # by metric, then by class

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return asdict(self)


def compare(
    a: MatchTable | None,
    b: MatchTable,
    groups: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """Compare model `b` with model `a` on the images and classes of both tables. Without `a`, the
    intervals are those of the metrics of `b` themselves.

    groups: image -> its group; an image that is not named is a group of its own.

    Raises:
        DataError: the tables are of other images, of other classes, or of other boxes to find.
    """
    if a is not None:
        a = _aligned(a, b)
    draws = draw(_group_names(b.images, groups or {}), resamples, seed)
    measured = [on_draws(table, draws) for table in ([b] if a is None else [b, a])]
    return differences(b, measured, draws, seed)


@dataclass(frozen=True, eq=False)
class OnDraws:
    """Average precision of one model, on the images as they are and on each draw."""

    whole: np.ndarray  # (C, T)
    drawn: ApOfDraws


def on_draws(table: MatchTable, draws: Draws) -> OnDraws:
    return OnDraws(table.ap(), ap_of_draws(table, draws))


def differences(
    table: MatchTable, measured: Sequence[OnDraws], draws: Draws, seed: int = 0
) -> Paired:
    """What `compare` finds, of models already measured on the same draws: `b`, then `a` where there
    is one. table: that of `b`.
    """
    count, resamples = draws.counts.shape
    boxes, holders = table.truths.sum(0), table.truths > 0
    mean, classes = {}, {}
    for metric in (AP, AP50):
        values = [each.whole.mean(1) if metric == AP else each.whole[:, 0] for each in measured]
        means = [each.drawn.map if metric == AP else each.drawn.map50 for each in measured]
        drawn = [each.drawn.ap if metric == AP else each.drawn.ap50 for each in measured]
        about = (int(boxes.sum()), int(holders.any(1).sum()))
        mean[metric] = _difference(metric, "", about, [*map(_mean, values)], means, count)
        classes[metric] = {
            name: _difference(
                metric,
                name,
                (int(boxes[c]), int(holders[:, c].sum())),
                [_known(each[c]) for each in values],
                [each[c] for each in drawn],
                count,
            )
            for c, name in enumerate(table.names)
        }
    return Paired(len(table.images), count, resamples, seed, mean, classes)


def _aligned(a: MatchTable, b: MatchTable) -> MatchTable:
    """Table `a` with images and classes in the order of `b`."""
    if sorted(a.images) != sorted(b.images) or sorted(a.names) != sorted(b.names):
        raise DataError(
            f"two tables of other images or classes ({len(a.images)} and {len(b.images)} images, "
            f"{len(a.names)} and {len(b.names)} classes): compare models on the same ones."
        )
    a = a.subset(b.images, b.names)
    if (a.truths != b.truths).any():
        raise DataError("two tables of the same images with other boxes: measure both models anew.")
    return a


def _group_names(images: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    return [f"group {groups[name]}" if groups.get(name) else f"image {name}" for name in images]


def _difference(
    metric: str,
    of: str,
    about: tuple[int, int],
    values: Sequence[float | None],
    drawn: Sequence[np.ndarray],
    groups: int,
) -> Difference:
    """values, drawn: of `b`, then of `a` where there is one."""
    b, a = values[0], values[1] if len(values) > 1 else None
    spread = drawn[0] if len(drawn) == 1 else drawn[0] - drawn[1]
    spread = spread[~np.isnan(spread)]
    if b is None or groups < 2 or len(spread) < 2:
        return Difference(metric, of, *about, a, b, groups=groups)
    low, high = np.quantile(spread, expanded_levels(groups))
    plain_low, plain_high = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(
        metric,
        of,
        *about,
        a,
        b,
        low=float(low),
        high=float(high),
        plain_low=float(plain_low),
        plain_high=float(plain_high),
        better=None if a is None else float((spread > 0).mean() + (spread == 0).mean() / 2),
        error=float(spread.std() * math.sqrt(groups / (groups - 1))),
        groups=groups,
    )


def _mean(values: np.ndarray) -> float | None:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
