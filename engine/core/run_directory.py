"""Which folder a run writes to, and whether it may continue what lies there."""

from __future__ import annotations

from pathlib import Path

import yaml

from engine.config.train import AUTOMATIC, TrainConfig
from engine.core.run_lock import RunLock
from engine.errors import CheckpointError, ConfigError, WorkspaceError
from engine.files import atomic_write
from engine.types import RunPaths

FREE_TO_CHANGE = {
    "resume",
    "extend",
    "exist_ok",
    "device",
    "workers",
    "verbose",
    "project",
    "name",
    "nproc",
    "cache",
    "callbacks",
}
WITH_EXTEND = {"epochs", "patience", "time_limit_minutes"}  # when a run ends, not what it computes


def run_of(checkpoint: str) -> Path | None:
    """The run folder that a `last.pt` lies in; None for any other model."""
    file = Path(checkpoint).absolute()
    is_last = file == RunPaths(file.parent.parent).last
    return file.parent.parent if is_last and (file.parent.parent / "args.yaml").is_file() else None


def choose_run_directory(config: TrainConfig) -> RunPaths:
    """project/name; a number is appended where it exists, unless it is to be resumed or
    overwritten.

    What to resume may also be said by its checkpoint: model=runs/train/weights/last.pt."""
    root = Path(config.project).absolute() / config.name
    if config.resume and not config.is_given("name"):
        root = run_of(config.model) or root
    if config.resume or config.exist_ok:
        return RunPaths(root)
    candidate, number = root, 2
    while candidate.exists():
        candidate = root.with_name(f"{config.name}{number}")
        number += 1
    return RunPaths(candidate)


def claim_run_directory(paths: RunPaths, config: TrainConfig, lock: RunLock) -> RunPaths:
    """Hold the folder for this process; a new run whose name another one took meanwhile gets the
    next number.

    Raises:
        WorkspaceError: the run to resume or to overwrite is being written by another process; names
            it.
        ConfigError: the run to overwrite holds the weights that this one starts from.
    """
    if config.exist_ok and not config.resume:
        _refuse_own_start(paths, config)
    if config.resume and not paths.args_yaml.is_file():
        return paths  # there is nothing to hold; `continued_config` says so
    own_name = config.resume or config.exist_ok
    while True:
        holder = lock.take(paths.root)
        if holder and own_name:
            raise WorkspaceError(
                f"{paths.root}: {holder} is writing this run. Wait until it ends, or stop it, and "
                "start again; or give another name="
            )
        if not holder and (own_name or not paths.args_yaml.exists()):
            return paths
        lock.release()
        paths = choose_run_directory(config)


def _refuse_own_start(paths: RunPaths, config: TrainConfig) -> None:
    """ConfigError where the weights that this run starts from are among those it would remove."""
    for key in ("model", "pretrained"):
        name = getattr(config, key, None)
        if (
            isinstance(name, str)
            and Path(name).is_file()
            and Path(name).resolve().is_relative_to(paths.weights.resolve())
        ):
            raise ConfigError(
                f"{key}={name} lies in {paths.root}, which exist_ok=true overwrites: the weights "
                "to start from would be lost. Give another name=, or go on with that run: "
                "resume=true"
            )


def create_run_directory(paths: RunPaths, config: TrainConfig) -> None:
    """Make the folders and write args.yaml: resolved, complete, loadable as input.

    Raises:
        WorkspaceError: the folder cannot be made or written.
    """
    try:
        paths.weights.mkdir(parents=True, exist_ok=True)
        # with exist_ok: what another run left must not pass for this one's; args.yaml goes first,
        if not config.resume:
            # for without it nothing resumes what is left if a kill comes in between
            for old in (
                paths.args_yaml,
                *paths.weights.glob("*.pt"),
                *paths.weights.glob("*.json"),
                paths.results_csv,
            ):
                old.unlink(missing_ok=True)
        paths.failed_batch.unlink(missing_ok=True)  # of an earlier attempt
        for torn in (
            *paths.root.glob(".*.tmp"),
            *paths.weights.glob(".*.tmp"),
            *paths.weights.glob("*.tmp"),
        ):
            torn.unlink(missing_ok=True)  # what a kill cut off
    except OSError as error:
        raise WorkspaceError(f"{paths.root}: the run directory cannot be made: {error}") from error
    # As input it starts a run of its own. That a run was extended stays written: from then on its
    # checkpoints may be of another plan than args.yaml.
    values = {**config.model_dump(mode="json"), "resume": False}
    with atomic_write(paths.args_yaml, "w") as stream:
        yaml.safe_dump(values, stream, sort_keys=False)


def continued_config(paths: RunPaths, config: TrainConfig) -> TrainConfig:
    """The configuration of the run to resume, with what may change taken from `config`.

    Raises:
        CheckpointError: nothing to resume there.
        ConfigError: a setting that would make it another run; more epochs without `extend`.
    """
    if not paths.args_yaml.is_file():
        raise CheckpointError(
            f"{paths.root}: nothing to resume (no args.yaml). Start it without resume=true, "
            "or name the run with project= and name="
        )
    saved = type(config).load(paths.args_yaml)
    asked = {
        k: getattr(config, k)
        for k in config.model_fields_set
        if k not in AUTOMATIC or getattr(config, k) != AUTOMATIC[k]
    }
    if run_of(config.model) == paths.root:
        asked.pop("model", None)  # it only says which run
    changed = {key: value for key, value in asked.items() if value != getattr(saved, key)}
    extended = {key: changed[key] for key in WITH_EXTEND & set(changed)} if config.extend else {}
    refused = set(changed) - FREE_TO_CHANGE - set(extended)
    if refused and refused <= WITH_EXTEND:
        plans = " and ".join(
            f"{key}={getattr(saved, key)}, not {changed[key]}" for key in sorted(refused)
        )
        raise ConfigError(
            f"{paths.root} was planned with {plans}: add extend=true to change the plan from here "
            f"on, or leave {' and '.join(sorted(refused))} out to go on as planned"
        )
    if refused:
        lines = "".join(
            f"\n  {key}: {getattr(saved, key)!r} then, {changed[key]!r} now"
            for key in sorted(refused)
        )
        raise ConfigError(
            f"{paths.root} cannot be resumed with other settings; start a new run instead:{lines}"
        )
    free = {key: asked[key] for key in FREE_TO_CHANGE if key in asked}
    return saved.with_overrides({**free, **extended})
