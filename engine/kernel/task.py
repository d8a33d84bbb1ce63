"""What one kind of training says of itself: the methods a task must or may override, with their defaults.

`BaseTrainer` inherits them and adds the run. Nothing here has state of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.config.train import TrainConfig
from engine.kernel import optim, state
from engine.kernel.checkpoint import Checkpoint
from engine.kernel.schedule import Schedule, planned_warmup


class TrainingTask:
    """Override `get_model`, `get_dataloader`, `get_validator`, `criterion`, and what else differs."""

    args: TrainConfig
    loss_names: tuple[str, ...] = ("loss",)

    # What a task must override ----------------------------------------------------------------------------------

    def get_model(self, cfg: str, weights: Checkpoint | None) -> nn.Module:
        """A fresh model; `cfg` is `args.model`, `weights` a checkpoint to start from or None."""
        raise NotImplementedError

    def get_dataloader(self, dataset_path: Any, batch_size: int, mode: str = "train", rank: int = 0) -> Any:
        """An iterable of batches with a length; `dataset_path` comes from `get_dataset`, mode is train or val.

        Where its `sampler` or `batch_sampler` has `set_epoch`, it is told the epoch before each pass."""
        if type(self).get_dataloder is not TrainingTask.get_dataloder:
            return self.get_dataloder(dataset_path, batch_size, mode, rank)
        raise NotImplementedError

    def get_dataloder(self, dataset_path: Any, batch_size: int, mode: str = "train", rank: int = 0) -> Any:
        """The documentation's spelling of `get_dataloader`; an override under this name is used too."""
        raise NotImplementedError

    def get_validator(self) -> Any:
        """A validator: `validator(trainer=self)` returns metrics by name. None: no validation."""
        raise NotImplementedError

    def criterion(self, preds: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """(loss scalar, loss_items detached, one per name in `loss_names`)."""
        raise NotImplementedError

    # What a task may override -----------------------------------------------------------------------------------

    def get_dataset(self, data: str) -> dict[str, Any]:
        """What `get_dataloader` is given for each mode: {"train": ..., "val": ...}."""
        return {"train": data, "val": data}

    def default_lr(self, optimizer: str) -> float:
        """The peak rate where the user gives none."""
        return 0.01 if optimizer == "SGD" else 0.001

    def build_optimizer(self, model: nn.Module, name: str, lr: float, momentum: float, decay: float) -> torch.optim.Optimizer:
        """Override for another optimizer; groups need a "group" key: bias, weight or norm."""
        return optim.build_optimizer(model, name, lr, momentum, decay)

    def build_scheduler(self, iterations_per_epoch: int, optimizer: str, accumulate: int) -> Schedule:
        """Pace as a function of the iteration."""
        a = self.args
        bias_lr = a.warmup_bias_lr if a.warmup_bias_lr is not None else (0.1 if optimizer == "SGD" else 0.0)
        return Schedule(
            total=a.epochs * iterations_per_epoch,
            warmup=planned_warmup(a.warmup_epochs, a.epochs, iterations_per_epoch),
            shape=a.schedule, final=a.lrf, accumulate=accumulate, warmup_bias_lr=bias_lr,
            warmup_momentum=min(a.warmup_momentum, a.momentum), momentum=a.momentum,
        )  # fmt: skip

    def preprocess_batch(self, batch: Any) -> Any:
        """Bring a batch to the device."""
        return batch

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Predictions of one batch, what `criterion` is given."""
        return model(batch["img"])

    def label_loss_items(self, items: Tensor | None, prefix: str = "train") -> dict[str, float]:
        """Loss items by column name: `train/box_loss`."""
        if items is None:
            return {}
        return {f"{prefix}/{name}": float(value) for name, value in zip(self.loss_names, items, strict=True)}

    def checkpoint_meta(self) -> dict[str, Any]:
        """Plain data that travels with the weights. No paths, no times: equal runs make equal bytes."""
        return {"model": self.args.model, "config": state.public_config(self.args)}

    def batch_names(self, batch: Any) -> list[str]:
        """Names of the images of a batch, for messages."""
        return []

    def data_digest(self) -> str:
        """Content digest of the data, where there is one."""
        return ""

    def plot_training_samples(self, batch: Any, index: int) -> None:
        """Called with the first batches."""

    def plot_metrics(self) -> None:
        """Called once at the end, when results.csv is complete."""
