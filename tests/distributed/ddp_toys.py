"""What the distributed tests train: two clouds of points and a small classifier, and what they add
to it by dotted path.
"""

import os
import signal
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from engine.core.trainer import BaseTrainer
from engine.core.validator import BaseValidator
from engine.data.loader import EpochSampler
from engine.errors import TrainingError

POINTS = {"train": 42, "val": 9}


class Clouds(Dataset):
    """Point i of cloud i % 2, by the keys of `EpochSampler`."""

    def __init__(self, mode):
        generator = torch.Generator().manual_seed(len(mode))
        self.label = torch.arange(POINTS[mode]) % 2
        self.x = torch.randn(POINTS[mode], 4, generator=generator) + 2.0 * self.label[:, None]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, key):
        _, index = key
        return {"img": self.x[index], "label": self.label[index], "index": index}


class Accuracy(BaseValidator):
    def init_metrics(self, model):
        self.right, self.seen = 0, []

    def postprocess(self, preds):
        return preds.argmax(1)

    def update_metrics(self, results, batch):
        self.right += int((results == batch["label"]).sum())
        self.seen += batch["index"].tolist()

    def get_stats(self):
        return {
            "metrics/accuracy": sum(self.world.gather(self.right))
            / sum(self.world.gather(self.images))
        }


class Classifier(BaseTrainer):
    loss_names = ("ce_loss",)

    def get_model(self, cfg, weights):
        drop = nn.Dropout(0.3 if cfg == "dropout" else 0.0)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), drop, nn.Linear(8, 2))

    def get_dataloader(self, dataset_path, batch_size, mode="train", rank=0):
        sampler = EpochSampler(
            POINTS[mode],
            batch_size,
            shuffle=mode == "train",
            seed=self.args.seed,
            rank=rank,
            world_size=self.world.size,
        )
        return DataLoader(Clouds(mode), batch_size, sampler=sampler)

    def get_validator(self):
        per_rank = self.args.batch // self.world.size
        return Accuracy(
            self.get_dataloader(None, per_rank, mode="val", rank=self.world.rank), world=self.world
        )

    def criterion(self, preds, batch):
        loss = nn.functional.cross_entropy(preds, batch["label"])
        return loss, loss.detach()[None]


def settings(project, **changes):
    # SGD, for Adam makes whole steps of gradients that are nothing but rounding (a bias before a
    # norm)
    return {
        "model": "linear",
        "data": "clouds",
        "optimizer": "SGD",
        "epochs": 4,
        "batch": 8,
        "project": str(project),
        "lr0": 0.05,
        "verbose": False,
        "monitor": "metrics/accuracy",
        "channels_last": False,
        "device": "cpu",
        "patience": 0,
        **changes,
    }


class Broken(Classifier):
    """Fails as the environment says, on rank 1 in the second epoch."""

    def criterion(self, preds, batch):
        if self.world.rank == 1 and self.epoch == 1:
            fate = os.environ.get("FATE")
            if fate == "typed":
                raise TrainingError("the data of this rank are broken")
            if fate == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().criterion(preds, batch)


def say_events(trainer):
    """For `callbacks=`: what tests look for in the output."""
    rank = trainer.world.rank
    trainer.add_callback(
        "on_train_start", lambda t: print(f"rank {rank} is process {os.getpid()}", flush=True)
    )
    trainer.add_callback(
        "teardown", lambda t: print(f"rank {rank} left: {t.stop_reason}", flush=True)
    )


def fail_at_the_save(trainer):
    def fail(_):
        raise RuntimeError("the upload failed")

    trainer.add_callback("on_model_save", fail)


def slowly(trainer):
    trainer.add_callback("on_train_batch_end", lambda t: time.sleep(0.05))
    if trainer.world.is_main:
        trainer.add_callback(
            "on_fit_epoch_end", lambda t: print(f"epoch {t.epoch + 1} is done", flush=True)
        )


not_a_class = 3
