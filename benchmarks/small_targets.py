"""Are small targets found better where more points may learn them? Both rules train side by side.

    python benchmarks/small_targets.py data=data/digits.yaml imgsz=64 epochs=60 seeds=3
    python benchmarks/small_targets.py data=.../bccd imgsz=224 epochs=40 seeds=3 cls=Platelets

Trains `model` with each seed under each rule of candidates: points inside the target (0), and
points inside the target with sides of at least 16 px, as published descriptions of the family have
it. Other settings are the trainer's (lr0=0.01 and so on: their names and values). Seeds take turns,
so that a cut run has pairs. Prints the metrics of the test images, best checkpoint, after each
training, and at the end the differences with their standard errors.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from functools import partial

import torch

from engine.config import DetectionTrainConfig, parse_overrides
from engine.detect import DetectionTrainer, DetectionValidator
from engine.models.yolov8 import family
from engine.models.yolov8.loss import DetectionLoss

SIDES = (0.0, 16.0)
METRICS = ("mAP50-95", "mAP50", "mAP-small", "AR-small")


def main() -> None:
    """Train and compare."""
    asked = {"model": "yolov8n", "data": "data/digits.yaml", "imgsz": 64, "epochs": 60}
    asked |= {"seeds": 3, "cls": None}
    asked |= parse_overrides(sys.argv[1:], DetectionTrainConfig)
    seeds, of_class = int(asked.pop("seeds")), asked.pop("cls")
    torch.set_num_threads(1)
    found: dict[float, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for side in SIDES if seed % 2 == 0 else reversed(SIDES):
                family.DetectionLoss = partial(DetectionLoss, least_side=side)
                name, begin = f"{seed}-{side:g}", time.monotonic()
                plan = {**asked, "seed": seed, "project": folder, "name": name, "plots": False}
                result = DetectionTrainer(overrides={**plan, "device": "cpu"}).train()
                validator = DetectionValidator(overrides={"plots": False, "device": "cpu"})
                metrics = validator(model=result.best, data=asked["data"])
                row = {key: metrics[f"metrics/{key}"] for key in METRICS}
                if of_class:
                    [mine] = [
                        each for each in validator.scores.per_class if each["name"] == of_class
                    ]
                    row |= {f"{of_class} {key}": mine[key] for key in ("ap", "ap50")}
                found[side].append(row)
                words = "  ".join(f"{key} {value:.4f}" for key, value in row.items())
                seconds = time.monotonic() - begin
                print(f"seed {seed}  least side {side:2g}  {words}  {seconds:.0f} s", flush=True)
    for key in found[SIDES[0]][0]:
        gains = [wide[key] - plain[key] for plain, wide in zip(*found.values(), strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        means = [statistics.mean(row[key] for row in found[side]) for side in SIDES]
        print(
            f"{key:<24} {means[0]:.4f} -> {means[1]:.4f}  {statistics.mean(gains):+.4f}"
            f" (standard error {error:.4f})"
        )


if __name__ == "__main__":
    main()
