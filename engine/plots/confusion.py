"""The confusion matrix as a plot: colour is the fraction of the true class, text the count.

Everything that is written is sized by the room it has, from one class to hundreds; text that would
not fit is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.plots.style import INK, MUTED, dress, new_figure, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BACKGROUND = "background"
CELL_IN, LARGEST_IN = 0.62, 15.0  # side of a cell where there is room, and of all cells together
SMALLEST_PT, LARGEST_PT = 4.5, 11.0  # of lettering
DIGIT = 0.64  # width of a digit of DejaVu Sans, as a fraction of its size


def plot_confusion(counts: np.ndarray, names: Sequence[str], path: str | Path) -> Path:
    """Write the matrix `counts` (C + 1, C + 1): rows the true class, columns the predicted one,
    background last.

    Rows are normalised for colour; a row without counts stays pale. names: the C class names.
    """
    counts = np.asarray(counts)
    size = len(names) + 1
    if counts.shape != (size, size):
        raise ValueError(
            f"{len(names)} names need counts of shape ({size}, {size}), not {counts.shape}"
        )
    side = min(LARGEST_IN, max(2.4, CELL_IN * size))
    cell_pt = side / size * 72
    labels = [*plain(names), BACKGROUND]
    label_in = max(1.2, max(map(len, labels)) * _name_pt(cell_pt) * DIGIT / 72)
    figure = new_figure(side + 1.4 + label_in, side + 0.8 + label_in)
    figure.set_layout_engine(
        "compressed"
    )  # square axes beside long names: "constrained" would cut the title
    axes = figure.subplots()
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(
        fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="equal"
    )
    dress(axes, "Confusion matrix: detections by true class", "predicted", "true")
    axes.grid(False)
    _name_ticks(axes, labels, cell_pt)
    _write_counts(axes, counts, fractions, cell_pt)
    axes.axhline(size - 1.5, color=MUTED, linewidth=0.8)  # the background is no class
    axes.axvline(size - 1.5, color=MUTED, linewidth=0.8)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=25, pad=0.02)
    bar.set_label("fraction of the true class", color=INK, fontsize=9)
    bar.outline.set_visible(False)
    return save_figure(figure, path)


def _name_pt(cell_pt: float) -> float:
    """The size of class names beside cells of this side."""
    return min(LARGEST_PT - 1, max(SMALLEST_PT + 1, cell_pt * 0.72))


def _name_ticks(axes: Axes, labels: list[str], cell_pt: float) -> None:
    """Class names at the rows and columns; with less room than a line of text per cell, only every
    so many.
    """
    size = _name_pt(cell_pt)
    step = max(1, int(np.ceil(size * 1.15 / cell_pt)))
    at = list(range(0, len(labels), step))
    if at[-1] != len(labels) - 1:
        at[-1] = len(labels) - 1  # the background is always named
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(at, [labels[i] for i in at], fontsize=size)
    axes.tick_params(length=0)
    # Names lie flat only where all are narrower than their cells; "background", often the longest,
    # turns alone.
    widest = max(map(len, labels[:-1]), default=0)
    for label in axes.get_xticklabels():
        length = len(BACKGROUND) if label.get_text() == BACKGROUND else widest
        label.set_rotation(0 if length * size * DIGIT <= cell_pt else 90)


def _write_counts(axes: Axes, counts: np.ndarray, fractions: np.ndarray, cell_pt: float) -> None:
    """The counts that are not 0, in one size for all; nothing where the longest would be too small
    to read.
    """
    digits = max(len(f"{counts.max(initial=0)}"), 2)
    size = min(LARGEST_PT, cell_pt * 0.6, cell_pt * 0.92 / (digits * DIGIT))
    if size < SMALLEST_PT:
        return
    for row, column in np.argwhere(counts > 0):
        ink = "white" if fractions[row, column] > 0.55 else INK
        axes.text(
            column,
            row,
            f"{counts[row, column]}",
            ha="center",
            va="center",
            fontsize=size,
            color=ink,
        )
