"""Where the time of a training step goes, and what the memory layout is worth. Prints a table;
nothing is asserted.

    python benchmarks/train_step.py [imgsz=320] [batch=16] [steps=6] [model=yolov8n]

Both layouts take turns in one process, so that a noisy machine disturbs them alike; medians are
shown.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch

from engine.config import parse_overrides
from engine.core.run_lock import RunLock
from engine.detect import DetectionTrainer

PARTS = ("load", "to device", "forward", "loss", "backward", "optimizer")


def main() -> None:
    """Time both layouts alternately."""
    asked = {"imgsz": 320, "batch": 16, "steps": 6, "model": "yolov8n", "data": "data/digits.yaml"}
    asked |= parse_overrides(sys.argv[1:])
    steps = int(asked.pop("steps"))
    with tempfile.TemporaryDirectory() as folder:
        trainers = {}
        for layout in ("channels_last", "contiguous"):
            plan = {
                **asked,
                "epochs": 100,
                "project": folder,
                "name": layout,
                "plots": False,
                "device": "cpu",
                "channels_last": layout == "channels_last",
            }
            trainer = trainers[layout] = DetectionTrainer(overrides=plan)
            trainer.paths.root.mkdir(parents=True)
            trainer._setup(RunLock())
            trainer.model.train()
        times: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in trainers}
        streams = {name: _endless(trainer.train_loader) for name, trainer in trainers.items()}
        for step in range(steps + 2):
            for name, trainer in trainers.items():
                for part, seconds in zip(PARTS, timed_step(trainer, streams[name]), strict=True):
                    if step >= 2:  # the first ones fill caches
                        times[name][part].append(seconds)
    report(
        asked,
        {name: {part: statistics.median(times[name][part]) for part in PARTS} for name in times},
    )


def _endless(loader):
    while True:
        yield from loader


def timed_step(trainer: DetectionTrainer, batches) -> list[float]:
    """Seconds of each part of one step."""
    marks = [time.perf_counter()]

    def mark() -> None:
        marks.append(time.perf_counter())

    batch = next(batches)
    mark()
    batch = trainer.preprocess_batch(batch)
    mark()
    preds = trainer.model(batch["img"])
    mark()
    loss, _ = trainer.criterion(preds, batch)
    mark()
    loss.backward()
    mark()
    trainer.optimizer_step()
    mark()
    return [after - before for before, after in zip(marks, marks[1:])]


def report(asked: dict, medians: dict[str, dict[str, float]]) -> None:
    """The table."""
    where = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{asked['model']}, {asked['imgsz']} px, batch {asked['batch']}, {where}")
    print(f"{'ms':<12}" + "".join(f"{name:>16}" for name in medians) + f"{'ratio':>9}")
    rows = {part: [1000 * medians[name][part] for name in medians] for part in PARTS}
    rows["step"] = [sum(column) for column in zip(*rows.values())]
    for part, values in rows.items():
        print(
            f"{part:<12}"
            + "".join(f"{value:>16.1f}" for value in values)
            + f"{values[1] / max(values[0], 1e-9):>9.2f}"
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    main()
