"""NMS class by class against torchvision's `batched_nms`, which shifts the classes apart: time of
one call, the two taking turns.

    python benchmarks/nms.py [--turns 7] [--calls 20]

They need not agree: the other one loses digits, and boxes where coordinates are negative (see
`engine.models.nms.nms_of_groups`).
"""

from __future__ import annotations

import argparse
import time

import torch
from torchvision.ops import batched_nms

from engine.models.nms import nms_of_groups

CASES = ((50, 3), (300, 10), (2_000, 3), (2_000, 80))  # boxes, classes
IOU = 0.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--calls", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'boxes':>6} {'classes':>8} {'torchvision, ms':>16} {'ours, ms':>9} {'ratio':>6}")
    for boxes, classes in CASES:
        inputs = drawn(boxes, classes)
        best = {batched_nms: float("inf"), nms_of_groups: float("inf")}
        for _ in range(asked.turns):
            for function in best:
                began = time.perf_counter()
                for _ in range(asked.calls):
                    function(*inputs, IOU)
                took = (time.perf_counter() - began) / asked.calls * 1e3
                best[function] = min(best[function], took)
        theirs, ours = best.values()
        print(f"{boxes:>6} {classes:>8} {theirs:>16.3f} {ours:>9.3f} {ours / theirs:>6.2f}")


def drawn(boxes: int, classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes (n, 4) xyxy px, scores (n,) best first, classes (n,)."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(boxes, 2, generator=generator) * 600
    size = torch.rand(boxes, 2, generator=generator) * 80 + 4
    scores = torch.rand(boxes, generator=generator).sort(descending=True).values
    kinds = torch.randint(0, classes, (boxes,), generator=generator)
    return torch.cat((corner, corner + size), 1), scores, kinds


if __name__ == "__main__":
    main()
