"""What one kind of training says of itself: the methods a task must or may override, with their
defaults.

`BaseTrainer` inherits them and adds the run. Nothing here has state of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.config.train import TrainConfig
from engine.core import optim
from engine.core.batch import inputs_of
from engine.core.checkpoint import Checkpoint
from engine.core.old_names import refuse_old_names
from engine.core.schedule import Schedule, planned_warmup
from engine.core.train_state import public_config
from engine.errors import TrainingError


class TrainingTask:
    """Override `get_model`, `get_dataloader`, `get_validator`, `criterion`, and what else
    differs.
    """

    args: TrainConfig
    resolved: TrainConfig  # with everything automatic decided, also the batch
    loss_names: tuple[str, ...] = ("loss",)  # of the loss items, in their order
    sample_word: str = "samples"  # what messages call the parts of a batch
    memory_advice: str = "model"  # what messages advise to make smaller where memory ends
    epoch_line_metrics: tuple[str, ...] | None = None  # in the log line of an epoch; None: all
    # With several processes: set it where parameters that learn may take no part in the loss of a
    # batch. It costs a little.
    find_unused_parameters: bool = False
    # Settings that are read anew whenever they are needed, so that `update_params` may change them
    # during a run.
    live_params: frozenset[str] = frozenset(
        {"lr0", "clip_norm", "patience", "time_limit_minutes", "val_period", "save_period"}
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """`get_dataloder` is the documentation's spelling of `get_dataloader`: a class that has
        either name has both. ConfigError: it overrides a name that nothing calls any more.
        """
        super().__init_subclass__(**kwargs)
        refuse_old_names(cls)
        for given, other in (
            ("get_dataloder", "get_dataloader"),
            ("get_dataloader", "get_dataloder"),
        ):
            if given in vars(cls) and other not in vars(cls):
                setattr(cls, other, vars(cls)[given])

    # What a task must override --------------------------------------------------------------------

    def get_model(self, cfg: str, weights: Checkpoint | None) -> nn.Module:
        """A model; `cfg` is `args.model`, `weights` a checkpoint to start from or None.

        Where a run goes on, `weights` is its own checkpoint, whose state is put into the model
        afterwards."""
        raise NotImplementedError

    def make_model(self, cfg: str, weights: Checkpoint | None) -> nn.Module:
        """`get_model` as the run calls it; a task puts around it what is not the user's work."""
        return self.get_model(cfg=cfg, weights=weights)

    def get_dataloader(
        self, dataset_path: Any, batch_size: int, mode: str = "train", rank: int = 0
    ) -> Any:
        """An iterable of batches with a length; `dataset_path` comes from `get_dataset`, mode is
        train or val.

        Where it, its `batch_sampler` or its `sampler` has `set_epoch`, that is called before each
        pass."""
        raise NotImplementedError

    def get_validator(self) -> Any:
        """A validator: `validator(trainer=self)` returns metrics by name. None: no validation."""
        raise NotImplementedError

    def criterion(self, preds: Any, batch: Any) -> tuple[Tensor, Tensor]:
        """(loss scalar, loss_items detached, one per name in `loss_names`)."""
        raise NotImplementedError

    # What a task may override ---------------------------------------------------------------------

    def get_dataset(self, data: str) -> dict[str, Any]:
        """What `get_dataloader` is given for each mode: {"train": ..., "val": ...}."""
        return {"train": data, "val": data}

    def default_lr(self, optimizer: str) -> float:
        """The peak rate where the user gives none."""
        return 0.01 if optimizer == "SGD" else 0.001

    def build_optimizer(
        self, model: nn.Module, name: str, lr: float, momentum: float, decay: float
    ) -> torch.optim.Optimizer:
        """Override for another optimizer. A "group" in a parameter group names it; `bias` has a
        warm-up of its own.
        """
        return optim.build_optimizer(model, name, lr, momentum, decay, self.args.slow)

    def build_scheduler(
        self, iterations_per_epoch: int, optimizer: str, accumulate: int
    ) -> Schedule:
        """Learning rate, momentum and accumulation as functions of the iteration."""
        a = self.args
        bias_lr = (
            a.warmup_bias_lr
            if a.warmup_bias_lr is not None
            else (0.1 if optimizer == "SGD" else 0.0)
        )
        return Schedule(
            total=a.epochs * iterations_per_epoch,
            warmup=planned_warmup(a.warmup_epochs, a.epochs, iterations_per_epoch),
            shape=a.schedule,
            final=a.lrf,
            accumulate=accumulate,
            warmup_bias_lr=bias_lr,
            warmup_momentum=min(a.warmup_momentum, a.momentum),
            momentum=a.momentum,
        )

    def preprocess_batch(self, batch: Any) -> Any:
        """Bring a batch to the device."""
        return batch

    def probe_batch(self, batch: Any) -> Any:
        """`preprocess_batch` at the largest size the run will see; `batch=-1` measures the memory
        of it.
        """
        return self.preprocess_batch(batch=batch)

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """What `criterion` is given as `preds`; override it for a model that wants more than the
        inputs of a batch, which are its first entry.

        Also called in validation, with `model` in eval mode; the validator's `postprocess` is given
        the same."""
        return model(inputs_of(batch))

    def val_loss_items(self, preds: Any, batch: Any) -> Tensor | None:
        """Loss items of one validation batch; None where the model in eval mode says too little for
        a loss.
        """
        return self.checked_loss(self.criterion(preds=preds, batch=batch))[1]

    def val_loss_sums(
        self, preds: Any, batch: Any, images: int
    ) -> tuple[Tensor, Tensor | float] | None:
        """(sums of the loss items of one validation batch, what they are sums over); None: no loss.

        images: samples in the batch. Validation adds both up and divides, so its loss does not
        depend on how samples are put into batches or processes, as far as the items are means over
        samples."""
        items = self.val_loss_items(preds=preds, batch=batch)
        return None if items is None else (items.detach().float() * images, float(images))

    def checked_loss(self, answer: Any) -> tuple[Tensor, Tensor]:
        """What `criterion` returned, in the form that the run relies on.

        Raises:
            TrainingError: no pair of a scalar and one item per name in `loss_names`; says what it
                was.
        """
        wanted = (
            "criterion must return (loss, loss_items): a scalar tensor, and a tensor with "
            f"{', '.join(self.loss_names)}"
        )
        if not (
            isinstance(answer, tuple)
            and len(answer) == 2
            and all(isinstance(part, Tensor) for part in answer)
        ):
            raise TrainingError(
                f"{wanted}; {type(self).__name__}.criterion returned {_kind(answer)}"
            )
        loss, items = answer
        if loss.numel() != 1 or items.shape != (len(self.loss_names),):
            raise TrainingError(
                f"{wanted}; {type(self).__name__}.criterion returned shapes {tuple(loss.shape)} "
                f"and {tuple(items.shape)}. Other terms? Set loss_names on the class."
            )
        return loss, items

    def apply_params(self) -> None:
        """`args` changed during the run: renew what was made from them."""

    def label_loss_items(self, items: Tensor | None, prefix: str = "train") -> dict[str, float]:
        """Loss items by column name: `train/box_loss`."""
        if items is None:
            return {}
        return {
            f"{prefix}/{name}": float(value)
            for name, value in zip(self.loss_names, items, strict=True)
        }

    def checkpoint_meta(self) -> dict[str, Any]:
        """Plain data that travels with the weights. No paths, no times: equal runs make equal
        bytes.
        """
        return {"model": self.args.model, "config": public_config(self.resolved)}

    def best_meta(self) -> dict[str, Any]:
        """Plain data that the validation of the best weights adds to their `checkpoint_meta`; {}:
        nothing. Called once at the end by rank 0, after that validation.
        """
        return {}

    def batch_names(self, batch: Any) -> list[str]:
        """Names or paths of the samples of a batch, for messages and `failed_batch.json`."""
        return []

    def data_digest(self) -> str:
        """Content digest of the data, where there is one."""
        return ""

    def plot_training_samples(self, batch: Any, index: int) -> None:
        """Called with the first batches."""

    def plot_metrics(self) -> None:
        """Called once at the end, when results.csv is complete."""


def _kind(value: Any) -> str:
    """What a value is, for a message: `tuple of Tensor, float`."""
    name = type(value).__name__
    return (
        f"{name} of {', '.join(type(part).__name__ for part in value)}"
        if isinstance(value, (tuple, list))
        else name
    )
