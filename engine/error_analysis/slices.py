"""Slices of the images (the dark ones, those of one camera) and whether the detector is worse on
one of them than on the rest.

AP50 of a slice and of the rest are compared on the classes that both have, over draws of the same
groups of images (`engine.metrics.bootstrap`); the p values of "not worse than the rest" are
corrected for the number of slices (Holm). Small slices are shown and not tested.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from engine.difference import Difference
from engine.error_analysis.error_types import ErrorTable
from engine.error_analysis.properties import PROPERTIES
from engine.gates.statistics import holm_adjusted, p_worse_than
from engine.metrics.bootstrap import Draws, ap_of_draws, draw
from engine.metrics.match_table import MatchTable
from engine.metrics.paired import expanded_levels

ALPHA = 0.05  # of at least one slice being named by chance
RESAMPLES = 500  # for a standard error; its own error is then 3 %
LEAST_GROUPS = 10  # of images, in a slice and in the rest, for a test
LEAST_BOXES = 5  # of a class, in a slice and in the rest, for the class to count
MOST_VALUES = 12  # of a column that is shown value by value
QUARTERS = (0.25, 0.75)


@dataclass(frozen=True, eq=False)
class Slice:
    """Some of the images, by what a column says of them."""

    column: str
    name: str
    images: np.ndarray  # (S,) bool


def slices_of_properties(measured: np.ndarray) -> list[Slice]:
    """Slices by each of the `properties.PROPERTIES`; measured: (S, 3), NaN where unknown."""
    found: list[Slice] = []
    for of, values in zip(PROPERTIES, measured.T, strict=True):
        words = of.low, of.middle, of.high
        found += _by_size(of.name, values, words, of.edges)
    return found


def slices_of_columns(columns: Mapping[str, Sequence[str]]) -> list[Slice]:
    """Slices by columns of text, column -> the value of each image, "" for none. A column of many
    numbers is cut at its quarters; of many other values the most frequent ones count.
    """
    found: list[Slice] = []
    for column, texts in columns.items():
        values = np.array(texts, np.str_)
        frequent = Counter(text for text in texts if text).most_common()
        numbers = _numbers(texts)
        if len(frequent) > MOST_VALUES and numbers is not None:
            found += _by_size(column, numbers, ("low", "middle", "high"), None)
        else:
            chosen = sorted(value for value, _ in frequent[:MOST_VALUES])
            found += [Slice(column, value, values == value) for value in chosen]
    return [each for each in found if 0 < each.images.sum() < len(each.images)]


def _by_size(
    column: str,
    values: np.ndarray,
    words: tuple[str, str, str],
    edges: tuple[float, float] | None,
) -> list[Slice]:
    known = values[~np.isnan(values)]
    if not len(known):
        return []
    low, high = edges or (_short(edge) for edge in np.quantile(known, QUARTERS))
    names = f"< {low:g}", f"{low:g} to {high:g}", f">= {high:g}"
    parts = values < low, (values >= low) & (values < high), values >= high
    return [
        Slice(column, f"{word} ({name})", images)
        for word, name, images in zip(words, names, parts, strict=True)
        if 0 < images.sum() < len(values)
    ]


def _short(value: float) -> float:
    """To three digits: what a slice is called is where it begins."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return round(float(value), digits)


def _numbers(texts: Sequence[str]) -> np.ndarray | None:
    try:
        numbers = np.array([float(text) if text else np.nan for text in texts])
    except ValueError:
        return None
    return np.where(np.isfinite(numbers), numbers, np.nan)  # "inf" has no quarters


def compare_slices(
    table: ErrorTable,
    slices: Sequence[Slice],
    groups: Sequence[str],
    confidence: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """A row for each slice, the surest losses first: `column`, `slice`, `images`, `boxes`, `ap50`
    and `rest` (on the classes of both), their `difference` with `low` and `high`, `p` after Holm's
    correction, `worse`, and the slice's own `errors` and `costs` by type.

    groups: of each image; groups are drawn whole. None stands for what too few images say nothing
    about.
    """
    matches, draws = table.matches(), draw(groups, resamples, seed)
    boxes = matches.truths.sum(1)
    found = [_difference(matches, each, draws) for each in slices]
    tested = [i for i, each in enumerate(found) if each.error is not None]
    adjusted = holm_adjusted([p_worse_than(found[i], 0.0) for i in tested])
    p_values = dict(zip(tested, adjusted, strict=True))
    rows = [
        {
            "column": each.column,
            "slice": each.name,
            "images": int(each.images.sum()),
            "boxes": int(boxes[each.images].sum()),
            "ap50": difference.b,
            "rest": difference.a,
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "p": p_values.get(i),
            "worse": p_values.get(i, 1.0) <= ALPHA,
            "errors": table.counts(confidence, each.images),
            "costs": table.costs(each.images),
        }
        for i, (each, difference) in enumerate(zip(slices, found, strict=True))
    ]
    return sorted(rows, key=lambda row: 1.0 if row["p"] is None else row["p"])


def _difference(matches: MatchTable, part: Slice, draws: Draws) -> Difference:
    """AP50 of the slice minus that of the rest."""
    sides = part.images, ~part.images
    enough = [matches.truths[side].sum(0) >= LEAST_BOXES for side in sides]
    names = [name for name, both in zip(matches.names, enough[0] & enough[1]) if both]
    tables = [
        matches.subset([matches.images[i] for i in np.flatnonzero(side)], names) for side in sides
    ]
    (slice_ap, rest_ap) = (table.ap()[:, 0] for table in tables)
    groups = min(len(np.unique(draws.group[side])) for side in sides)
    about = ("AP50", part.name, int(tables[0].truths.sum()), int(part.images.sum()))
    if not names:
        return Difference(*about, None, None, groups=groups)
    found = Difference(*about, float(rest_ap.mean()), float(slice_ap.mean()), groups=groups)
    if groups < LEAST_GROUPS:
        return found
    on_draws = [
        ap_of_draws(table, replace(draws, group=draws.group[side])).ap50
        for table, side in zip(tables, sides, strict=True)
    ]
    spread = _mean_of_known(on_draws[0] - on_draws[1])
    spread = spread[~np.isnan(spread)]
    if len(spread) < 2:
        return found
    low, high = np.quantile(spread, expanded_levels(groups))
    error = float(spread.std() * math.sqrt(groups / (groups - 1)))
    return replace(found, low=float(low), high=float(high), error=error)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """(B,) of (C, B): the mean over the classes that a draw has on both sides."""
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
