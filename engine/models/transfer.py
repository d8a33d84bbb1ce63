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


@dataclass(frozen=True)
class ClassRows:
    """How the classes lie in the first dimension of a tensor: groups x (background + classes +
    behind) x inner rows. The number of groups (anchors of a place) follows from the shape.
    """

    inner: int = 1  # rows of one class that lie together, 4 where it has its own box
    background: int = 0  # rows before the first class that belong to no class
    behind: int = 0  # rows after the last one that belong to no class


@torch.no_grad()
def transfer(
    module: nn.Module,
    state: Mapping[str, Tensor],
    old: Sequence[str],
    new: Sequence[str],
    rows: Mapping[str, ClassRows],
) -> Transfer:
    """Copy `state`, weights of a detector with classes `old`, into `module` with classes `new`.

    A tensor of equal shape is taken whole. rows: the tensors with rows by class; of these the rows
    of classes that both know, by name, are taken, whatever their numbers, and the others keep their
    fresh start.
    """
    mine = module.state_dict()
    views = {
        name: (_by_class(mine[name], len(new), at), _by_class(state.get(name), len(old), at))
        for name, at in rows.items()
    }
    # A head for many more classes may be wider, too; its last layer then reads other features and
    # starts anew, and so do all rows, as a class is learnt by all of them together.
    fits = all(
        target is not None
        and source is not None
        and (target.shape[0], *target.shape[2:]) == (source.shape[0], *source.shape[2:])
        for target, source in views.values()
    )
    known = [(name, old.index(name), new.index(name)) for name in new if fits and name in old]
    taken, fresh = 0, []
    for name, target in mine.items():
        source = state.get(name)
        if name in rows and fits:
            into, origin = views[name]
            ahead = rows[name].background
            into[:, :ahead] = origin[:, :ahead].to(into.dtype)
            if behind := rows[name].behind:
                into[:, -behind:] = origin[:, -behind:].to(into.dtype)
            for _, before, after in known:
                into[:, ahead + after] = origin[:, ahead + before].to(into.dtype)
        elif name not in rows and source is not None and source.shape == target.shape:
            target.copy_(source)
            taken += 1
        else:
            fresh.append(name)
    kept = {name for name, _, _ in known}
    anew, left = (tuple(name for name in names if name not in kept) for names in (new, old))
    return Transfer(taken, tuple(known), anew, left, tuple(fresh))


def _by_class(tensor: Tensor | None, classes: int, at: ClassRows) -> Tensor | None:
    """A view (groups, background + classes + behind, inner, ...); None where the shape does not
    allow it.
    """
    rows = at.background + classes + at.behind
    if tensor is None or not tensor.ndim or not rows or tensor.shape[0] % (rows * at.inner):
        return None
    return tensor.view(-1, rows, at.inner, *tensor.shape[1:])


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return ", ".join(items[:MOST_NAMED]) + more
