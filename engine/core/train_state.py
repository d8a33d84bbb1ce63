"""A run as a checkpoint, and back: what is captured, what is put back, and what may be resumed at
all. `engine.core.checkpoint` writes and reads the file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.config.train import TrainConfig
from engine.core.checkpoint import (
    Checkpoint,
    load_checkpoint,
    previous_of,
    put_back_previous,
    read_sidecar,
    save_checkpoint,
)
from engine.core.distributed import World
from engine.core.randomness import rng_state
from engine.core.results import losses_not_finite, measured_numbers, write_results
from engine.core.run_directory import WITH_EXTEND
from engine.core.run_state import Components, RunState
from engine.errors import CheckpointError, ConfigError, WorkspaceError, cause_of
from engine.types import RunPaths

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


def weights_of(parts: Components, meta: dict[str, Any]) -> Checkpoint:
    """The weights to use, averaged ones where there are; nothing to resume from."""
    if parts.ema is None:
        return Checkpoint(meta, _on_cpu(parts.model.state_dict()))
    return Checkpoint(meta, {}, _on_cpu(parts.ema.module.state_dict()))


def capture(parts: Components, state: RunState, meta: dict[str, Any]) -> Checkpoint:
    """All that a run needs to go on."""
    ema = parts.ema
    training = {
        **state.state_dict(),
        "ema_updates": ema.updates if ema is not None else 0,
        "scaler": parts.scaler.state_dict(),
        "rng": rng_state(),
    }
    return Checkpoint(
        meta,
        _on_cpu(parts.model.state_dict()),
        _on_cpu(ema.module.state_dict()) if ema is not None else None,
        parts.optimizer.state_dict(),
        training,
    )


def restore(parts: Components, state: RunState, checkpoint: Checkpoint, paths: RunPaths) -> None:
    """Put back what `capture` took, but for the settings and the random numbers.

    Raises:
        CheckpointError: it is of another network.
    """
    saved = checkpoint.training
    try:
        parts.model.load_state_dict(checkpoint.model)
        if parts.ema is not None and checkpoint.ema is not None:
            parts.ema.module.load_state_dict(checkpoint.ema)
        parts.optimizer.load_state_dict(checkpoint.optimizer)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{paths.last} does not fit this model: {cause_of(error)}") from error
    if parts.ema is not None:
        parts.ema.updates = saved["ema_updates"]
    if parts.scaler.is_enabled():
        parts.scaler.load_state_dict(saved["scaler"])
    state.load_state_dict(saved, next(parts.model.parameters()).device)


def _heal(last: Path) -> None:
    try:
        aside = put_back_previous(last)
    except OSError as error:
        raise WorkspaceError(
            f"{last} is damaged, and the one before it could not take its place: {error}"
        ) from error
    if aside is not None:
        what = "is gone" if aside == last else f"is damaged, and kept as {aside.name}"
        log.warning(
            "%s %s: going on from the checkpoint before it; an epoch is trained again", last, what
        )


def newest(paths: RunPaths, world: World) -> Checkpoint | None:
    """What a resumed run goes on from; None where it was killed before its first epoch was
    complete.

    One that is damaged, or gone, gives way to the one before it by itself: an epoch is trained
    again.

    Raises:
        CheckpointError: damaged, or gone though an epoch was complete, and none before it.
    """
    last = paths.last
    if world.is_main:
        _heal(last)
    left = [path for path in (previous_of(last), paths.best) if path.exists()]
    there, left = world.broadcast((last.exists(), left))
    if there:
        return load_checkpoint(last)
    if left:
        found = " and ".join(path.name for path in left)
        raise CheckpointError(
            f"{last} is gone, and {found} beside it says that epochs were complete. Bring the "
            "folder back from where it was copied, or start a new run without resume=true"
        )
    log.info(
        "%s was stopped before its first epoch was complete: starting it from the beginning",
        paths.root,
    )
    return None


def check_same_run(
    checkpoint: Checkpoint, config: TrainConfig, data_digest: str, paths: RunPaths
) -> None:
    """Resuming is exact only for the settings and the data that the checkpoint was made with.

    config: with everything automatic decided. data_digest: empty where there is none.

    Raises:
        CheckpointError: weights without training state (a `best.pt`).
        ConfigError: it is of another run than args.yaml describes, or trained for more epochs.
    """
    last = paths.last
    if checkpoint.optimizer is None or not checkpoint.training:
        raise CheckpointError(
            f"{last} holds weights only and cannot be resumed; use it as model= instead"
        )
    then, now = checkpoint.meta.get("config", {}), public_config(config)
    free = set(checkpoint.training["params"]) | (WITH_EXTEND if config.extend else set())
    differing = sorted(key for key in then.keys() & now.keys() - free if then[key] != now[key])
    if differing:
        lines = "".join(
            f"\n  {key}: {then[key]!r} in the checkpoint, {now[key]!r} in args.yaml"
            for key in differing
        )
        raise ConfigError(
            f"{last} is not of the run that {paths.args_yaml} describes. Put the values of the "
            f"checkpoint back, or start a new run from it with model={last}:{lines}"
        )
    done = checkpoint.training["epoch"] + 1
    if done > config.epochs:
        raise ConfigError(
            f"{last}: already trained for {done} epochs, epochs={config.epochs}: raise `epochs` "
            "and set extend=true"
        )
    known = checkpoint.meta.get("data_digest", "")
    if data_digest and known and data_digest != known:
        raise ConfigError(
            f"the data has changed since {last} was written (digest {known[:12]} then, "
            f"{data_digest[:12]} now): start a new run, from these weights with model={last}"
        )


def write_epoch(
    state: RunState,
    config: TrainConfig,
    paths: RunPaths,
    weights: Callable[[], Checkpoint],
    is_best: bool,
) -> None:
    """The files of an epoch whose metrics are known, but for `last`, which is there already."""
    write_results(paths.results_csv, state.rows)
    # As long as nothing could be measured the newest is the best there is.
    if is_best or state.best_fitness is None or not paths.best.exists():
        summary = {"epoch": state.epoch + 1, "metrics": measured_numbers(state.metrics)}
        save_checkpoint(weights(), paths.best, summary)
    if config.save_period and (state.epoch + 1) % config.save_period == 0:
        kept = paths.weights / f"epoch{state.epoch + 1}.pt"
        save_checkpoint(weights(), kept, {"epoch": state.epoch + 1})
    bad = [losses_not_finite(row) for row in state.rows]
    if bad[-1] and not any(bad[:-1]):
        log.warning(
            "epoch %d: %s no finite number, though the losses of training are: the weights may "
            "have grown too large. Lower lr0 (now %g)",
            state.epoch + 1,
            " and ".join(bad[-1]) + (" is" if len(bad[-1]) == 1 else " are"),
            config.lr0,
        )


def add_to_best(paths: RunPaths, found: dict[str, Any]) -> None:
    """Write what the final validation found into the metadata of the best weights. A run that was
    killed here and goes on finds the same, and the file gets the same bytes.
    """
    if not found:
        return
    best, about = load_checkpoint(paths.best), read_sidecar(paths.best)
    if all(best.meta.get(key) == value for key, value in found.items()):
        return
    best.meta = {**best.meta, **found}
    summary = {key: about[key] for key in about if not key.endswith("sha256")}
    save_checkpoint(best, paths.best, summary)


def public_config(config: TrainConfig) -> dict[str, Any]:
    """The configuration without what only says where and how: plain data for checkpoints and
    exports.
    """
    return {
        key: value
        for key, value in config.model_dump(mode="json").items()
        if key not in ENVIRONMENT_KEYS
    }


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
