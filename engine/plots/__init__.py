"""Plots of a run: images with boxes, curves, confusion matrix, results, labels of a dataset.

Every function takes plain arrays and writes its files whole or not at all; nothing here computes a
metric, and a change makes no stage stale. matplotlib is imported when it is needed. May import
`engine.metrics` and the vocabulary.
"""

from engine.plots.confusion import plot_confusion
from engine.plots.curves import plot_curves
from engine.plots.images import draw_detections, plot_images, write_image
from engine.plots.labels import plot_labels
from engine.plots.reliability import plot_reliability
from engine.plots.results import plot_results

__all__ = [
    "draw_detections",
    "plot_confusion",
    "plot_curves",
    "plot_images",
    "plot_labels",
    "plot_reliability",
    "plot_results",
    "write_image",
]
