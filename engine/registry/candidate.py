"""A detector on its way into the registry, and what became of it: values that travel between stage,
gates and MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import PredictConfig
from engine.registry.gates import Decision, Measured

DEFAULTS = PredictConfig().thresholds()  # of a call that names none; the ONNX file says the same


@dataclass(frozen=True)
class Candidate:
    """A detector to be registered."""

    name: str  # of the registered model
    onnx: Path
    onnx_sha256: str
    measured: Measured
    metrics: Mapping[str, float]  # of the deciding split, as `test/mAP50`
    facts: Mapping[str, Any] = field(
        default_factory=dict
    )  # plain data for the model's own metadata
    tags: Mapping[str, str] = field(default_factory=dict)  # further tags of the version
    example: bytes = b""  # an encoded image
    per_class: Sequence[Mapping[str, Any]] = ()  # rows of per_class.csv
    best_conf: float | None = None  # the confidence of the best mean F1 on the deciding split
    files: Sequence[Path] = ()  # of the workspace, in YAML, for the run's artifacts: dvc.lock


@dataclass(frozen=True)
class Registration:
    """What became of a candidate."""

    version: str
    aliases: tuple[str, ...]
    decision: Decision
    champion: Measured | None  # whom it was measured against, None where there was none
    run_id: str | None
    experiment_id: str  # of that run
