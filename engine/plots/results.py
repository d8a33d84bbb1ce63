"""The table of a training run, results.csv, as small multiples: what belongs together is in one
panel.

Training and validation loss of one name lie in one panel, because their distance matters.
A value that is absent (an epoch without validation) is a gap in its line, never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.plots.style import INK, dress, mpl_colour, new_figure, note, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW_EPOCHS = 25  # up to so many each has a dot
PANELS_WIDE = 3
LOSSES = ("train", "val")
PAIRED_METRICS = ("precision", "recall")


def plot_results(rows: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Write the history of a run: rows of results.csv in their order, values as numbers or as the
    file's texts.

    Columns are grouped by their names (`group_columns`); a column without a single number has no
    line.
    """
    columns = {
        name: _numbers(rows, name) for name in dict.fromkeys(name for row in rows for name in row)
    }
    epochs = columns.get("epoch", np.full(len(rows), np.nan))
    epochs = np.where(np.isnan(epochs), np.arange(1, len(rows) + 1), epochs)
    groups = group_columns([name for name, values in columns.items() if not np.isnan(values).all()])
    if not groups:
        figure = new_figure(5, 3)
        note(figure.subplots(), "no results yet")
        return save_figure(figure, path)
    wide = min(PANELS_WIDE, len(groups))
    tall = math.ceil(len(groups) / wide)
    figure = new_figure(4.3 * wide, 3.1 * tall)
    grid = figure.subplots(tall, wide, squeeze=False).ravel()
    for axes, (title, names) in zip(grid, groups.items()):
        _draw(axes, title, epochs, {label: columns[name] for label, name in names.items()})
    for axes in grid[len(groups) :]:
        axes.remove()
    return save_figure(figure, path)


def group_columns(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Title of each panel -> label of each line -> column. Columns without a group, such as
    `time_s`, have no panel.

    train/x and val/x meet in panel x; precision and recall are in one, the mAPs too, the learning
    rates too; a metric of any other kind stands alone.
    """
    panels: dict[str, dict[str, dict[str, str]]] = {"loss": {}, "metric": {}, "other": {}}
    for column in names:
        group, slash, name = column.partition("/")
        if not slash:
            continue
        if group in LOSSES:
            kind, title, label = "loss", name, group
        elif group == "metrics" and name in PAIRED_METRICS:
            kind, title, label = "metric", "precision and recall", name
        elif group == "metrics":
            kind, title, label = "metric", "mAP" if name.startswith("mAP") else name, name
        else:
            kind, title, label = "other", "learning rate" if group == "lr" else group, name
        panels[kind].setdefault(title, {})[label] = column
    merged: dict[str, dict[str, str]] = {}
    for kind, by_title in panels.items():
        for title, lines in by_title.items():
            merged[title if title not in merged else f"{title} ({kind})"] = lines
    return merged


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """(rows,) float, NaN where there is no finite number."""
    values = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        try:
            values[i] = float(row.get(name, "nan"))
        except (TypeError, ValueError):
            continue
    values[~np.isfinite(values)] = np.nan
    return values


def _draw(axes: Axes, title: str, epochs: np.ndarray, lines: Mapping[str, np.ndarray]) -> None:
    dress(axes, plain([title], 34)[0], "epoch")
    labels = plain(list(lines))
    for i, values in enumerate(lines.values()):
        colour, label = mpl_colour(i), labels[i]
        if title == "mAP":
            best = int(np.nanargmax(values))
            label = f"{label}, best {values[best]:.3f} at {epochs[best]:g}"
            axes.plot(
                epochs[best],
                values[best],
                "o",
                color=colour,
                markersize=6,
                markeredgecolor="white",
                zorder=4,
            )
        # Learning rates of groups are often equal: the ones below are wider and stay visible.
        width = 1.7 + (1.2 * (len(lines) - 1 - i) if title == "learning rate" else 0)
        axes.plot(epochs, values, color=colour, linewidth=width, label=label, zorder=3)
        dots = np.full(len(values), True) if len(values) <= FEW_EPOCHS else _alone(values)
        axes.plot(epochs[dots], values[dots], ".", color=colour, markersize=4.5, zorder=3)
    _scale(
        axes,
        epochs,
        np.concatenate(list(lines.values())),
        fractions=title in ("mAP", "precision and recall"),
    )
    if len(lines) > 1 or title == "mAP":
        axes.legend(fontsize=8, frameon=False, labelcolor=INK)


def _alone(values: np.ndarray) -> np.ndarray:
    """(rows,) bool: numbers between two gaps, of which a line shows nothing."""
    gap = np.isnan(np.concatenate(([np.nan], values, [np.nan])))
    return ~gap[1:-1] & gap[:-2] & gap[2:]


def _scale(axes: Axes, epochs: np.ndarray, values: np.ndarray, fractions: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    first, last = epochs.min(), epochs.max()
    room = 0.5 if first == last else 0.015 * (last - first)  # so that the outer dots are whole
    axes.set_xlim(first - room, last + room)
    axes.margins(y=0.08)
    if fractions:
        axes.set_ylim(0, 1.02)
    elif np.nanmin(values) >= 0:
        axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4))
