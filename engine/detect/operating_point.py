"""The operating point of a detector at hand: read from the metadata of its file, and applied to
candidates. How it is found: `engine.detect.choose_point`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import CheckpointError, DataError
from engine.metrics.operating_point import KEY, OperatingPoint
from engine.models.registry import Candidates


def point_in(meta: Mapping[str, Any], classes: int, path: str | Path) -> OperatingPoint | None:
    """The operating point that a file's metadata hold; None: none.

    Raises:
        CheckpointError: it is damaged.
    """
    values = meta.get(KEY)
    if not values:
        return None
    try:
        return OperatingPoint.from_dict(values, classes)
    except DataError as error:
        raise CheckpointError(f"{path}: its {error}. Train or export it again.") from None


def select(boxes: Tensor, scores: Tensor, point: OperatingPoint, limits: np.ndarray) -> Candidates:
    """Of the candidates of one image those with a class above its limit, their scores calibrated;
    the score of a class below its limit is 0.

    boxes (N, 4), scores (N, C) of the network; limits: (C,) of `OperatingPoint.limits`. Returns
    boxes (K, 4), scores (K, C).
    """
    above = scores > torch.as_tensor(limits, dtype=scores.dtype, device=scores.device)
    rows = above.any(1)
    kept = above[rows].cpu().numpy()
    places = np.nonzero(kept)
    calibrated = np.zeros(kept.shape)
    calibrated[places] = point.calibration(scores[rows].cpu().numpy()[places], places[1])
    return boxes[rows], torch.from_numpy(calibrated).to(scores.device, scores.dtype)
