"""How large a network is: layers, parameters, operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from engine.types import Size


@dataclass(frozen=True)
class NetworkInfo:
    """Numbers of a network for one image of `size`."""

    layers: int  # modules without modules of their own
    parameters: int
    gradients: int  # parameters that a training would change
    gflops: float  # 10^9 operations (a multiplication and an addition are two)
    size: Size  # (h, w) of the image

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, {self.parameters:,} parameters, {self.gradients:,} gradients, "
            f"{self.gflops:.1f} GFLOPs at {self.size[0]}x{self.size[1]}"
        )


def network_info(module: nn.Module, size: Size) -> NetworkInfo:
    """Count; the network computes one grey image, in eval mode, and is left as it was."""
    from torch.utils.flop_counter import FlopCounterMode

    parameters = list(module.parameters())
    device = parameters[0].device if parameters else torch.device("cpu")
    was_training = module.training
    module.eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module(torch.full((1, 3, *size), 0.5, device=device))
    finally:
        module.train(was_training)
    return NetworkInfo(
        layers=sum(1 for each in module.modules() if not list(each.children())),
        parameters=sum(each.numel() for each in parameters),
        gradients=sum(each.numel() for each in parameters if each.requires_grad),
        gflops=counter.get_total_flops() / 1e9,
        size=size,
    )


def parameter_table(module: nn.Module) -> str:
    """A line per parameter: name, gradient, shape, mean, standard deviation."""
    rows = []
    for name, each in module.named_parameters():
        values = each.detach().float()
        spread = f"{values.mean():10.3g} {values.std(correction=0):10.3g}"
        rows.append(f"{name:<50} {each.requires_grad!s:<6} {tuple(each.shape)!s:<20} {spread}")
    return "\n".join(rows)
