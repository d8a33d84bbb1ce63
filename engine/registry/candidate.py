"""A detector on its way into the registry, and what became of it: values that travel between stage,
gates and MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.config import PredictConfig
from engine.metrics.operating_point import OperatingPoint

DEFAULTS = PredictConfig().thresholds()  # of a call that names none; the file says the same
ONNX, WEIGHTS = "onnx", "safetensors"  # formats that can be registered
# Tags of a version: the SHA-256 of the registered file, named when all were ONNX; its format.
DIGEST_TAG, FORMAT_TAG = "onnx_sha256", "format"


@dataclass(frozen=True)
class Measured:
    """What stage validate measured of the weights. Larger values are better."""

    metric: str  # for example metrics/mAP50-95
    value: float | None
    split: str  # images it was measured on: train, val or test
    data_digest: str  # of that split's images and boxes
    class_hash: str = ""  # of the class names, in order
    weights_sha256: str = ""


@dataclass(frozen=True)
class Candidate:
    """A detector to be registered."""

    name: str  # of the registered model
    file: Path
    onnx_sha256: str  # of the file, whatever its format
    measured: Measured
    metrics: Mapping[str, float]  # of the deciding split, as `test/mAP50`
    facts: Mapping[str, Any] = field(
        default_factory=dict
    )  # plain data for the model's own metadata
    tags: Mapping[str, str] = field(default_factory=dict)  # further tags of the version
    example: bytes = b""  # an encoded image
    per_class: Sequence[Mapping[str, Any]] = ()  # rows of per_class.csv
    best_conf: float | None = None  # the confidence of the best mean F1 on the deciding split
    training_images: Sequence[str] = ()  # SHA-256 of each
    image_list: str = ""  # `engine.registry.image_list` of all splits
    names: Sequence[str] = ()  # of the classes, in the model's order
    # thresholds and calibration that the file brings; None: DEFAULTS count
    operating_point: OperatingPoint | None = None
    format: str = ONNX
    # Of weights: packages besides this one, and modules of the user's, by their path among imports
    packages: Sequence[str] = ()
    code: Mapping[str, Path] = field(default_factory=dict)
    files: Sequence[Path] = ()  # of the workspace, in YAML, for the run's artifacts: dvc.lock

    @property
    def thresholds(self) -> dict[str, Any]:
        """What a call uses that names nothing: conf is None where each class has its own."""
        return {**DEFAULTS, "conf": None} if self.operating_point is not None else DEFAULTS


@dataclass(frozen=True)
class Registration:
    """The version that a candidate is."""

    version: str
    run_id: str | None
    experiment_id: str
