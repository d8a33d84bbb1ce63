"""What a training shows of single epochs: predictions on the same images each time, curves,
confusion matrix.

Not part of stage train: it decides nothing about the weights. `engine.stages.runner` hands it to
tracking.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from engine.detect.batch_plots import plot_batch, plot_found
from engine.metrics import DetectionScores
from engine.plots import plot_confusion, plot_curves
from engine.tracking.epoch_images import Draw

# the first; a validation always sees its images in the same order. Two rows, so that a screen shows
# them whole
IMAGES = 6
CURVES = ("PR_curve.png", "F1_curve.png")


class EpochArtist:
    """Satisfies `engine.tracking.epoch_images.Artist` for a `DetectionValidator`."""

    def __init__(self) -> None:
        self._batches: list[dict[str, Any]] = []
        self._found: list[Any] = []
        self._truth_drawn = False

    def catch(self, validator: Any) -> None:
        batch, before = validator.batch, len(self._found)
        wanted = IMAGES - before
        if wanted <= 0:
            return
        first = batch["batch_idx"] < wanted
        self._batches.append(
            {
                "img": (batch["img"][:wanted] * 255).round().byte().cpu(),
                "im_file": list(batch.get("im_file", ()))[:wanted],
                "batch_idx": batch["batch_idx"][first].cpu() + before,
                "bboxes": batch["bboxes"][first].cpu(),
                "cls": batch["cls"][first].cpu(),
            }
        )
        self._found += validator.results[:wanted]

    def take(self, validator: Any) -> Draw:
        batches, found = self._batches, self._found
        self._batches, self._found = [], []
        with_truth, self._truth_drawn = not self._truth_drawn, True
        return functools.partial(
            draw, joined(batches), found, validator.names, validator.scores, with_truth
        )


def draw(
    batch: dict[str, Any],
    found: list[Any],
    names: Sequence[str],
    scores: DetectionScores | None,
    with_truth: bool,
    folder: Path,
) -> dict[str, Path]:
    """Plots of one validation in `folder`, by key. batch: the images that are shown; found: what
    was found in them.
    """
    # The group in which MLflow shows them, after the curves. Earlier versions called it "pictures".
    plots = {}
    if found:
        plots["val pictures/predictions"] = folder / "predictions.jpg"
        plot_found(batch, found, names, plots["val pictures/predictions"])
        if with_truth:
            plots["val pictures/labels"] = folder / "labels.jpg"
            plot_batch(batch, names, plots["val pictures/labels"])
    if scores is not None and scores.instances:
        for path in plot_curves(scores, folder, only=CURVES):
            plots[f"val pictures/{path.stem}"] = path
        plots["val pictures/confusion_matrix"] = plot_confusion(
            scores.confusion, names, folder / "confusion.png"
        )
    return plots


def joined(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Batches as one; `batch_idx` counts over all of them already."""
    files = [name for batch in batches for name in batch["im_file"]]
    tensors = ("img", "batch_idx", "bboxes", "cls")
    return {"im_file": files} | {
        key: torch.cat([batch[key] for batch in batches]) for key in tensors if batches
    }
