"""Precision against recall, and F1, precision and recall against confidence: each class a thin
line, the mean thick.

Where there are many classes only the strongest and the weakest get a colour and a name: nobody
tells eighty colours apart. Classes without ground truth have no curve and are counted in the
legend's last line.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.metrics import DetectionScores
from engine.plots.style import INK, MUTED, dress, mpl_colour, new_figure, note, plain, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# up to so many all have a name and a colour, beyond only half of it at either end
NAMED_CLASSES = 20


@dataclass(frozen=True)
class Panel:
    """One of the four plots. Letters: C classes, P points."""

    file: str
    title: str
    x_name: str
    y_name: str
    x: np.ndarray  # (P,)
    y: np.ndarray  # (C, P), NaN rows: no ground truth
    values: np.ndarray  # (C,) what the legend says of each class
    mean: float | None  # what it says of the mean
    marked: float | None  # the confidence to mark


def plot_curves(
    scores: DetectionScores, folder: str | Path, only: Collection[str] | None = None
) -> list[Path]:
    """Write PR_curve.png, F1_curve.png, P_curve.png and R_curve.png into `folder`, in this order;
    or `only` some of them.

    The legend of the first gives AP50, those of the others the value at the confidence of the best
    mean F1.
    """
    wanted = [panel for panel in panels(scores) if only is None or panel.file in only]
    return [_draw(panel, scores.names, Path(folder) / panel.file) for panel in wanted]


def panels(scores: DetectionScores) -> list[Panel]:
    """The four plots as data."""
    curves = scores.curves
    ap50 = np.array(
        [np.nan if row["ap50"] is None else row["ap50"] for row in scores.per_class], float
    )
    first = Panel(
        "PR_curve.png",
        "Precision and recall at IoU 0.50",
        "recall",
        "precision",
        curves.recall_points,
        curves.pr,
        ap50,
        scores.map50,
        None,
    )
    rest = [
        Panel(
            file,
            f"{name} and confidence",
            "confidence",
            name,
            curves.confidence,
            values,
            values[:, curves.best],
            mean,
            scores.confidence,
        )
        for file, name, values, mean in (
            ("F1_curve.png", "F1", curves.f1, scores.f1),
            ("P_curve.png", "Precision", curves.precision, scores.precision),
            ("R_curve.png", "Recall", curves.recall, scores.recall),
        )
    ]
    return [first, *rest]


def _draw(panel: Panel, names: Sequence[str], path: Path) -> Path:
    figure = new_figure(9.5, 5.6)
    axes = figure.subplots()
    dress(axes, panel.title, panel.x_name, panel.y_name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    present = ~np.isnan(panel.y).all(1)
    if not present.any():
        note(axes, "no ground truth in these images")
        return save_figure(figure, path)
    (mean,) = axes.plot(panel.x, panel.y[present].mean(0), color=INK, linewidth=2.8, zorder=4)
    handles, labels = _class_lines(axes, panel, plain(names), present)
    handles.insert(0, mean)
    labels.insert(
        0, f"{panel.mean:.3f}  mean of {present.sum()} class{'es' if present.sum() > 1 else ''}"
    )
    if panel.marked is not None:
        _mark(axes, panel.marked, panel.mean, panel.y_name)
    legend = figure.legend(
        handles,
        labels,
        loc="outside right upper",
        fontsize=8.5,
        frameon=False,
        labelcolor=INK,
        title=_legend_title(panel),
    )
    legend.get_title().set(fontsize=8.5, color=MUTED)
    return save_figure(figure, path)


def _class_lines(
    axes: Axes, panel: Panel, names: Sequence[str], present: np.ndarray
) -> tuple[list, list[str]]:
    """Draw the classes; the handles and labels of those that have a name in the legend."""
    handles, labels = [], []
    drawn = np.flatnonzero(present)
    best_first = drawn[np.argsort(-panel.values[drawn], kind="stable")]
    half = NAMED_CLASSES // 2
    named = (
        drawn
        if len(drawn) <= NAMED_CLASSES
        else np.concatenate((best_first[:half], best_first[-half:]))
    )
    quiet = np.setdiff1d(drawn, named)
    for c in quiet:
        (grey,) = axes.plot(panel.x, panel.y[c], color=MUTED, alpha=0.35, linewidth=0.8, zorder=2)
    for place, c in enumerate(named):
        # Among many classes colours go by rank: the class numbers of the named ones may lie on one
        # hue.
        colour = mpl_colour(int(c) if len(quiet) == 0 else place)
        (line,) = axes.plot(panel.x, panel.y[c], color=colour, linewidth=1.1, alpha=0.85, zorder=3)
        if place == half and len(quiet):
            handles.append(grey)
            labels.append(f"{len(quiet)} classes between")
        handles.append(line)
        labels.append(f"{panel.values[c]:.3f}  {names[c]}")
    if absent := int((~present).sum()):
        handles.append(axes.plot([], [], alpha=0)[0])
        labels.append(f"{absent} without ground truth")
    return handles, labels


def _mark(axes: Axes, confidence: float, value: float, what: str) -> None:
    """A dashed line at the confidence of the best mean F1, the mean there, and at its foot both in
    figures.
    """
    axes.axvline(confidence, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=3.5)
    axes.plot(
        [confidence],
        [value],
        marker="o",
        markersize=7,
        color=INK,
        markeredgecolor="white",
        zorder=5,
    )
    left = confidence > 0.6
    axes.annotate(
        f"best mean F1 at {confidence:.3f}\n{what} there {value:.3f}",
        (confidence, 0.02),
        xytext=(-7 if left else 7, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="bottom",
        fontsize=8.5,
        color=INK,
        zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )


def _legend_title(panel: Panel) -> str:
    return "AP50" if panel.marked is None else f"{panel.y_name} at confidence {panel.marked:.3f}"
