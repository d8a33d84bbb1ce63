"""Runs one stage with what belongs around it: environment, parameters, tracking. Both drivers come
through here.

`dvc repro` calls it by `python -m engine.stages NAME`, the flow calls `run_stage` in process.
MLflow is imported only when tracking is on, and then in a thread of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.config.trackers import TRACKERS
from engine.errors import ConfigError, nearest
from engine.files import described_full_disk
from engine.project.environment import prepare_environment
from engine.project.gpu_lock import gpu_of_stage
from engine.stages.layout import STAGES, Progress

logger = logging.getLogger("detectflow")


def run_stage(
    name: str, root: Path, *, progress: Progress | None = None, **more: Any
) -> dict[str, Any]:
    """Run stage `name` of the workspace `root` with its params.yaml and return its JSON summary.
    more: what only it takes.

    Raises:
        ConfigError: unknown stage, wrong params.yaml. EngineError: whatever stops the stage.
    """
    if name not in STAGES:
        raise ConfigError(f"no stage '{name}'.{nearest(name, STAGES)} Stages: {', '.join(STAGES)}")
    root = prepare_environment(root)
    params = Params.load(root / "params.yaml")
    module = importlib.import_module(f"engine.stages.{name}")
    if name != "train":
        from engine.stages.train import remove_published

        remove_published(root)  # the next stage runs: the training before it has been recorded
    with described_full_disk(f"stage {name}"), gpu_of_stage(name, params, root):
        tracker = tracker_of(params)
        if tracker is None:
            return module.run(params, root, progress=progress, **more)
        artist = epoch_artist() if name == "train" else None
        with tracker.tracked(name, params, root, artist) as run:
            summary = module.run(params, root, progress=progress, callbacks=run.callbacks, **more)
            run.finish(summary)
        return summary


def epoch_artist() -> Any:
    from engine.detect.epoch_images import EpochArtist

    return EpochArtist()


def tracker_of(params: Params, of: str = "stages") -> Any | None:
    """The module that records `stages` or `searches`. None: `tracking.tracker` is none, or
    DETECTFLOW_TRACKING=off, or its package is not installed.
    """
    wanted = os.environ.get("DETECTFLOW_TRACKING", "on").lower()
    tracker = TRACKERS.get(params.tracking.tracker)
    if tracker is None or wanted in {"off", "0", "false", "no"}:
        return None
    if importlib.util.find_spec(tracker.needs) is None:
        return None
    return importlib.import_module(getattr(tracker, of))
