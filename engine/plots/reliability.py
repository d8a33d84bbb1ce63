"""The reliability diagram: how often detections of a score are right, before and after calibration.

A bar for each interval of the score, as high as the fraction of its detections that is true; on the
diagonal a score is a probability. Below it, how many detections there are.
Source: Niculescu-Mizil and Caruana, Predicting Good Probabilities with Supervised Learning (2005).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.plots.style import INK, MUTED, dress, mpl_colour, new_figure, note, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILION = 0, 3  # of the palette
Rows = Sequence[Mapping[str, Any]]


def plot_reliability(calibration: Mapping[str, Any], path: str | Path) -> Path:
    """Write the diagram. calibration: that of an operating point's report, with `method`,
    `ece_before`, `ece_after` and, under `reliability`, rows (low, high, detections, score, true)
    `before` and `after`.
    """
    figure = new_figure(9.0, 5.4)
    axes = figure.subplots(2, 2, sharex=True, height_ratios=[3, 1])
    titles = ("Scores of the network", f"Calibrated ({calibration['method']})")
    highest = max(
        (row["detections"] for rows in calibration["reliability"].values() for row in rows),
        default=0,
    )
    for column, (kind, title) in enumerate(zip(("before", "after"), titles, strict=True)):
        rows, error = calibration["reliability"][kind], calibration[f"ece_{kind}"]
        said = "" if error is None else f", ECE {error:.3f}"
        _draw_rates(axes[0, column], rows, f"{title}{said}")
        _draw_counts(axes[1, column], rows, highest)
    axes[0, 0].set_ylabel("fraction that is right", color=INK)
    axes[1, 0].set_ylabel("detections", color=INK)
    return save_figure(figure, path)


def _draw_rates(axes: Axes, rows: Rows, title: str) -> None:
    dress(axes, title)
    held = [row for row in rows if row["detections"]]
    if not held:
        note(axes, "no detections")
        return
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    width = held[0]["high"] - held[0]["low"]
    axes.bar(
        [row["low"] for row in held],
        [row["true"] for row in held],
        width=width,
        align="edge",
        color=mpl_colour(BLUE),
        edgecolor="white",
        label="right",
    )
    axes.plot(  # where a bar would end if its scores were probabilities
        [(row["low"] + row["high"]) / 2 for row in held],
        [row["score"] for row in held],
        color=mpl_colour(VERMILION),
        marker="_",
        markersize=14,
        markeredgewidth=2,
        linestyle="none",
        label="mean score",
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=9, loc="upper left")


def _draw_counts(axes: Axes, rows: Rows, highest: int) -> None:
    dress(axes, x="score")
    axes.bar(
        [row["low"] for row in rows],
        [row["detections"] for row in rows],
        width=rows[0]["high"] - rows[0]["low"],
        align="edge",
        color=MUTED,
        edgecolor="white",
    )
    axes.set_ylim(0, max(highest, 1) * 1.05)
