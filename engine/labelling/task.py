"""One image for an annotator, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.types import Size


@dataclass(frozen=True)
class TaskBox:
    """A box to begin with. score: of the model that found it; None: a label of the dataset."""

    name: str  # of the class
    box: tuple[float, float, float, float]  # xyxy px
    score: float | None = None


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
