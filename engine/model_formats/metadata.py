"""What a model file says of itself: texts by name, JSON where they are lists, numbers or mappings.

They hold no time and no path, so equal weights give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import CheckpointError

JSON_KEYS = frozenset(
    {
        "names",
        "imgsz",
        "stride",
        "batch",
        "needs_nms",
        "thresholds",
        "operating_point",
        "architecture",
        "origins",
        "training",
        "opset",
    }
)


def encode_meta(values: Mapping[str, Any]) -> dict[str, str]:
    """Plain data as texts, those of JSON_KEYS as JSON."""
    return {
        key: json.dumps(value, sort_keys=True, ensure_ascii=False)
        if key in JSON_KEYS
        else str(value)
        for key, value in values.items()
    }


def decode_meta(
    texts: Mapping[str, str], path: Path, required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The texts as plain data again.

    Raises:
        CheckpointError: a text is no JSON; one of `required` is missing.
    """
    if missing := [key for key in required if key not in texts]:
        raise CheckpointError(
            f"{path}: lacks the metadata {', '.join(missing)}: not exported by this project. "
            "Export it with: detectflow export model=weights/best.pt"
        )
    meta: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            meta[key] = json.loads(text) if key in JSON_KEYS else text
        except (ValueError, RecursionError):  # nested without end
            raise CheckpointError(
                f"{path}: its metadata '{key}' is damaged: {text[:60]!r}. Export it again."
            ) from None
    return meta
