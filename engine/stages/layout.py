"""What the stages have in common: where each result lies, how a folder is published whole, how a
summary is kept.

A stage is one verb: `run(params, root, progress=None, callbacks=()) -> dict`, parameters and paths
in, files and a JSON summary out. It knows nothing of Prefect, DVC or MLflow; `engine.stages.runner`
attaches those from outside.

What lies below `reports/`:

    code/STAGE.json          what the code of each stage does: digests of modules, settings
    data.json                what was prepared: counts, findings, digests
    train/results.csv        one row per epoch, as the run has it, without times
    train/curves/            of these, what `dvc plots` draws: losses/TERM.csv, metrics/NAME.csv
    train/metrics.json       numbers only (DVC puts them into one table): best_epoch, epochs,
                             metrics/*, val/*
    train/origin.json        what they belong to: model, weights_sha256, data_digest, start (file ->
                             SHA-256)
    validate/metrics.json    numbers only: metrics/*; null where nothing could be measured
    validate/origin.json     split, weights_sha256
    validate/errors.json     where the detector fails: types of errors and their costs, slices, the
                             hardest images, probable label errors; images of them in errors/
    validate/thresholds.json weights_sha256, and the operating point that goes into exported files:
                             goal, calibration, a threshold for each class; null where nothing could
                             be chosen
    validate/operating_point.json  what that gives on the split, with intervals
    export.json              weights_sha256, and of each format its file, SHA-256 and parity with
                             PyTorch
    compare/errors.json      what the version gains and loses against the champion, by class and
                             image, with images; an empty object where nothing was compared
    index.html               the report: all of this for people, in one page
    model_card.md            the same in short, recorded facts only
    registration.json        model, version, aliases, decision and its reason, the metrics it was
                             made by, and where MLflow has the training's run
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import WorkspaceError
from engine.files import publish_folder, write_text

__all__ = [
    "STAGES",
    "Attached",
    "Layout",
    "Progress",
    "metric_value",
    "publish_folder",
    "read_json",
    "read_report",
    "read_table",
    "relative",
    "write_json",
]

STAGES = ("prepare", "train", "validate", "export", "register")

Progress = Callable[
    [dict[str, Any]], None
]  # called now and then with plain values: stage, done, total, metrics
Attached = tuple[
    str, Callable[[Any], None]
]  # event of an executor, and what to call; its failure never ends the run


@dataclass(frozen=True)
class Layout:
    """Where the stages of one workspace keep their results; dvc.yaml names the same paths."""

    root: Path

    @property
    def prepared(self) -> Path:
        return self.root / "data" / "prepared"

    @property
    def weights(self) -> Path:
        return self.root / "weights"

    @property
    def best(self) -> Path:
        return self.weights / "best.pt"

    @property
    def export(self) -> Path:
        return self.root / "export"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def summary(self, stage: str) -> Path:
        """The JSON file that says what a stage made."""
        names = {
            "prepare": "data.json",
            "train": "train/metrics.json",
            "validate": "validate/metrics.json",
            "export": "export.json",
            "register": "registration.json",
        }
        return self.reports / names[stage]

    def origin(self, stage: str) -> Path:
        """The JSON file beside the metrics of stage train or validate that says what they belong
        to.
        """
        return self.summary(stage).with_name("origin.json")

    @property
    def thresholds(self) -> Path:
        """The operating point that stage validate chose, for stage export."""
        return self.reports / "validate" / "thresholds.json"

    @property
    def compare(self) -> Path:
        """What a version gains and loses against the champion: the folder."""
        return self.reports / "compare"

    def code(self, stage: str) -> Path:
        """The file that says what the code of a stage does: its code dependency in dvc.yaml."""
        return self.reports / "code" / f"{stage}.json"

    @property
    def resumable(self) -> Path:
        """Folders of unfinished trainings, by fingerprint."""
        return self.root / "runs" / "ckpt"


def write_json(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Write `values` whole, keys in their order; equal values give equal bytes. Returns them."""
    write_text(path, json.dumps(values, indent=2, ensure_ascii=False, default=_plain) + "\n")
    return values


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """Read a summary. WorkspaceError names the stage that makes it when it is missing or
    damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WorkspaceError(
            f"{path}: not there. Stage {made_by} makes it: run `detectflow run`."
        ) from None
    except ValueError as error:
        raise WorkspaceError(
            f"{path}: not valid JSON ({error}). Delete it and run stage {made_by} again."
        ) from None


def read_report(layout: Layout, stage: str) -> dict[str, Any]:
    """The whole summary of stage train or validate: its metrics and what they belong to, together
    again.

    Reports written before `origin.json` existed have all of it in `metrics.json` and read the same.

    Raises:
        WorkspaceError: a file is missing or damaged; names the stage that makes it.
    """
    metrics, origin = read_json(layout.summary(stage), stage), layout.origin(stage)
    return {**(read_json(origin, stage) if origin.is_file() else {}), **metrics}


def read_table(path: Path) -> tuple[dict[str, str], ...]:
    """The rows of a CSV table, such as per_class.csv; none where there is no such file."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return tuple(csv.DictReader(file))
    except OSError:
        return ()


def metric_value(value: float | None) -> float | None:
    """A measured value for a report: six digits, None where it could not be measured (JSON knows no
    NaN).
    """
    return None if value is None or not math.isfinite(value) else round(float(value), 6)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in a JSON summary")


def relative(path: str | Path, root: Path) -> str:
    """`path` relative to `root`, for results that must not hold a machine's paths."""
    path = Path(path)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
