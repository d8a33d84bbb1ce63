"""Does the ONNX file of each family say the same as PyTorch, after training steps and not only with
fresh weights?

    python -m benchmarks.family_parity [PART OF A NAME] [steps=40] [images=40] [side=160]

Each network is made with random weights of its published size (those of the hub as a folder that
`save_pretrained` writes), trained for so many steps of two generated images, exported as stage
export does it, and compared on test images: detections of PyTorch above 0.001 and the nearest of the
file with the same class (how many have none within 1 px; largest and median difference), and AP of
both. A small network gets more steps, a large one fewer, and each the smallest side it takes if `side` is less. Prints
rows of a table in Markdown.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.published import published
from engine.config import ExportConfig
from engine.datasets.open import open_dataset
from engine.detect import DetectionTrainer, DetectionValidator
from engine.detect.runtime import Runtime, load_runtime
from engine.errors import ExportError
from engine.export import Exporter
from engine.export.parity_images import batches
from engine.models.nms import nms
from engine.models.torchvision.networks import NETWORKS

BATCH, SHOWN, NEAR_PX = 2, 0.001, 1.0
COLUMNS = (
    *("network", "px", "steps", "detections", "without a match", "px apart, largest / median"),
    *("score apart, largest / median", "AP PyTorch", "AP ONNX", "difference"),
)


class Row(NamedTuple):
    """A network of the table."""

    name: str
    side_px: int  # at least what it takes
    steps: float = 1.0  # of those asked: small ones get more, large ones fewer


ROWS = (
    Row("yolov8n", 64, 10.0),
    *(Row(f"torchvision:{name}", kind.smallest_px) for name, kind in NETWORKS.items()),
    Row("hf:ustc-community/dfine-nano-coco", 256),
    Row("hf:PekingU/rtdetr_v2_r18vd", 128),
    Row("hf:Roboflow/rf-detr-nano", 288, 0.25),
)


def start(name: str, folder: Path) -> str:
    """`train.model` for a network with random weights."""
    if not name.startswith("hf:"):
        return name
    import transformers

    content = published(name)
    config = transformers.AutoConfig.for_model(content.pop("model_type"), **content)
    torch.manual_seed(0)
    path = folder / name.rpartition("/")[2]
    transformers.AutoModelForObjectDetection.from_config(config).save_pretrained(path)
    return f"hf:{path}"


def detections(runtime: Runtime, parts: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes (K, 4), scores (K,), classes (K,) of each image, above SHOWN; NMS where it needs it."""
    found = []
    for images in parts:
        boxes, scores = runtime(images)
        iou = 0.7 if runtime.needs_nms else None
        found += nms(boxes, scores, SHOWN, iou, max_det=300)
    return found


def differences(ours: Any, theirs: Any) -> tuple[list[float], list[float], int]:
    """(px, score) of each detection and its nearest of the same class; how many have none."""
    pixels, scores, alone = [], [], 0
    for one, other in zip(ours, theirs, strict=True):
        for box, score, number in zip(*one, strict=True):
            same = other[2] == number
            far = (other[0][same] - box).abs().amax(-1)
            # Queries can lie on each other: of those that are near, that with the nearest score.
            near = far <= max(float(far.min()), 0.01) if len(far) else far.bool()
            if not len(far) or float(far.min()) > NEAR_PX:
                alone += 1
                continue
            apart = (other[1][same] - score).abs()[near]
            pixels.append(float(far.min()))
            scores.append(float(apart.min()))
    return pixels, scores, alone


def row(plan: Row, steps: int, images: int, side: int, folder: Path) -> str:
    side, steps = max(side, plan.side_px), max(round(steps * plan.steps), 1)
    data = description(folder / "digits.yaml", steps * BATCH, images)
    train = {
        "model": start(plan.name, folder),
        "data": data,
        "imgsz": side,
        "epochs": 1,
        "batch": BATCH,
        "nbs": BATCH,
        "warmup_epochs": 0.1,
        "mosaic": 0.0,
        "ema": False,  # an average over so few steps is nearly the fresh weights
        "workers": 0,
        "device": "cpu",
        "plots": False,
        "verbose": False,
        "project": str(folder / "runs"),
    }
    weights = Path(DetectionTrainer(overrides=train).train().last)
    named = f"| {plan.name} | {side} | {steps} |"
    prepared = open_dataset(data).folder
    try:
        file = Exporter(ExportConfig(check_images=4))(weights, "onnx", folder, prepared).path
    except ExportError as error:
        return f"{named} refused: {error} |"
    both = [load_runtime(path, "cpu") for path in (weights, file)]
    pictures = [part for part in batches(prepared, images, both[0].input_size(None))]
    pixels, scores, alone = differences(*(detections(runtime, pictures) for runtime in both))
    ap = []
    for path in (weights, file):
        validator = DetectionValidator(overrides={"device": "cpu", "plots": False, "split": "test"})
        ap.append(validator(model=str(path), data=str(prepared))["metrics/mAP50-95"])
    px, score = (f"{max(of, default=0):.1e} / {middle(of):.1e}" for of in (pixels, scores))
    counted = f"{len(pixels) + alone} | {alone}"
    return (
        f"{named} {counted} | {px} | {score} | {ap[0]:.4f} | {ap[1]:.4f} | {ap[1] - ap[0]:+.1e} |"
    )


def middle(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def description(file: Path, train: int, test: int) -> str:
    """A file that describes generated digits."""
    options = {"train": train, "val": 10, "test": test, "size": 160}
    names = [str(number) for number in range(10)]
    made = {"name": "digits", "format": "generated", "generator": "digits"}
    file.write_text(json.dumps({**made, "options": options, "names": names}), encoding="utf-8")
    return str(file)


def main(argv: list[str]) -> None:
    asked = {"steps": 40, "images": 40, "side": 160}
    asked |= {key: int(value) for key, _, value in (w.partition("=") for w in argv) if value}
    wanted = [word for word in argv if "=" not in word]
    torch.set_num_threads(1)
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for plan in ROWS:
        if not wanted or any(word in plan.name for word in wanted):
            with tempfile.TemporaryDirectory() as folder:
                print(row(plan, **asked, folder=Path(folder)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
