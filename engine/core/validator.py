"""The validation loop of anything: batches in, metrics by name out. The same code inside training
and alone.

The metrics do not depend on the batch size: counting in happens sample by sample, and the loss is
added up and divided once.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import torch
from torch import Tensor, nn

from engine.core.batch import count_samples, inputs_of
from engine.core.distributed import World, joined, world_from_environment
from engine.core.events import VAL_EVENTS, Callback, Callbacks
from engine.core.old_names import OldName, refuse_old_names
from engine.core.progress import ProgressLines
from engine.core.results import plain_metrics


class BaseValidator:
    """Validate one model. Override `preprocess`, `postprocess`, `init_metrics`, `update_metrics`,
    `get_stats`, `plot_*`.

    Args:
        loader: iterable of batches.
        device: where the model computes.
    """

    # What `get_stats` returns, so that a wrong `monitor` is refused before training. None: only the
    # first validation shows it.
    metric_names: tuple[str, ...] | None = None
    declared_figures = OldName("`declared_metrics`")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """ConfigError: the class overrides a name that nothing calls any more."""
        super().__init_subclass__(**kwargs)
        refuse_old_names(cls)

    def __init__(self, loader: Any, device: torch.device | str = "cpu", world: World | None = None):
        self.loader = loader
        self.device = torch.device(device)
        self.world = world if world is not None else world_from_environment()
        self.callbacks = Callbacks(VAL_EVENTS)
        self.batch: Any = None  # the batch under way
        self.results: Any = None  # what `postprocess` made of it, one per sample
        self.metrics: dict[str, float] = {}  # of the last validation, by name
        self.speed_ms: dict[str, float] = {}  # per sample: preprocess, inference, postprocess
        self.images = 0  # samples counted in so far, by this process

    def add_callback(self, event: str, callback: Callback, may_fail: bool = False) -> None:
        """Call `callback(validator)` at `event`."""
        self.callbacks.add(event, callback, may_fail)

    def set_callback(self, event: str, callback: Callback) -> None:
        """Replace the callbacks of `event`."""
        self.callbacks.set(event, callback)

    @torch.inference_mode()
    def __call__(
        self, model: nn.Module | None = None, trainer: Any = None, final: bool = False
    ) -> dict[str, float]:
        """Metrics of `model`, or of the trainer's averaged weights. With a trainer its loss is
        measured too.

        final: the metrics are final; plots and tables may be written."""
        if model is None:
            model = trainer.ema.module if trainer.ema is not None else trainer.model
        was_training = model.training
        model.eval()
        try:
            with joined(self.world, self.device) if trainer is None else contextlib.nullcontext():
                return self._run(model, trainer, final)
        finally:
            model.train(was_training)

    def _run(self, model: nn.Module, trainer: Any, final: bool) -> dict[str, float]:
        lists = [self.callbacks] if trainer is None else [self.callbacks, trainer.callbacks]
        clock = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
        sums, self.images = None, 0
        self.init_metrics(model=model)
        self._emit(lists, "on_val_start")
        lines = self._progress_lines(trainer)
        for done, batch in enumerate(self.loader, 1):
            self.batch = batch
            self._emit(lists, "on_val_batch_start")
            started = time.perf_counter()
            self.batch = self.preprocess(batch=self.batch)
            clock["preprocess"] += -started + (started := self._now())
            preds = (trainer or self).forward(model=model, batch=self.batch)
            clock["inference"] += -started + (started := self._now())
            if trainer is not None and not final:
                more = trainer.val_loss_sums(
                    preds=preds, batch=self.batch, images=self.batch_size(self.batch)
                )
                sums = (
                    more if sums is None or more is None else (sums[0] + more[0], sums[1] + more[1])
                )
                started = self._now()
            self.results = self.postprocess(preds=preds)
            clock["postprocess"] += self._now() - started
            self.images += self.batch_size(self.batch)
            self.update_metrics(results=self.results, batch=self.batch)
            self._emit(lists, "on_val_batch_end")
            lines.show(done)
        self.speed_ms = {
            name: 1000 * seconds / max(self.images, 1) for name, seconds in clock.items()
        }
        self.metrics = plain_metrics(self.get_stats(), f"{type(self).__name__}.get_stats")
        if trainer is not None and not final:
            self.metrics |= trainer.label_loss_items(
                items=self._loss_over_ranks(sums), prefix="val"
            )
        if final and self.world.is_main:
            self.plot_metrics()
        self._emit(lists, "on_val_end")
        return self.metrics

    def _progress_lines(self, trainer: Any) -> ProgressLines:
        """What a log shows of a validation that takes long."""
        total = len(self.loader) if hasattr(self.loader, "__len__") else None
        is_wanted = trainer is None or trainer.args.verbose
        return ProgressLines("validation", total, "batch", is_wanted and self.world.is_main)

    def _emit(self, lists: list[Callbacks], event: str) -> None:
        for callbacks in lists:
            callbacks.run(event, self)

    def _loss_over_ranks(self, sums: tuple[Tensor, Tensor | float] | None) -> Tensor | None:
        """Mean loss items of all samples. Every rank takes part, also one that had no sample."""
        mine = None if sums is None else (sums[0].cpu(), float(sums[1]))
        parts = [part for part in self.world.gather(mine) if part is not None]
        if not parts:
            return None
        return sum(items for items, _ in parts) / max(sum(count for _, count in parts), 1.0)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def batch_size(self, batch: Any) -> int:
        """Samples in a batch."""
        return count_samples(batch)

    def preprocess(self, batch: Any) -> Any:
        """Bring a batch to the device."""
        return batch

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Predictions of one batch."""
        return model(inputs_of(batch))

    def postprocess(self, preds: Any) -> Any:
        """From predictions to results, one per sample."""
        return preds

    def init_metrics(self, model: nn.Module) -> None:
        """Forget what was counted."""

    def update_metrics(self, results: Any, batch: Any) -> None:
        """Count a batch in."""
        raise NotImplementedError

    def get_stats(self) -> dict[str, float]:
        """Metrics of all that was counted, over all ranks."""
        raise NotImplementedError

    def declared_metrics(self) -> tuple[str, ...] | None:
        """`metric_names`, unless a `get_stats` further down in the family may return others."""
        for holder in (self, *type(self).__mro__):
            if "metric_names" in vars(holder):
                return self.metric_names
            if "get_stats" in vars(holder):
                return None
        return None

    def plot_metrics(self) -> None:
        """Plot the final metrics."""
