"""Whether weights are numbers: in a file of its own, so that `transfer` counts for training
alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def not_finite(state: Mapping[str, Tensor]) -> str:
    """`tensor 'x.weight' holds NaN`: the first whose values are not all numbers, made to stand
    behind the name of a file; empty: there is none.
    """
    for name, tensor in state.items():
        if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta:
            continue
        tensor = tensor.float() if tensor.element_size() == 1 else tensor  # 8 bits cannot be asked
        if not bool(torch.isfinite(tensor).all()):
            kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite values"
            return f"tensor '{name}' holds {kind}: nothing can start from these weights"
    return ""
