"""One image for an annotator, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.types import Size


@dataclass(frozen=True)
class TaskBox:
    """A box to begin with. score: of the model that found it; None: a label of the dataset."""

    name: str  # of the class
    box: tuple[float, float, float, float]  # xyxy px
    score: float | None = None


LEAST_SIDE_PX = 1.0  # of a box of the model: what is smaller cannot be seen or taken hold of


def can_be_seen(box: Sequence[float]) -> bool:
    """Whether an annotator can do something with a box, xyxy px."""
    return box[2] - box[0] >= LEAST_SIDE_PX and box[3] - box[1] >= LEAST_SIDE_PX


@dataclass(frozen=True)
class Task:
    """labels: what the dataset says; found: what the model says; suggested: of these, what an
    annotator without sight of both sides is to begin with, beside the labels.
    """

    file: Path
    name: str  # for people
    sha256: str
    size: Size
    why: str  # "label error", "hard" or "uncertain"
    score: float  # the greater the more it is worth, among those of one reason
    detail: str
    labels: tuple[TaskBox, ...] = ()
    found: tuple[TaskBox, ...] = ()
    suggested: tuple[TaskBox, ...] = ()
