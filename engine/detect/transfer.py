"""Starting from a detector with other classes: what fits is taken over, class rows are found again
by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MOST_NAMED = 10  # of a list in the message


@dataclass(frozen=True)
class Transfer:
    """What became of the weights."""

    taken: int  # tensors taken over whole
    classes: tuple[
        tuple[str, int, int], ...
    ]  # name, old and new number of each class whose rows were taken over
    new: tuple[str, ...]  # classes that start anew
    left: tuple[str, ...]  # classes of the file that are not wanted
    fresh: tuple[str, ...]  # tensors that start anew

    def __str__(self) -> str:
        moved = [
            name if old == new else f"{name} ({old} -> {new})" for name, old, new in self.classes
        ]
        parts = [
            f"{self.taken} tensors taken over",
            f"classes by name: {_listed(moved) or 'none in common'}",
        ]
        lists = {
            "new classes": self.new,
            "classes left behind": self.left,
            "tensors that start anew": self.fresh,
        }
        return "; ".join(
            [*parts, *(f"{title}: {_listed(items)}" for title, items in lists.items() if items)]
        )


@torch.no_grad()
def transfer(
    model: nn.Module, state: Mapping[str, Tensor], old: Sequence[str], new: Sequence[str]
) -> Transfer:
    """Copy `state`, weights of a detector with classes `old`, into `model` with classes `new`.

    A tensor of equal shape is taken whole. The last layer of the class branches has a row per
    class: rows of classes that both know, by name, are taken, whatever their numbers; the others
    keep their fresh start.
    """
    mine = model.state_dict()
    rows = {
        f"head.cls.{i}.2.{part}" for i in range(3) for part in ("weight", "bias")
    }  # one row per class
    # A head for many more classes is wider, too; its last layer then reads other features and
    # starts anew.
    fits = all(name in state and state[name].shape[1:] == mine[name].shape[1:] for name in rows)
    known = [(name, old.index(name), new.index(name)) for name in new if fits and name in old]
    taken, fresh = 0, []
    for name, target in mine.items():
        source = state.get(name)
        if name in rows and fits:
            for _, origin, to in known:
                target[to] = source[origin].to(target.dtype)
        elif name not in rows and source is not None and source.shape == target.shape:
            target.copy_(source)
            taken += 1
        else:
            fresh.append(name)
    kept = {name for name, _, _ in known}
    anew, left = (tuple(name for name in names if name not in kept) for names in (new, old))
    return Transfer(taken, tuple(known), anew, left, tuple(fresh))


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return ", ".join(items[:MOST_NAMED]) + more
