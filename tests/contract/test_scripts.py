"""The scripts of the engine's public interface, as they are written there; only their `...` are
filled in.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
import torch.nn.functional as F
import yaml
from torch.utils.data import DataLoader

from engine.core.checkpoint import load_checkpoint
from engine.core.results import TrainResult
from engine.data.manifest import read_manifest
from engine.detect import DetectionTrainer
from engine.files import sha256_file
from engine.models.yolov8 import DetectionModel, find_spec
from engine.models.yolov8.backbones import TorchvisionBackbone

PLAIN_TRAINER = """
from engine.detect import DetectionTrainer

trainer = DetectionTrainer(overrides={"model": "yolov8n", "data": "data/digits.yaml", "epochs": 3})
trainer.train()
trained_model = trainer.best            # path of the best checkpoint; trainer.best_model() loads it
"""

FACADE = """
from engine import YOLO
model = YOLO("yolov8n")                 # a name, a model .yaml, or a checkpoint
results = model.train(data="data/digits.yaml", epochs=3)   # a result object: paths, metrics, digests
metrics = model.val(); boxes = model("image.jpg"); path = model.export(format="onnx")
"""

COMMAND = "detectflow train model=yolov8n data=data/digits.yaml epochs=3"


@pytest.fixture(scope="module")
def project(make_squares, tmp_path_factory):
    """A folder in which `data/digits.yaml` and `image.jpg` exist: two training images, as 640 px
    take long.
    """
    folder = tmp_path_factory.mktemp("project")
    pictures = make_squares(folder / "pictures", counts={"train": 2, "val": 1, "test": 1})
    (folder / "data").mkdir()
    description = {
        "name": "digits",
        "format": "yolo",
        "path": "../pictures",
        "names": ["red", "blue"],
    }
    (folder / "data" / "digits.yaml").write_text(yaml.safe_dump(description))
    cv2.imwrite(
        str(folder / "image.jpg"), cv2.imread(str(pictures / "images" / "test" / "test0.png"))
    )
    return folder


@pytest.fixture(scope="module")
def plain(project):
    """What the first script leaves in its names."""
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        exec(PLAIN_TRAINER, names)
    return names


def test_the_plain_trainer(plain, project):
    assert plain["trained_model"] == project / "runs" / "train" / "weights" / "best.pt"
    model, saved = plain["trainer"].best_model(), load_checkpoint(plain["trained_model"]).weights
    assert not model.training and all(
        torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items()
    )


def test_the_facade(plain, project, monkeypatch):
    monkeypatch.chdir(project)
    names: dict = {}
    exec(FACADE, names)
    results, metrics, boxes, path = (
        names[name] for name in ("results", "metrics", "boxes", "path")
    )
    assert isinstance(results, TrainResult) and results.best.is_file() and results.last.is_file()
    assert (
        results.best_sha256 == sha256_file(results.best) == sha256_file(plain["trained_model"])
    )  # the trainer's very bytes
    assert len(results.data_digest) == 64 and 0 <= results.metrics["metrics/mAP50-95"] <= 1
    assert 0 <= metrics["metrics/mAP50-95"] <= 1
    assert len(boxes) == 1 and boxes[0].size == (64, 64) and boxes[0].names == ("red", "blue")
    assert path == results.best.with_suffix(".onnx") and path.is_file()


def test_the_command_does_the_same(plain, project):
    command = [
        str(Path(sys.executable).with_name("detectflow")),
        *COMMAND.split()[1:],
        "name=command",
        "device=cpu",
    ]
    done = subprocess.run(
        command,
        cwd=project,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    weights = project / "runs" / "command" / "weights" / "best.pt"
    assert "runs/command/weights/best.pt" in done.stdout and sha256_file(weights) == sha256_file(
        plain["trained_model"]
    )


def test_the_command_refuses_what_it_does_not_know(project):
    command = [str(Path(sys.executable).with_name("detectflow")), "train", "epoch=3"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode != 0 and "unknown key 'epoch'. Did you mean 'epochs'?" in done.stderr
    wrong = subprocess.run(
        [*command[:-1], "epochs=many"], cwd=project, capture_output=True, text=True
    )
    assert wrong.returncode != 0 and "epochs: Input should be a valid integer" in wrong.stderr


# The second script: a class with every `...` filled in --------------------------------------------


class Images:
    """A dataset of one's own, in plain torch: the images and boxes that a manifest lists."""

    def __init__(self, manifest):
        self.records = read_manifest(manifest)

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        return self.records[index]

    @staticmethod
    def collate(records):
        images = [
            torch.from_numpy(cv2.imread(str(r.file))[..., ::-1].copy()).permute(2, 0, 1)
            for r in records
        ]
        shares = torch.cat(
            [
                torch.as_tensor(r.boxes / (r.size[1], r.size[0], r.size[1], r.size[0]))
                for r in records
            ]
        ).float()
        low, high = shares[:, :2], shares[:, 2:]
        return {
            "imgs": torch.stack(images),
            "bboxes": torch.cat(((low + high) / 2, high - low), 1),
            "cls": torch.cat([torch.as_tensor(r.classes) for r in records])[:, None].float(),
            "batch_idx": torch.cat(
                [torch.full((len(r.classes),), i) for i, r in enumerate(records)]
            ).float(),
            "im_file": [str(r.file) for r in records],
        }


