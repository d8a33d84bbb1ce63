"""Starting from a detector with other classes: what fits is taken over, class rows are found again by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Transfer:
    """What became of the weights."""

    taken: int  # tensors taken over whole
    classes: tuple[str, ...]  # classes whose rows were taken over
    fresh: tuple[str, ...]  # tensors that start anew

    def __str__(self) -> str:
        kept = f"classes {', '.join(self.classes)}" if self.classes else "no class"
        fresh = f"; anew: {', '.join(self.fresh)}" if self.fresh else ""
        return f"{self.taken} tensors and {kept} taken over{fresh}"


@torch.no_grad()
def transfer(model: nn.Module, state: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str]) -> Transfer:
    """Copy `state`, weights of a detector with classes `old`, into `model` with classes `new`.

    A tensor of equal shape is taken whole. The last layer of the class branches has a row per class: rows of classes
    that both know, by name, are taken, whatever their numbers; the others keep their fresh start.
    """
    rows = [(new.index(name), old.index(name)) for name in new if name in old]
    taken, fresh = 0, []
    mine = model.state_dict()
    last = {f"head.cls.{i}.2.{part}" for i in range(3) for part in ("weight", "bias")}
    for name, target in mine.items():
        source = state.get(name)
        if name in last and source is not None and source.shape[1:] == target.shape[1:]:
            for to, origin in rows:
                target[to] = source[origin].to(target.dtype)
        elif source is not None and source.shape == target.shape:
            target.copy_(source)
            taken += 1
        else:
            fresh.append(name)
    return Transfer(taken, tuple(new[to] for to, _ in rows), tuple(fresh))
