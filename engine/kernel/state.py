"""What of a trainer goes into a checkpoint, and back. The counterpart of `engine.kernel.checkpoint`, which writes it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engine.config.train import TrainConfig
from engine.errors import CheckpointError
from engine.kernel.checkpoint import Checkpoint, read_sidecar
from engine.kernel.randomness import restore_rng, rng_state

if TYPE_CHECKING:
    from engine.kernel.trainer import BaseTrainer

# Where and how a run is done, not what it computes: they would make equal results hash differently.
ENVIRONMENT_KEYS = {"data", "project", "name", "exist_ok", "resume", "extend", "device", "workers", "verbose", "nproc", "cache",
                    "plots"}  # fmt: skip


def capture(trainer: BaseTrainer, resumable: bool) -> Checkpoint:
    """All state of a run, or (not resumable) only the weights to use."""
    ema = _on_cpu(trainer.ema.module.state_dict()) if trainer.ema is not None else None
    if not resumable:
        return Checkpoint(trainer.checkpoint_meta(), _on_cpu(trainer.model.state_dict()) if ema is None else {}, ema)
    training = {
        "epoch": trainer.epoch,
        "best_fitness": trainer.best_fitness,
        "best_epoch": trainer.best_epoch,
        "rows": list(trainer.rows),
        "tloss": trainer.tloss.cpu() if trainer.tloss is not None else None,
        "elapsed_s": trainer.elapsed_s(),
        "ema_updates": trainer.ema.updates if trainer.ema is not None else 0,
        "scaler": trainer.scaler.state_dict(),
        "rng": rng_state(),
    }
    return Checkpoint(
        trainer.checkpoint_meta(), _on_cpu(trainer.model.state_dict()), ema, trainer.optimizer.state_dict(), training
    )


def restore(trainer: BaseTrainer, checkpoint: Checkpoint) -> None:
    """Continue where `checkpoint` stands; an epoch whose validation is recorded in the sidecar is complete.

    Raises:
        CheckpointError: weights without training state (a `best.pt`), or of another network.
    """
    saved = checkpoint.training
    if checkpoint.optimizer is None or not saved:
        raise CheckpointError(f"{trainer.last} holds weights only and cannot be resumed; use it as model= instead")
    try:
        trainer.model.load_state_dict(checkpoint.model)
        if trainer.ema is not None and checkpoint.ema is not None:
            trainer.ema.module.load_state_dict(checkpoint.ema)
        trainer.optimizer.load_state_dict(checkpoint.optimizer)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{trainer.last} does not fit this model: {str(error).splitlines()[0]}") from error
    if trainer.ema is not None:
        trainer.ema.updates = saved["ema_updates"]
    if trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(saved["scaler"])
    trainer.best_fitness, trainer.best_epoch = saved["best_fitness"], saved["best_epoch"]
    trainer.rows, trainer.tloss = list(saved["rows"]), saved["tloss"]
    if trainer.tloss is not None:
        trainer.tloss = trainer.tloss.to(trainer.device)
    trainer.epoch, trainer.start_epoch = saved["epoch"], saved["epoch"] + 1
    trainer.started_s = time.monotonic() - saved["elapsed_s"]
    row = read_sidecar(trainer.last).get("row")
    if row is not None and row.get("epoch") == trainer.epoch:
        trainer.record(row)
        trainer.decide_stop()
    restore_rng(saved["rng"])


def public_config(config: TrainConfig) -> dict[str, Any]:
    """The configuration without what only says where and how: plain data for checkpoints and exports."""
    return {key: value for key, value in config.model_dump(mode="json").items() if key not in ENVIRONMENT_KEYS}


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The figures of a row, without those that depend on the clock."""
    return {key: float(value) for key, value in row.items() if isinstance(value, (int, float)) and key != "time_s"}


def tell_epoch(loader: Any, epoch: int) -> None:
    """Give the epoch to whatever in a loader wants it."""
    for part in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if part is not None and hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
            return


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
