"""What a training shows of single epochs: predictions on the same images each time, curves, confusion matrix.

Not part of stage train: it decides nothing about the weights. `engine.stages.runner` hands it to tracking.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.detect.pictures import plot_batch, plot_found
from engine.parts.plots import plot_confusion, plot_curves

IMAGES = 9  # of the first batch; a validation always sees its images in the same order
CURVES = ("PR_curve.png", "F1_curve.png")


class EpochArtist:
    """Satisfies `engine.tracking.pictures.Artist` for a `DetectionValidator`."""

    def __init__(self) -> None:
        self._batch: dict[str, Any] | None = None
        self._found: list[Any] = []
        self._truth_drawn = False

    def catch(self, validator: Any) -> None:
        if self._batch is None:
            batch = validator.batch
            first = batch["batch_idx"] < IMAGES
            self._batch = {
                "img": (batch["img"][:IMAGES] * 255).round().byte().cpu(),
                "im_file": list(batch.get("im_file", ()))[:IMAGES],
                "batch_idx": batch["batch_idx"][first].cpu(),
                "bboxes": batch["bboxes"][first].cpu(),
                "cls": batch["cls"][first].cpu(),
            }
            self._found = list(validator.results[:IMAGES])

    def draw(self, validator: Any, folder: Path) -> dict[str, Path]:
        batch, self._batch = self._batch, None
        names, pictures = validator.names, {}
        if batch is not None:
            pictures["val/predictions"] = folder / "predictions.jpg"
            plot_found(batch, self._found, names, pictures["val/predictions"])
            if not self._truth_drawn:
                pictures["val/labels"] = folder / "labels.jpg"
                plot_batch(batch, names, pictures["val/labels"])
                self._truth_drawn = True
        if validator.scores is not None and validator.scores.instances:
            for path in plot_curves(validator.scores, folder, only=CURVES):
                pictures[f"val/{path.stem}"] = path
            pictures["val/confusion_matrix"] = plot_confusion(validator.scores.confusion, names, folder / "confusion.png")
        return pictures
