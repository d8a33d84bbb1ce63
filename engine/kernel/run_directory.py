"""Which folder a run writes to, and whether it may continue what lies there."""

from __future__ import annotations

from pathlib import Path

import yaml

from engine.config.train import TrainConfig
from engine.errors import CheckpointError, ConfigError, WorkspaceError
from engine.files import atomic_write
from engine.types import RunPaths

FREE_TO_CHANGE = {"resume", "extend", "exist_ok", "device", "workers", "verbose", "project", "name", "nproc", "cache"}


def choose_run_directory(config: TrainConfig) -> RunPaths:
    """project/name; a number is appended where it exists, unless it is to be resumed or overwritten."""
    root = Path(config.project).absolute() / config.name
    if config.resume or config.exist_ok:
        return RunPaths(root)
    candidate, number = root, 2
    while candidate.exists():
        candidate = root.with_name(f"{config.name}{number}")
        number += 1
    return RunPaths(candidate)


def create_run_directory(paths: RunPaths, config: TrainConfig) -> None:
    """Make the folders and write args.yaml: resolved, complete, loadable as input.

    Raises:
        WorkspaceError: the folder cannot be made or written.
    """
    try:
        paths.weights.mkdir(parents=True, exist_ok=True)
        if not config.resume:  # with exist_ok: what another run left must not pass for this one's
            for old in (*paths.weights.glob("*.pt"), *paths.weights.glob("*.json"), paths.results_csv):
                old.unlink(missing_ok=True)
    except OSError as error:
        raise WorkspaceError(f"{paths.root}: the run directory cannot be made: {error}") from error
    values = config.model_dump(mode="json")
    with atomic_write(paths.args_yaml, "w") as stream:
        yaml.safe_dump(values, stream, sort_keys=False)


def continued_config(paths: RunPaths, config: TrainConfig) -> TrainConfig:
    """The configuration of the run to resume, with what may change taken from `config`.

    Raises:
        CheckpointError: nothing to resume there.
        ConfigError: a setting that would make it another run; more epochs without `extend`.
    """
    if not paths.args_yaml.is_file():
        raise CheckpointError(f"{paths.root}: nothing to resume (no args.yaml). Start it without resume=true, "
                              "or name the run with project= and name=")  # fmt: skip
    saved = type(config).load(paths.args_yaml)
    changed = {k: getattr(config, k) for k in config.model_fields_set if getattr(config, k) != getattr(saved, k)}
    refused = set(changed) - FREE_TO_CHANGE - ({"epochs"} if config.extend else set())
    if refused == {"epochs"}:
        raise ConfigError(f"{paths.root} was planned for {saved.epochs} epochs, not {config.epochs}: "
                          "add extend=true to change the plan from here on")  # fmt: skip
    if refused:
        lines = "".join(f"\n  {key}: {getattr(saved, key)!r} then, {changed[key]!r} now" for key in sorted(refused))
        raise ConfigError(f"{paths.root} cannot be resumed with other settings; start a new run instead:{lines}")
    free = {key: getattr(config, key) for key in FREE_TO_CHANGE if key in config.model_fields_set}
    return saved.with_overrides({**free, **({"epochs": config.epochs} if config.extend and "epochs" in changed else {})})