class CustomTrainer(DetectionTrainer):
    loss_names = ("presence", "area")

    def get_model(self, cfg, weights):
        return DetectionModel(
            find_spec(cfg), len(self.names), backbone=TorchvisionBackbone("mobilenet_v3_large")
        )

    def get_dataloader(self, dataset_path, batch_size, mode="train", rank=0):
        order = torch.Generator().manual_seed(self.args.seed)
        return DataLoader(
            Images(dataset_path),
            batch_size,
            shuffle=mode == "train",
            generator=order,
            collate_fn=Images.collate,
        )

    def criterion(self, preds, batch):
        imgs = batch["imgs"]
        bboxes = batch["bboxes"]
        assert imgs is batch["img"] and imgs.dtype == torch.float32 and float(imgs.max()) <= 1
        present = torch.zeros(len(imgs), len(self.names))
        present[batch["batch_idx"].long(), batch["cls"][:, 0].long()] = 1
        presence = F.binary_cross_entropy_with_logits(preds.scores.amax(1), present)
        area = (preds.distances.mean() / 16 - bboxes[:, 2:].prod(1).mean()).square()
        loss_items = torch.stack((presence, area)).detach()
        loss = presence + area
        return loss, loss_items


@pytest.mark.parametrize("spelling", ["get_dataloader", "get_dataloder"])
def test_the_custom_trainer(tiny, tmp_path, spelling):
    copies, live = [], []

    def upload(path):
        copies.append(shutil.copy(path, tmp_path / f"copy{len(copies)}.pt"))

    def log_model(trainer):  # e.g. upload every 2 epochs
        if (trainer.epoch + 1) % 2 == 0:
            upload(trainer.last)
            live.append(
                {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
            )

    trainer_class = CustomTrainer
    if spelling == "get_dataloder":
        base = {
            name: value
            for name, value in vars(CustomTrainer).items()
            if name not in {"get_dataloader", "get_dataloder"}
        }
        trainer_class = type(
            "Spelt", (DetectionTrainer,), {**base, spelling: CustomTrainer.get_dataloader}
        )
    trainer = trainer_class(overrides=tiny(epochs=4, lr0=2e-3))
    trainer.add_callback(
        "on_train_epoch_end", log_model
    )  # adds to existing callbacks; set_callback replaces
    trainer.train()
    assert trainer.rows[-1]["train/presence"] < trainer.rows[0]["train/presence"]
    assert [key for key in trainer.rows[0] if key.startswith(("train/", "val/"))] == [
        "train/presence",
        "train/area",
        "val/presence",
        "val/area",
    ]
    assert [load_checkpoint(path).training["epoch"] for path in copies] == [1, 3]
    for path, weights in zip(copies, live, strict=True):
        copied = load_checkpoint(path).model
        assert all(torch.equal(copied[name], tensor) for name, tensor in weights.items())
    assert isinstance(trainer.best_model(), DetectionModel)
    assert isinstance(trainer.train_loader, DataLoader) and isinstance(
        trainer.train_loader.dataset, Images
    )
