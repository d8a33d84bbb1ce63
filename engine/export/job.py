"""What every format is given: the fused model, its input and what the file should say of itself.

Metadata are texts, as ONNX wants them; `engine.detect.runtime.read_text_meta` reads them back. They
hold no time and no
path: the same weights give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.types import Size


@dataclass(frozen=True)
class ExportJob:
    """One model to be written in one or more formats."""

    module: nn.Module  # (B, 3, H, W) float RGB in [0, 1] -> (B, 4 + nc, A); fused, eval, on the CPU
    raw_state: Mapping[str, Tensor]  # the weights as trained, not fused: what safetensors keeps
    size: Size  # (h, w) of the input
    batch: int  # of the example, and of the file unless `dynamic`
    dynamic: bool  # the batch size is free
    opset: int | None  # ONNX operator set, None: the exporter's own
    meta: Mapping[str, str]


Write = Callable[[ExportJob, Path], None]


def file_meta(
    meta: Mapping[str, Any],
    names: tuple[str, ...],
    size: Size,
    stride: int,
    batch: int | None,
    weights_sha256: str,
) -> dict[str, str]:
    """The metadata of an exported file; `meta` is the checkpoint's, `batch` None where the file
    takes any.
    """
    from engine.version import __version__

    return {
        "names": json.dumps(list(names), ensure_ascii=False),
        "imgsz": json.dumps(list(size)),
        "stride": json.dumps(stride),
        "batch": json.dumps(batch),
        "model": str(meta.get("model", "")),
        "architecture": json.dumps(meta.get("architecture", {}), sort_keys=True),
        "training": json.dumps(_without_paths(meta.get("config", {})), sort_keys=True),
        "class_hash": str(meta.get("class_hash", "")),
        "data_digest": str(meta.get("data_digest", "")),
        "weights_sha256": weights_sha256,
        "detectflow_version": __version__,
        "input": "images (B, 3, H, W) float RGB in [0, 1]",
        "output": "(B, 4 + classes, A): centre x, y, width, height in input pixels, then sigmoid "
        "scores",
    }


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the training; of files that it started from the names only."""
    return {
        key: Path(value).name if isinstance(value, str) and "/" in value else value
        for key, value in settings.items()
    }
