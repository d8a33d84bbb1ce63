"""The labels of a dataset on one page: how many of each class, where they lie, how large they are,
what shape they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.plots.style import INK, MUTED, dress, mpl_colour, new_figure, note, plain, save_figure
from engine.types import ImageRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 80  # bars with a readable name; of more classes the most frequent are shown
BINS = 50
WIDEST = 8  # aspect ratios beyond 8 to 1 count in the last bar


def plot_labels(records: Sequence[ImageRecord], names: Sequence[str], path: str | Path) -> Path:
    """Write four panels: instances per class; centres, sizes and aspect of the boxes, relative to
    their images.

    Crowd boxes and boxes without area are left out of the last three.
    """
    classes = np.concatenate(
        [np.zeros(0, np.int64), *(np.asarray(r.classes, np.int64) for r in records)]
    )
    figure = new_figure(12, 7.6)
    parts = figure.subplot_mosaic(
        [["classes"] * 3, ["centres", "sizes", "aspect"]], height_ratios=[1, 1.15]
    )
    _classes(parts["classes"], np.bincount(classes, minlength=len(names)), names, len(records))
    xywh, aspect = relative_boxes(records)
    _density(
        parts["centres"],
        xywh[:, :2],
        "Box centres",
        "x / image width",
        "y / image height",
        downwards=True,
    )
    _density(
        parts["sizes"], xywh[:, 2:], "Box sizes", "width / image width", "height / image height"
    )
    _aspects(parts["aspect"], aspect)
    return save_figure(figure, path)


def relative_boxes(records: Sequence[ImageRecord]) -> tuple[np.ndarray, np.ndarray]:
    """(N, 4) centre x, y, width, height as fractions of the image, and (N,) width / height in
    pixels.
    """
    fractions, aspects = [np.zeros((0, 4))], [np.zeros(0)]
    for record in records:
        boxes = np.asarray(record.boxes, np.float64).reshape(-1, 4)
        if record.crowd is not None:
            boxes = boxes[~np.asarray(record.crowd, bool)]
        sides = boxes[:, 2:] - boxes[:, :2]
        boxes, sides = boxes[(sides > 0).all(1)], sides[(sides > 0).all(1)]
        scale = np.array(record.size[::-1], np.float64)  # (w, h)
        fractions.append(
            np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2 / scale, sides / scale), 1)
        )
        aspects.append(sides[:, 0] / sides[:, 1])
    return np.concatenate(fractions), np.concatenate(aspects)


def _classes(axes: Axes, counts: np.ndarray, names: Sequence[str], images: int) -> None:
    """A bar per class in the order of the names, or of the most frequent where they are too
    many.
    """
    shown = np.arange(len(counts))
    title = f"Instances per class: {counts.sum():,} in {images:,} images"
    if len(counts) > MOST_CLASSES:
        shown = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
        title += f" (the {MOST_CLASSES} most frequent of {len(counts)} classes)"
    dress(axes, title, "", "instances")
    if not len(shown):
        return note(axes, "no classes")
    known = plain(names)
    labels = [known[c] if c < len(names) else f"class {c}" for c in shown]
    axes.bar(range(len(shown)), counts[shown], width=0.8, color=[mpl_colour(int(c)) for c in shown])
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(False, axis="x")
    room_pt = 10.5 * 72 / len(shown)
    size = float(np.clip(room_pt * 0.8, 5.5, 9))
    upright = max(map(len, labels)) * size * 0.64 > room_pt
    axes.set_xticks(range(len(shown)), labels, fontsize=size, rotation=90 if upright else 0)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.set_ylim(0, max(counts.max() * 1.12, 1))
    figure_size = min(8.5, room_pt * 0.9 / (max(len(str(counts.max())), 2) * 0.64))
    if figure_size >= 5:
        for at, count in enumerate(counts[shown]):
            axes.text(
                at, count, f"{count}", ha="center", va="bottom", fontsize=figure_size, color=INK
            )


def _density(
    axes: Axes, points: np.ndarray, title: str, x: str, y: str, downwards: bool = False
) -> None:
    """How many of points (N, 2) in [0, 1] fall into each cell of a grid; the logarithm keeps single
    boxes visible.
    """
    dress(axes, title, x, y)
    axes.set_aspect("equal")
    axes.set_xlim(0, 1)
    axes.set_ylim((1, 0) if downwards else (0, 1))
    if not len(points):
        return note(axes, "no boxes")
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    inside = np.clip(points, 0, 1)
    counts, _, _ = np.histogram2d(inside[:, 0], inside[:, 1], bins=BINS, range=((0, 1), (0, 1)))
    shown = np.ma.masked_equal(counts.T, 0)
    axes.grid(False)
    norm = LogNorm(1, max(counts.max(), 2))
    mesh = axes.imshow(
        shown,
        cmap="viridis_r",
        norm=norm,
        origin="lower",
        extent=(0, 1, 0, 1),
        interpolation="nearest",
    )
    axes.set_ylim((1, 0) if downwards else (0, 1))
    bar = axes.figure.colorbar(
        mesh,
        ax=axes,
        shrink=0.75,
        aspect=25,
        pad=0.02,
        ticks=LogLocator(subs=(1, 2, 5)),
        format="%d",
    )
    bar.ax.minorticks_off()
    bar.set_label("boxes per cell", color=INK, fontsize=8)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)


def _aspects(axes: Axes, aspect: np.ndarray) -> None:
    """A histogram of width / height, on a scale where 1:2 and 2:1 lie equally far from the
    square.
    """
    dress(axes, "Box shapes", "width / height", "boxes")
    axes.set_box_aspect(1)
    if not len(aspect):
        return note(axes, "no boxes")
    widest = np.log2(WIDEST)
    axes.hist(
        np.clip(np.log2(aspect), -widest, widest),
        bins=48,
        range=(-widest, widest),
        color=mpl_colour(0),
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    ticks = [1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    axes.set_xticks(np.log2(ticks), ["≤1:8", "1:4", "1:2", "1", "2:1", "4:1", "≥8:1"])
    axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.grid(False, axis="x")
