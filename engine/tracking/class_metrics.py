"""Metrics of single classes: names that MLflow takes, and not more of them than can be
looked at.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

LABEL_CHARACTERS = 60  # of a class name within a metric's name
METRICS = {"ap": "AP50-95", "ap50": "AP50"}  # column of per_class.csv -> name


class ClassMetrics:
    """Keeps what a validation said of its classes until it is asked; attach `on_val_end`."""

    def __init__(self, most: int, prefix: str, columns: Sequence[str] = tuple(METRICS)):
        self.most, self.prefix, self.columns = most, prefix, columns
        self._rows: Sequence[Mapping[str, Any]] = ()

    def on_val_end(self, validator: Any) -> None:
        scores = getattr(validator, "scores", None)  # a validator of the user's own may have none
        self._rows = scores.per_class if scores is not None else ()

    def take(self) -> dict[str, float]:
        """Metrics of the last validation, once."""
        rows, self._rows = self._rows, ()
        return class_metrics(rows, self.prefix, self.most, self.columns)


def legal_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Class names as the last part of a metric's name: one level, none twice, and by number where
    nothing legible is left.

    Accents go (`Löwe`, `Lowe`), other signs become `_`; two names that would then be one get their
    class numbers.
    """
    plain = [
        unicodedata.normalize("NFKD", str(name)).encode("ascii", "ignore").decode()
        for name in names
    ]
    labels = [
        re.sub(r"[^\w\-. ]+", "_", text).strip(" ._")[:LABEL_CHARACTERS].strip() for text in plain
    ]
    labels = [
        label if re.search(r"[A-Za-z0-9]", label) else f"class {i}"
        for i, label in enumerate(labels)
    ]
    # MLflow keeps its data in folders and databases that may not tell capitals from small letters.
    again, taken = Counter(label.lower() for label in labels), set()
    for i, label in enumerate(labels):
        if again[label.lower()] > 1:
            labels[i] = f"{label} {i}"
        while labels[i].lower() in taken:
            labels[i] += f" {i}"
        taken.add(labels[i].lower())
    return tuple(labels)


def class_metrics(
    rows: Sequence[Mapping[str, Any]],
    prefix: str,
    most: int,
    columns: Sequence[str] = tuple(METRICS),
) -> dict[str, float]:
    """AP of single classes as metrics `PREFIX class AP50-95/NAME`, so that each metric is a group
    with a chart per class.

    rows: per class name, instances, ap, ap50, in the order of the classes. most: so many classes,
    those with most instances, which are the same in every epoch.
    """
    labels = legal_labels([row["name"] for row in rows])
    order = sorted(range(len(rows)), key=lambda i: (-rows[i]["instances"], i))[:most]
    found = {}
    for key in columns:
        for i in sorted(order):
            if rows[i][key] is not None:
                found[f"{prefix} class {METRICS[key]}/{labels[i]}"] = float(rows[i][key])
    return found
