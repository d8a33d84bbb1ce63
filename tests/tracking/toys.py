"""A small workspace with everything the tracking stages read, and a training of seconds that
behaves like the real one.

The trainer is the kernel's own with a linear classifier in it; results are published by stage
train's own function. The
ONNX detector is written by hand: it marks the brightest cells of an image, so what it must answer
is known.
"""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from engine.config import Params, TrainConfig
from engine.core.trainer import BaseTrainer
from engine.core.validator import BaseValidator
from engine.data.manifest import LAYOUT_VERSION, class_hash, read_manifest, write_manifest
from engine.files import sha256_file
from engine.stages.layout import Layout, read_report, write_json
from engine.stages.train import publish
from engine.tracking.stage_runs import tracked
from engine.types import ImageRecord

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["dark", "bright"]
SIZE = 64  # network input of the hand-made detector, cells of 8 px


def image(seed: int, size=(64, 64)) -> np.ndarray:
    """Noise with one bright square."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (*size, 3), dtype=np.uint8)
    y, x = rng.integers(0, 6, 2) * 8
    pixels[y : y + 16, x : x + 16] = 230
    return pixels


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with one cell of 8 px half bright and one bright, and the boxes that the hand-made
    detector has around these cells: (2, 4) xyxy pixels, the dark one first.
    """
    rng = np.random.default_rng([seed, 7])
    pixels = rng.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
    places = rng.permutation(36)[:2]  # of 6 x 6, so that every box lies within the image
    boxes = []
    for place, level in zip(places, (120, 230)):
        y, x = 8 * (1 + place // 6), 8 * (1 + place % 6)
        pixels[y : y + 8, x : x + 8] = level
        boxes.append([x - 4, y - 4, x + 12, y + 12])
    return pixels, np.array(boxes, np.float64)


IMAGES = {"train": 2, "val": 2, "test": 24}


def make_workspace(root: Path) -> Path:
    """dvc.yaml, params.yaml and a prepared dataset, with enough test images for a decision."""
    root.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dvc.yaml", root)
    text = (ROOT / "params.yaml").read_text()
    empty = "  model:                           # name in"
    assert empty in text
    text = text.replace(empty, "  model: detector                  # name in")
    (root / "params.yaml").write_text(text)
    prepared = root / "data" / "prepared"
    counts = {}
    for number, split in enumerate(("train", "val", "test")):
        folder = prepared / "images" / split
        folder.mkdir(parents=True)
        counts[split] = {"images": IMAGES[split], "boxes": 2 * IMAGES[split]}
        add_images(prepared, split, range(1000 * number, 1000 * number + IMAGES[split]))
    (prepared / "copies.jsonl").write_text("")
    digest = hashlib.sha256(b"squares").hexdigest()
    about = {
        "version": LAYOUT_VERSION,
        "name": "squares",
        "names": NAMES,
        "digest": digest,
        "class_hash": class_hash(NAMES),
        "counts": counts,
    }
    write_json(prepared / "dataset.json", about)
    write_json(root / "reports" / "data.json", about)
    return root


def add_images(prepared: Path, split: str, seeds) -> None:
    """Further images of a split, of which each seed makes one, and their lines in the manifest."""
    manifest = prepared / f"{split}.jsonl"
    records = read_manifest(manifest) if manifest.exists() else []
    for seed in seeds:
        pixels, boxes = scene(seed)
        file = prepared.resolve() / "images" / split / f"{seed:05d}.png"
        cv2.imwrite(str(file), pixels)
        classes = np.arange(2)
        records.append(
            ImageRecord(file, sha256_file(file), (SIZE, SIZE), boxes, classes, name=file.name)
        )
    write_manifest(
        manifest,
        [replace(r, file=prepared / r.file.relative_to(prepared.resolve())) for r in records],
    )


def params_of(root: Path) -> Params:
    return Params.load(root / "params.yaml")


class Clouds:
    def __init__(self, n, batch, seed):
        g = torch.Generator().manual_seed(seed)
        self.y = torch.arange(n) % 2
        self.x = torch.randn(n, 4, generator=g) + self.y[:, None]
        self.batch = batch

    def __len__(self):
        return math.ceil(len(self.x) / self.batch)

    def __iter__(self):
        for part in torch.arange(len(self.x)).split(self.batch):
            yield {"img": self.x[part], "label": self.y[part]}


class ToyValidator(BaseValidator):
    def init_metrics(self, model):
        self.right = 0

    def update_metrics(self, results, batch):
        self.right += int((results.argmax(1) == batch["label"]).sum())

    def get_stats(self):
        share = self.right / self.images
        return {
            "metrics/precision": share,
            "metrics/recall": share,
            "metrics/mAP50": share,
            "metrics/mAP50-95": share**2,
        }


class ToyTrainer(BaseTrainer):
    loss_names = ("box_loss",)

    def get_model(self, cfg, weights):
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def get_dataloader(self, dataset_path, batch_size, mode="train", rank=0):
        return Clouds(32, batch_size, 1 if mode == "train" else 2)

    def get_validator(self):
        return ToyValidator(self.get_dataloader(None, 16, mode="val"))

    def criterion(self, preds, batch):
        loss = nn.functional.cross_entropy(preds, batch["label"])
        return loss, loss.detach()[None]

    def plot_metrics(self):
        cv2.imwrite(str(self.save_dir / "results.png"), image(0))


def train(root: Path, epochs: int = 3, resume: bool = False, seed: int = 0, **hooks) -> dict:
    """Stage train with the toy in the detector's place; hooks: event -> function, which may
    raise.
    """
    params, layout = params_of(root), Layout(root)
    folder = layout.resumable / "f1"
    if folder.exists() and not resume:
        shutil.rmtree(folder)
    config = TrainConfig.build(
        {
            "model": "toy",
            "epochs": epochs,
            "batch": 16,
            "lr0": 0.02,
            "seed": seed,
            "device": "cpu",
            "project": str(folder.parent),
            "name": folder.name,
            "exist_ok": True,
            "resume": resume,
            "extend": resume,
            "verbose": False,
            "channels_last": False,
        }
    )
    with tracked("train", params, root) as run:
        trainer = ToyTrainer(config=config)
        for event, function in run.callbacks:
            trainer.add_callback(event, function, may_fail=True)
        for event, function in hooks.items():
            trainer.add_callback(event, function)
        summary = publish(trainer.train(), params, layout, start={})
        run.finish(summary)
    return summary


def validate(root: Path, value: float | None = 0.5) -> dict:
    """Stage validate with the figure it would have found; None: there was nothing to find."""
    layout = Layout(root)
    weights = read_report(layout, "train")["weights_sha256"]
    summary = {
        "split": "test",
        "weights_sha256": weights,
        "metrics/mAP50-95": value,
        "metrics/mAP50": None if value is None else min(1.0, value + 0.2),
    }
    with tracked("validate", params_of(root), root) as run:
        write_json(layout.summary("validate"), summary)
        cv2.imwrite(str(layout.reports / "validate" / "PR_curve.png"), image(1))
        run.finish(summary)
    return summary


def export(root: Path, marker: str = "", **quality) -> dict:
    """Stage export, of the hand-made detector; another `marker` makes another file."""
    layout = Layout(root)
    path = write_detector(layout.export / "best.onnx", marker, **quality)
    weights = read_report(layout, "train")["weights_sha256"]
    about = {"file": "export/best.onnx", "sha256": sha256_file(path), "max_abs_diff": 1e-6}
    summary = {"weights_sha256": weights, "files": {"onnx": about}}
    with tracked("export", params_of(root), root) as run:
        write_json(layout.summary("export"), summary)
        run.finish(summary)
    return summary


def write_detector(
    path: Path,
    marker: str = "",
    batch="batch",
    needs_nms: bool = True,
    shift: float = 0,
    blind: tuple[int, ...] = (),
    names=NAMES,
    point: dict | None = None,
) -> Path:
    """(B, 3, 64, 64) -> boxes (B, 64, 4), scores (B, 64, 2): one 16 px box per 8 px cell; its score
    for "bright" is the cell's brightness.

    shift: pixels by which boxes lie too far to the right: 1, 2, 4 make IoU .88, .78, .6 of a box,
    and AP50-95 of "bright" .8, .6, .3 of 1. blind: columns of cells in which nothing is seen. point: an operating point
    for its metadata.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    cells = SIZE // 8
    grid = (np.arange(cells, dtype=np.float32) + 0.5) * 8
    x, y = np.meshgrid(grid, grid)
    corners = (x.ravel() + shift - 8, y.ravel() - 8, x.ravel() + shift + 8, y.ravel() + 8)
    boxes = np.stack(corners, 1).astype(np.float32)[None]
    shape = [("batch" if batch == "batch" else batch), 3, SIZE, SIZE]
    nodes = [
        helper.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("ReduceMean", ["cells", "axis"], ["grey"], keepdims=0),
        helper.make_node("Reshape", ["grey", "flat"], ["all"]),
        helper.make_node("Mul", ["all", "seen"], ["bright"]),
        helper.make_node("Mul", ["bright", "third"], ["dark"]),
        helper.make_node("Mul", ["bright", "none"], ["zero"]),
        helper.make_node("Add", ["zero", "corners"], ["boxes"]),
        helper.make_node("Concat", ["dark", "bright"], ["scores"], axis=2),
    ]
    constants = {
        "axis": np.array([1], np.int64),
        "flat": np.array([-1, cells * cells, 1], np.int64),
        "seen": (~np.isin(np.arange(cells * cells) % cells, blind)).astype(np.float32)[:, None],
        "third": np.float32(1 / 3),
        "none": np.float32(0),
        "corners": boxes,
    }
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [shape[0], cells * cells, width])
            for name, width in (("boxes", 4), ("scores", 2))
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    about = {
        "names": json.dumps(list(names)),
        "imgsz": json.dumps([SIZE, SIZE]),
        "stride": "32",
        "needs_nms": json.dumps(needs_nms),
        "thresholds": json.dumps({"conf": 0.25, "iou": 0.7, "max_det": 300}),
        "marker": marker,
    }
    if point is not None:
        about["operating_point"] = json.dumps(point)
    helper.set_model_props(model, about)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, path)
    return path
