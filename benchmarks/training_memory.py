"""Memory of a training batch of 16 images at 640 px, for the table of `detectflow models`, and the
number of parameters.

Counted, not watched: the bytes that autograd keeps of one image for the way back, times 16, and
five copies of the weights (weights, gradients, Adam's two moments, averaged weights), all float32.
A GPU takes more: its library's workspace, and what lies unused in its allocator.

    python -m benchmarks.training_memory [PART OF A NAME]
"""

from __future__ import annotations

import sys

import torch

from benchmarks.published import CLASSES, published
from engine.config import DetectionTrainConfig
from engine.models.catalogue import CATALOGUE
from engine.models.registry import family_of

SIDE, BATCH, COPIES = 640, 16, 5
BOXES = 8  # of the drawn image


def measured(name: str) -> tuple[float, float]:
    """(millions of parameters, GB)."""
    config = DetectionTrainConfig(
        model=name.partition("@")[0] if name.startswith("torch") else name
    )
    if name.startswith("hf:"):
        family = family_of(name)
        spec = {
            "name": name,
            "config": published(name),
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
            "losses": ["loss_vfl"],
        }
    else:
        family = family_of(config.model)
        spec = family.spec(config.model, config)
    module = family.build(spec, CLASSES).train()
    weights = sum(p.numel() for p in module.parameters())
    boxes = torch.rand(BOXES, 4) * 0.3 + 0.2
    batch = {
        "img": torch.rand(1, 3, SIDE, SIDE),
        "bboxes": boxes,
        "cls": torch.zeros(BOXES, 1),
        "batch_idx": torch.zeros(BOXES),
    }
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        preds = family.forward(module, batch)
        loss, _ = family.criterion(spec, config)(preds, batch)
    assert loss.requires_grad
    return weights / 1e6, (sum(kept.values()) * BATCH + weights * 4 * COPIES) / 1e9


def main(argv: list[str]) -> None:
    torch.manual_seed(0)
    for entry in CATALOGUE:
        if not argv or argv[0] in entry.name:
            params, memory = measured(entry.name)
            print(f"{entry.name}: {params:.1f} M parameters, {memory:.1f} GB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
