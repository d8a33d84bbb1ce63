"""What an exported file says of itself: the detector, its input, the weights it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import PredictConfig
from engine.metrics.operating_point import KEY
from engine.model_formats.metadata import encode_meta
from engine.models.hub.origins import KEY as ORIGINS
from engine.types import Size


def file_meta(
    meta: Mapping[str, Any],
    names: tuple[str, ...],
    size: Size,
    stride: int,
    batch: int | None,
    weights_sha256: str,
    needs_nms: bool = True,
    operating_point: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The metadata of an exported file.

    meta: the checkpoint's. batch: None where the file takes any. needs_nms: whether its candidates
    still hold several boxes of one object. operating_point: in place of the checkpoint's.
    """
    from engine.version import __version__

    point = operating_point or meta.get(KEY)
    return encode_meta(
        {
            **({KEY: point} if point else {}),
            "names": list(names),
            "imgsz": list(size),
            "stride": stride,
            "batch": batch,
            "needs_nms": needs_nms,
            "thresholds": PredictConfig().thresholds(),
            "family": meta.get("family", "yolov8"),  # before families there was this one
            "model": meta.get("model", ""),
            "architecture": meta.get("architecture", {}),
            "training": _without_paths(meta.get("config", {})),
            ORIGINS: meta.get(ORIGINS) or [],
            "class_hash": meta.get("class_hash", ""),
            "data_digest": meta.get("data_digest", ""),
            "weights_sha256": weights_sha256,
            "detectflow_version": __version__,
            "input": "images (B, 3, H, W) float RGB in [0, 1]",
            "output": "boxes (B, N, 4) xyxy in pixels of the input; scores (B, N, classes) in "
            "[0, 1]",
        }
    )


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the training; of files that it started from the names only."""
    return {
        key: Path(value).name if isinstance(value, str) and "/" in value else value
        for key, value in settings.items()
    }
