"""What a run reports: results.csv, one row per epoch, and the result that `train()` returns.

results.csv is rewritten whole and atomically, so it is never cut in the middle of a line. Epochs
count from 1 in everything that is written or shown; only `trainer.epoch`, an index, is from 0.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError, TrainingError
from engine.files import atomic_write

Row = dict[str, Any]


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves behind."""

    save_dir: Path
    best: Path
    last: Path
    best_sha256: str
    metrics: dict[str, float]  # of the best model, validated alone
    best_epoch: int  # from 1, as in results.csv
    epochs: int  # epochs trained
    stop_reason: str
    data_digest: str = ""


def plain_metrics(metrics: Any, who: str) -> Row:
    """Metrics by name as Python numbers: what can be written anywhere and read back with
    `weights_only`. None stays.

    who: whose metrics, for messages.

    Raises:
        TrainingError: no mapping, or something in it that is not one number.
    """
    if not isinstance(metrics, Mapping):
        raise TrainingError(
            f"{who} must return metrics by name, a dict; it returned {type(metrics).__name__}"
        )
    return {str(name): _plain_number(value, f"{who}: '{name}'") for name, value in metrics.items()}


def _plain_number(value: Any, what: str) -> float | int | None:
    if value is None or type(value) in (int, float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise TrainingError(
            f"{what} must be one number or None, and is a {type(value).__name__}{shape}"
        ) from None


def measured_numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row that could be measured, without those that depend on the clock."""
    return {
        key: float(value)
        for key, value in row.items()
        if key != "time_s" and isinstance(value, (int, float)) and math.isfinite(value)
    }


def losses_not_finite(row: Row) -> list[str]:
    """The columns of validation losses that are inf or nan."""
    return [
        key
        for key, value in row.items()
        if key.startswith("val/") and value is not None and not math.isfinite(value)
    ]


def json_row(row: Row) -> Row:
    """A row as JSON can hold it, which knows no nan and no inf; `row_of_json` reads it."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


def row_of_json(row: Row) -> Row:
    """The row that `json_row` was given."""
    return {key: float(value) if isinstance(value, str) else value for key, value in row.items()}


def write_results(path: Path, rows: list[Row]) -> None:
    """Write all rows; columns in the order of the fullest row (an epoch without validation lacks
    some), then of the others; an absent metric is an empty cell.
    """
    columns = list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))
    with atomic_write(path, "w") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([{key: _cell(value) for key, value in row.items()} for row in rows])


def read_results(path: Path) -> list[Row]:
    """Rows as written: numbers where they are numbers, absent cells absent; epochs from 1."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [
            {key: _number(path, text) for key, text in row.items() if text}
            for row in csv.DictReader(stream)
        ]
    return numbered_from_one(rows)


def numbered_from_one(rows: Iterable[Row]) -> list[Row]:
    """The rows of a run, epochs from 1. Runs of earlier versions counted them from 0, and a run
    always has the row of its first epoch; numbers may be texts, as csv reads them.
    """
    rows = list(rows)
    if not rows or str(rows[0].get("epoch")) != "0":
        return rows
    return [{**row, "epoch": type(row["epoch"])(int(row["epoch"]) + 1)} for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(path: Path, text: str) -> float | int:
    try:
        return int(text) if text.lstrip("-").isdecimal() else float(text)
    except ValueError:
        raise CheckpointError(
            f"{path}: '{text}' is not a number; the file was changed by hand or damaged"
        ) from None
