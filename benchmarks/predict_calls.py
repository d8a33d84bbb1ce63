"""A call of `YOLO(...)(image)` that keeps what it loaded, against one that loads the weights each
time, as it did before: CPU and wall time of a call, the two taking turns in one process.

    python benchmarks/predict_calls.py [--model WEIGHTS] [--imgsz 160] [--turns 7] [--calls 10]

Without `--model` a yolov8n with fresh weights is written into a folder that goes away. Both must
find the same, or the command fails.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from engine import YOLO
from engine.core.checkpoint import Checkpoint, save_checkpoint
from engine.detect import DetectionPredictor
from engine.detect.model_io import model_meta
from engine.models.yolov8 import build_model
from engine.models.yolov8.family import YOLOv8Family

CONF = 0.001  # fresh weights find something too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--calls", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    side = asked.imgsz
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    with tempfile.TemporaryDirectory(prefix="detectflow-") as folder:
        weights = asked.model or str(fresh(Path(folder) / "best.pt", side))
        model = YOLO(weights)
        settings = {"imgsz": side, "conf": CONF, "device": "cpu", "save": False, "verbose": False}
        ways: dict[str, Callable[[], list]] = {
            "loads each time": lambda: DetectionPredictor({"model": weights, **settings})(image),
            "keeps it": lambda: model(image, imgsz=side, conf=CONF, device="cpu"),
        }
        # the first call of each is left out: it warms up, and loads
        found = [way()[0].boxes.data for way in ways.values()]
        assert torch.equal(*found) and len(found[0]), "the two find different boxes"
        best = {name: (float("inf"), float("inf")) for name in ways}
        for _ in range(asked.turns):
            for name, way in ways.items():
                best[name] = tuple(map(min, best[name], measured(way, asked.calls)))
    print(f"{side} px, {len(found[0])} boxes, fastest of {asked.turns} x {asked.calls} calls")
    print(f"{'':>16} {'CPU, ms':>9} {'wall, ms':>9}")
    for name, (cpu_ms, wall_ms) in best.items():
        print(f"{name:>16} {cpu_ms:>9.1f} {wall_ms:>9.1f}")


def measured(way: Callable[[], list], calls: int) -> tuple[float, float]:
    """(CPU ms, wall ms) of a call."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        way()
    took = time.process_time() - cpu, time.perf_counter() - wall
    return 1e3 * took[0] / calls, 1e3 * took[1] / calls


def fresh(path: Path, side: int) -> Path:
    """A checkpoint of an untrained yolov8n."""
    torch.manual_seed(0)
    module, names = build_model("yolov8n", 2), ("one", "two")
    meta = model_meta(YOLOv8Family(), module.spec.to_dict(), "yolov8n", names, (side, side), "")
    save_checkpoint(Checkpoint(meta, module.state_dict()), path)
    return path


if __name__ == "__main__":
    main()
