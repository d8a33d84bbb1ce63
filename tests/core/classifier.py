"""Something that is no detector, to train on the core alone: two Gaussian clouds and a small
classifier. For tests.
"""

import json
import math

import torch
from torch import nn

from engine.core.checkpoint import load_checkpoint
from engine.core.trainer import BaseTrainer
from engine.core.validator import BaseValidator


def clouds(n: int, seed: int):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 4, generator=g) + y[:, None] * 2.0
    return x, y


class Batches:
    """Shuffled from (seed, epoch) alone."""

    def __init__(self, n, batch, seed, shuffle):
        self.x, self.y = clouds(n, seed)
        self.batch, self.shuffle, self.epoch = batch, shuffle, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return math.ceil(len(self.x) / self.batch)

    def __iter__(self):
        g = torch.Generator().manual_seed(self.epoch)
        order = (
            torch.randperm(len(self.x), generator=g) if self.shuffle else torch.arange(len(self.x))
        )
        for part in order.split(self.batch):
            yield {"img": self.x[part], "label": self.y[part]}


class Accuracy(BaseValidator):
    def init_metrics(self, model):
        self.right = 0

    def postprocess(self, preds):
        return preds.argmax(1)

    def update_metrics(self, results, batch):
        self.right += int((results == batch["label"]).sum())

    def get_stats(self):
        return {"metrics/accuracy": self.right / self.images}


class ClassifierTrainer(BaseTrainer):
    loss_names = ("ce_loss",)

    def get_model(self, cfg, weights):
        return nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
        )

    def get_dataloader(self, dataset_path, batch_size, mode="train", rank=0):
        return Batches(
            40 if mode == "train" else 30, batch_size, 1 if mode == "train" else 2, mode == "train"
        )

    def get_validator(self):
        return Accuracy(self.get_dataloader(None, 7, mode="val"))

    def criterion(self, preds, batch):
        loss = nn.functional.cross_entropy(preds, batch["label"])
        return loss, loss.detach()[None]


def settings_of(project, **changes):
    return {
        "model": "linear",
        "data": "clouds",
        "epochs": 3,
        "batch": 16,
        "project": str(project),
        "lr0": 0.05,
        "monitor": "metrics/accuracy",
        "verbose": False,
        "channels_last": False,
        "device": "cpu",
        **changes,
    }


def make(project, **changes):
    return ClassifierTrainer(overrides=settings_of(project, **changes))


def weights(path):
    checkpoint = load_checkpoint(path)
    return {
        **{f"raw.{k}": v for k, v in checkpoint.model.items()},
        **{f"ema.{k}": v for k, v in (checkpoint.ema or {}).items()},
    }


def assert_same_run(a, b):
    """All that two runs leave behind is the same to the bit, save the seconds they took."""
    names = [
        sorted(p.name for p in (run / "weights").glob("*.pt") if ".prev" not in p.name)
        for run in (a, b)
    ]
    assert names[0] == names[1]
    for name in set(names[0]) - {"last.pt"}:
        assert (a / "weights" / name).read_bytes() == (b / "weights" / name).read_bytes(), name
    left, right = (load_checkpoint(run / "weights" / "last.pt") for run in (a, b))
    for part in ("model", "ema", "optimizer"):
        assert_same(getattr(left, part), getattr(right, part), part)
    assert_same(
        *(
            {k: v for k, v in c.training.items() if k not in ("elapsed_s", "rows")}
            for c in (left, right)
        ),
        "training",
    )
    assert csv_cells(a) == csv_cells(b)
    best = [json.loads((run / "weights" / "best.json").read_text()) for run in (a, b)]
    assert_same(
        *({k: v for k, v in each.items() if k != "previous_sha256"} for each in best), "best.json"
    )


def assert_same(a, b, where):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}.{i}")
    else:
        assert a == b, where


def csv_cells(run):
    """results.csv as text, cell by cell, without the seconds."""
    rows = [line.split(",") for line in (run / "results.csv").read_text().splitlines()]
    clock = rows[0].index("time_s")
    return [row[:clock] + row[clock + 1 :] for row in rows]
