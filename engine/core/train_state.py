"""What of a trainer goes into a checkpoint, and back. The counterpart of `engine.core.checkpoint`,
which writes it.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

from torch import Tensor

from engine.config.train import TrainConfig
from engine.core.checkpoint import (
    Checkpoint,
    load_checkpoint,
    previous_of,
    read_sidecar,
    save_checkpoint,
)
from engine.core.progress import say_epoch
from engine.core.randomness import restore_rng, rng_state
from engine.core.results import Row, row_of_json, write_results
from engine.core.run_directory import WITH_EXTEND
from engine.errors import CheckpointError, ConfigError, cause_of

if TYPE_CHECKING:
    from engine.core.trainer import BaseTrainer

log = logging.getLogger("detectflow")

# Where and how a run is done, not what it computes: they would make equal results hash differently.
ENVIRONMENT_KEYS = {
    "data",
    "project",
    "name",
    "exist_ok",
    "resume",
    "extend",
    "device",
    "workers",
    "verbose",
    "nproc",
    "cache",
    "plots",
    "callbacks",
}


def capture(trainer: BaseTrainer, resumable: bool) -> Checkpoint:
    """All state of a run, or (not resumable) only the weights to use."""
    ema = _on_cpu(trainer.ema.module.state_dict()) if trainer.ema is not None else None
    if not resumable:
        return Checkpoint(
            trainer.checkpoint_meta(),
            _on_cpu(trainer.model.state_dict()) if ema is None else {},
            ema,
        )
    training = {
        "epoch": trainer.epoch,
        "best_fitness": trainer.best_fitness,
        "best_epoch": trainer.best_epoch,
        "rows": list(trainer.rows),
        "tloss": trainer.tloss.cpu() if trainer.tloss is not None else None,
        "elapsed_s": trainer.trained_s,
        "params": dict(trainer.updated),
        "ema_updates": trainer.ema.updates if trainer.ema is not None else 0,
        "scaler": trainer.scaler.state_dict(),
        "rng": rng_state(),
    }
    return Checkpoint(
        trainer.checkpoint_meta(),
        _on_cpu(trainer.model.state_dict()),
        ema,
        trainer.optimizer.state_dict(),
        training,
    )


def restore(trainer: BaseTrainer, checkpoint: Checkpoint) -> None:
    """Continue where `checkpoint` stands; an epoch that is recorded in the sidecar is complete.

    Raises:
        CheckpointError: it is of another network.
    """
    saved = checkpoint.training
    try:
        trainer.model.load_state_dict(checkpoint.model)
        if trainer.ema is not None and checkpoint.ema is not None:
            trainer.ema.module.load_state_dict(checkpoint.ema)
        trainer.optimizer.load_state_dict(checkpoint.optimizer)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{trainer.last} does not fit this model: {cause_of(error)}"
        ) from error
    if trainer.ema is not None:
        trainer.ema.updates = saved["ema_updates"]
    if trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(saved["scaler"])
    trainer.updated = dict(saved["params"])
    trainer.args = trainer.args.with_overrides(
        trainer.updated, str(trainer.last)
    )  # as `update_params` left them
    trainer.apply_params()
    trainer.best_fitness, trainer.best_epoch = saved["best_fitness"], saved["best_epoch"]
    trainer.rows, trainer.tloss = list(saved["rows"]), saved["tloss"]
    if trainer.tloss is not None:
        trainer.tloss = trainer.tloss.to(trainer.device)
    trainer.epoch, trainer.start_epoch = saved["epoch"], saved["epoch"] + 1
    trainer.trained_s = saved["elapsed_s"]
    trainer.started_s = time.monotonic() - trainer.trained_s
    complete = read_sidecar(trainer.last)
    if (complete.get("row") or {}).get("epoch") == trainer.epoch:
        trainer.record(row_of_json(complete["row"]))
        more = trainer.args.epochs > checkpoint.meta.get("config", {}).get(
            "epochs", trainer.args.epochs
        )
        trainer.stop = complete["stop"] and not more
    restore_rng(saved["rng"])


def newest(trainer: BaseTrainer) -> Checkpoint | None:
    """What a resumed run goes on from; None where it was killed before its first epoch was
    complete.

    Raises:
        CheckpointError: damaged, or gone though an epoch was complete.
    """
    last, left = (
        trainer.last,
        [path for path in (previous_of(trainer.last), trainer.best) if path.exists()],
    )
    there, left = trainer.world.broadcast((last.exists(), left))
    if there:
        return load_checkpoint(last)
    if left:
        found = " and ".join(path.name for path in left)
        raise CheckpointError(
            f"{last} is gone, and {found} beside it says that epochs were complete. Copy "
            "last.prev.pt to last.pt to go on after the epoch before, or start a new run without "
            "resume=true"
        )
    log.info(
        "%s was stopped before its first epoch was complete: starting it from the beginning",
        trainer.save_dir,
    )
    return None


def check_same_run(trainer: BaseTrainer, checkpoint: Checkpoint) -> None:
    """Resuming is exact only for the settings and the data that the checkpoint was made with.

    Raises:
        CheckpointError: weights without training state (a `best.pt`).
        ConfigError: it is of another run than args.yaml describes, or has more epochs behind it.
    """
    if checkpoint.optimizer is None or not checkpoint.training:
        raise CheckpointError(
            f"{trainer.last} holds weights only and cannot be resumed; use it as model= instead"
        )
    then, now = checkpoint.meta.get("config", {}), public_config(trainer.resolved)
    free = set(checkpoint.training["params"]) | (WITH_EXTEND if trainer.args.extend else set())
    differing = sorted(key for key in then.keys() & now.keys() - free if then[key] != now[key])
    if differing:
        lines = "".join(
            f"\n  {key}: {then[key]!r} in the checkpoint, {now[key]!r} in args.yaml"
            for key in differing
        )
        raise ConfigError(
            f"{trainer.last} is not of the run that {trainer.paths.args_yaml} describes. Put the "
            "values of the checkpoint back, or start a new run from it with "
            f"model={trainer.last}:{lines}"
        )
    done = checkpoint.training["epoch"] + 1
    if done > trainer.args.epochs:
        raise ConfigError(
            f"{trainer.last} has {done} epochs behind it, more than epochs={trainer.args.epochs}: "
            f"nothing is left to train. Ask for more than {done}, with extend=true"
        )
    digest, known = trainer.data_digest(), checkpoint.meta.get("data_digest", "")
    if digest and known and digest != known:
        raise ConfigError(
            f"the data has changed since {trainer.last} was written (digest {known[:12]} then, "
            f"{digest[:12]} now): start a new run, from these weights with model={trainer.last}"
        )


def write_epoch(trainer: BaseTrainer, is_best: bool) -> None:
    """The files of an epoch whose figures are known, but for `last`, which is there already."""
    write_results(trainer.paths.results_csv, trainer.rows)
    # As long as nothing could be measured the newest is the best there is.
    if is_best or trainer.best_fitness is None or not trainer.best.exists():
        summary = {"epoch": trainer.epoch, "metrics": numbers(trainer.metrics)}
        save_checkpoint(capture(trainer, resumable=False), trainer.best, summary)
    if trainer.args.save_period and (trainer.epoch + 1) % trainer.args.save_period == 0:
        kept = trainer.paths.weights / f"epoch{trainer.epoch + 1}.pt"
        save_checkpoint(capture(trainer, resumable=False), kept, {"epoch": trainer.epoch})
    bad = [_bad_losses(row) for row in trainer.rows]
    if bad[-1] and not any(bad[:-1]):
        log.warning(
            "epoch %d: %s no finite number, though the losses of training are: the weights may "
            "have grown too large. Lower lr0 (now %g)",
            trainer.epoch + 1,
            " and ".join(bad[-1]) + (" is" if len(bad[-1]) == 1 else " are"),
            trainer.args.lr0,
        )
    if trainer.args.verbose:
        say_epoch(trainer.metrics, trainer.epoch, trainer.args.epochs, is_best)


def public_config(config: TrainConfig) -> dict[str, Any]:
    """The configuration without what only says where and how: plain data for checkpoints and
    exports.
    """
    return {
        key: value
        for key, value in config.model_dump(mode="json").items()
        if key not in ENVIRONMENT_KEYS
    }


def numbers(row: dict[str, Any]) -> dict[str, float]:
    """The figures of a row that could be measured, without those that depend on the clock."""
    finite = {
        key: value
        for key, value in row.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }
    return {key: float(value) for key, value in finite.items() if key != "time_s"}


def set_epoch(loader: Any, epoch: int) -> None:
    """Give the epoch to whatever in a loader wants it."""
    for part in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        if part is not None and hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
            return


def _bad_losses(row: Row) -> list[str]:
    return [
        key
        for key, value in row.items()
        if key.startswith("val/") and value is not None and not math.isfinite(value)
    ]


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
