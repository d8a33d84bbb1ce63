"""The formats beside each other: size, accuracy and time of the same weights in each, for people
who choose one. It decides nothing.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import ExportConfig
from engine.detect.validator import validator_class_of
from engine.errors import EngineError
from engine.export.exporter import export
from engine.export.latency import measure_latency
from engine.metrics.reported import PRIMARY
from engine.model_formats.table import FORMATS, find_format

log = logging.getLogger("detectflow")


def benchmark(
    weights: str | Path,
    data: str | Path | None = None,
    formats: tuple[str, ...] = (),
    device: str = "cpu",
    settings: ExportConfig | None = None,
    validation: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """A row per format, the weights as they are first: format, file, status, size_mb, the metric
    `metrics/mAP50-95` on `data`, median_ms of one image through the network, fps.

    formats: names of the table; none: all. data: None: nothing is validated. validation: settings
    of it. Files are written into a folder that goes away. A format that cannot be written has its
    reason as status, and does not keep the others from being measured.

    Raises:
        ConfigError: an unknown format. CheckpointError: weights that cannot be read.
    """
    weights, rows = Path(weights), []
    names = [find_format(name).name for name in formats or FORMATS]
    with tempfile.TemporaryDirectory(prefix="detectflow-") as folder:
        for name in ("pytorch", *names):
            row: dict[str, Any] = {"format": name, "file": weights.name, "status": "ok"}
            row |= dict.fromkeys(("size_mb", PRIMARY, "median_ms", "fps"))
            try:
                of_weights = name == "pytorch" or FORMATS[name].suffix == weights.suffix
                file = weights if of_weights else export(weights, name, folder, settings).path
                row["file"], row["size_mb"] = file.name, round(file.stat().st_size / 1e6, 2)
                if data is not None:
                    given = {"plots": False, "device": device, **(validation or {})}
                    validator = validator_class_of(file)(overrides=given)
                    row[PRIMARY] = validator(model=file, data=data)[PRIMARY]
                row["median_ms"] = measure_latency(file, device)["median_ms"]
                row["fps"] = round(1000 / max(row["median_ms"], 0.01), 1)
            except EngineError as error:
                if of_weights:  # then no other format can be measured either
                    raise
                row["status"] = str(error)
                log.warning("benchmark: %s: %s", name, error)
            rows.append(row)
    return rows
