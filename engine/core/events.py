"""The moments of a run, their order and what is true at each; and the list of callbacks one
executor owns.

The tables below are the only place that names an event: the documentation is generated from them
and an unknown name is refused with the nearest one. Callbacks belong to an instance; nothing is
shared between two executors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from engine.errors import ConfigError, nearest

log = logging.getLogger("detectflow")

TRAIN_EVENTS = {  # in the order of one run; what is guaranteed when it fires
    "on_pretrain_routine_start": "configuration final; no model yet",
    "on_pretrain_routine_end": "model on device; optimizer, loaders, EMA made; resume state loaded",
    "on_train_start": "the first epoch is about to begin",
    "on_train_epoch_start": "`trainer.epoch`, from 0",
    "on_train_batch_start": "`trainer.batch` set",
    "optimizer_step": "gradients finite and clipped; the optimizer is about to step",
    "on_before_zero_grad": "the optimizer has stepped; gradients still there",
    "on_train_batch_end": "`trainer.loss`, `trainer.loss_items`, running mean `trainer.tloss`",
    "on_train_epoch_end": "`trainer.last` on disk with this epoch's weights",
    "on_val_start": "(validator) loader and model ready",
    "on_val_batch_start": "(validator) `validator.batch` set",
    "on_val_batch_end": "(validator) its samples are counted in",
    "on_val_end": "(validator) `validator.metrics` final",
    "on_model_save": "last, and best where this epoch was best, on disk (rank 0)",
    "on_fit_epoch_end": "`trainer.metrics`, `trainer.fitness`; once per epoch, never again after "
    "the last",
    "on_params_update": "a callback or tuner changed hyper-parameters",
    "on_final_eval_end": "best model validated alone; final metrics are a summary, not another "
    "step",
    "on_train_end": "everything written",
    "teardown": "always, with `trainer.stop_reason`: done, stopped, exception or interrupted",
}
VAL_EVENTS = {name: text for name, text in TRAIN_EVENTS.items() if name.startswith("on_val_")}
PREDICT_EVENTS = {
    "on_predict_start": "model and source ready",
    "on_predict_batch_start": "`predictor.batch` set",
    "on_predict_batch_end": "`predictor.results` of this batch",
    "on_predict_end": "all inputs done; `predictor.skipped` lists the broken ones",
}
EXPORT_EVENTS = {
    "on_export_start": "model loaded and fused",
    "on_export_end": "files written and checked",
}

Callback = Callable[[Any], None]


class Callbacks:
    """The callbacks of one executor, by event, in the order they were added."""

    def __init__(self, events: Iterable[str]):
        self._by_event: dict[str, list[tuple[Callback, bool]]] = {name: [] for name in events}
        self._warned: set[tuple[str, str]] = set()

    def knows(self, event: str) -> bool:
        """Whether it is an event of this executor."""
        return event in self._by_event

    def add(self, event: str, callback: Callback, may_fail: bool = False) -> None:
        """Add after the existing ones. `may_fail`: an exception is logged once and the run goes on
        (trackers).

        Raises:
            ConfigError: unknown event (the nearest is named), or something that cannot be called.
        """
        if not callable(callback):
            raise ConfigError(
                f"callback for '{event}' is a {type(callback).__name__}, not a function"
            )
        self._checked(event).append((callback, may_fail))

    def set(self, event: str, callback: Callback) -> None:
        """Replace all callbacks of this event."""
        self._checked(event).clear()
        self.add(event, callback)

    def has_user_callbacks(self, event: str) -> bool:
        """Whether a user's own callback is there; a tracker's only reads."""
        return any(not may_fail for _, may_fail in self._checked(event))

    def run(self, event: str, subject: Any) -> None:
        """Call them all with the executor. A user's exception goes up; a tracker's is logged."""
        for callback, may_fail in self._checked(event):
            if not may_fail:
                callback(subject)
                continue
            try:
                callback(subject)
            except Exception as error:  # a tracker must never end a run
                key = (event, repr(callback))
                if key not in self._warned:
                    self._warned.add(key)
                    log.warning(
                        "tracking callback failed at %s and is ignored: %s: %s",
                        event,
                        type(error).__name__,
                        error,
                    )

    def run_all(self, event: str, subject: Any, failed: bool) -> None:
        """As `run`, but one that raises keeps no other from being called: at the end everybody has
        to clean up.

        failed: the run has an error of its own, which nothing here may hide: those of callbacks are
        then only logged.
        """
        first: Exception | None = None
        for callback, may_fail in list(self._checked(event)):
            try:
                callback(subject)
            except Exception as error:
                log.warning("callback failed at %s: %s: %s", event, type(error).__name__, error)
                first = first or (None if may_fail else error)
        if first is not None and not failed:
            raise first

    def _checked(self, event: str) -> list[tuple[Callback, bool]]:
        if event not in self._by_event:
            known = ", ".join(self._by_event)
            raise ConfigError(
                f"unknown event '{event}'.{nearest(event, self._by_event)} Known: {known}"
            )
        return self._by_event[event]
