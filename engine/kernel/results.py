"""What a run tells: results.csv, one row per epoch, and the result that `train()` returns.

results.csv is rewritten whole and atomically, so it is never cut in the middle of a line.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError
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
    best_epoch: int
    epochs: int  # epochs trained
    stop_reason: str
    data_digest: str = ""


def write_results(path: Path, rows: list[Row]) -> None:
    """Write all rows; columns in the order of the fullest row (an epoch without validation lacks some), then of the others;
    an absent figure is an empty cell."""
    columns = list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))
    with atomic_write(path, "w") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows([{key: _cell(value) for key, value in row.items()} for row in rows])


def read_results(path: Path) -> list[Row]:
    """Rows as written: numbers where they are numbers, absent cells absent."""
    with open(path, newline="", encoding="utf-8") as stream:
        return [{key: _number(path, text) for key, text in row.items() if text} for row in csv.DictReader(stream)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _number(path: Path, text: str) -> float | int:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise CheckpointError(f"{path}: '{text}' is not a number; the file was changed by hand or damaged") from None
