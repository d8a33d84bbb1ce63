"""The validation loop of anything: batches in, metrics by name out. The same code inside training and alone.

The metrics do not depend on the batch size: counting in happens image by image, the loss is weighted by images.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from engine.kernel.distributed import World, world_from_environment
from engine.kernel.events import VAL_EVENTS, Callback, Callbacks


class BaseValidator:
    """Validate one model. Override `preprocess`, `postprocess`, `init_metrics`, `update_metrics`, `get_stats`, `plot_*`.

    Args:
        loader: iterable of batches.
        device: where the model computes.
    """

    def __init__(self, loader: Any, device: torch.device | str = "cpu", world: World | None = None):
        self.loader = loader
        self.device = torch.device(device)
        self.world = world if world is not None else world_from_environment()
        self.callbacks = Callbacks(VAL_EVENTS)
        self.batch: Any = None
        self.metrics: dict[str, float] = {}
        self.speed_ms: dict[str, float] = {}
        self.images = 0

    def add_callback(self, event: str, callback: Callback, may_fail: bool = False) -> None:
        """Call `callback(validator)` at `event`."""
        self.callbacks.add(event, callback, may_fail)

    def set_callback(self, event: str, callback: Callback) -> None:
        """Replace the callbacks of `event`."""
        self.callbacks.set(event, callback)

    @torch.inference_mode()
    def __call__(self, model: nn.Module | None = None, trainer: Any = None, final: bool = False) -> dict[str, float]:
        """Metrics of `model`, or of the trainer's averaged weights. With a trainer its loss is measured too.

        final: the figures are final; pictures and tables may be written."""
        if model is None:
            model = trainer.ema.module if trainer.ema is not None else trainer.model
        was_training = model.training
        model.eval()
        try:
            return self._run(model, trainer, final)
        finally:
            model.train(was_training)

    def _run(self, model: nn.Module, trainer: Any, final: bool) -> dict[str, float]:
        events = trainer.callbacks if trainer is not None else self.callbacks
        clock = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}
        losses, self.images = None, 0
        self.init_metrics(model)
        events.run("on_val_start", self)
        for batch in self.loader:
            self.batch = batch
            events.run("on_val_batch_start", self)
            started = time.perf_counter()
            self.batch = self.preprocess(self.batch)
            clock["preprocess"] += -started + (started := self._now())
            preds = trainer.forward(model, self.batch) if trainer is not None else self.forward(model, self.batch)
            clock["inference"] += -started + (started := self._now())
            if trainer is not None and not final:
                losses = self._add_loss(losses, trainer.criterion(preds, self.batch)[1])
                started = self._now()
            results = self.postprocess(preds)
            clock["postprocess"] += self._now() - started
            self.images += self.batch_size(self.batch)
            self.update_metrics(results, self.batch)
            events.run("on_val_batch_end", self)
        self.speed_ms = {name: 1000 * seconds / max(self.images, 1) for name, seconds in clock.items()}
        self.metrics = self.get_stats()
        if losses is not None:
            total = self.world.sum(torch.tensor([float(self.images)], device=losses.device))
            self.metrics |= trainer.label_loss_items(self.world.sum(losses) / total, prefix="val")
        if final and self.world.is_main:
            self.plot_metrics()
        events.run("on_val_end", self)
        return self.metrics

    def _add_loss(self, losses: Tensor | None, items: Tensor) -> Tensor:
        weighted = items.detach().float() * self.batch_size(self.batch)
        return weighted if losses is None else losses + weighted

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def batch_size(self, batch: Any) -> int:
        """Images in a batch."""
        return len(batch["img"])

    def preprocess(self, batch: Any) -> Any:
        """Bring a batch to the device."""
        return batch

    def forward(self, model: nn.Module, batch: Any) -> Any:
        """Predictions of one batch."""
        return model(batch["img"])

    def postprocess(self, preds: Any) -> Any:
        """From predictions to results, one per image."""
        return preds

    def init_metrics(self, model: nn.Module) -> None:
        """Forget what was counted."""

    def update_metrics(self, results: Any, batch: Any) -> None:
        """Count a batch in."""
        raise NotImplementedError

    def get_stats(self) -> dict[str, float]:
        """Metrics of all that was counted, over all ranks."""
        raise NotImplementedError

    def plot_metrics(self) -> None:
        """Write pictures of the final figures."""
