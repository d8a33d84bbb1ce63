"""What a search for hyper-parameters records in MLflow: one parent run per study, below it a run
for every trial.

Written to journals like everything else (`engine.tracking.stage_runs`), each in a lane of its own,
because the parent's stays open as long as the search goes on. A trial brings with it what is needed
to make its parent, should its records come first.
Everything arrives as plain values: what a trial is, this file does not know.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.tracking import run_metadata
from engine.tracking.journal import Record
from engine.tracking.mlflow_recorder import DESCRIPTION, OWN_NOTE
from engine.tracking.sender import sender_of
from engine.tracking.stage_run import (
    INTERRUPTED_CLOSE_S,
    StageRun,
    guarded_run,
    now_ms,
)
from engine.tracking.training_run import training_identity

EXPERIMENT_SUFFIX = "-tune"  # trials would crowd the table of the pipeline's own trainings
STATES = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}


def parent_record(root: Path, state: Path, study: Mapping[str, Any]) -> Record:
    """What is needed to make the run of a study: {"key", "name", "began_ms", "tags"}."""
    return {
        "at": int(study["began_ms"]),
        "key": str(study["key"]),
        "experiment": Params.load(root / "params.yaml").register_.experiment + EXPERIMENT_SUFFIX,
        "run_name": str(study["name"]),
        "workspace": run_metadata.workspace_id(state),
        "tags": {**origin(root), **_legal(study["tags"]), OWN_NOTE: str(study["name"])},
    }


def origin(root: Path) -> dict[str, str]:
    """Code, versions and flow behind a run."""
    return {
        "mlflow.source.name": "detectflow tune",
        "versions": run_metadata.versions(),
        **run_metadata.git_tags(root, Params.load(root / "params.yaml")),
        **run_metadata.flow_tags(),
    }


def tracked_study(
    study: Mapping[str, Any], values: Mapping[str, Any], root: Path
) -> contextlib.AbstractContextManager[SweepRun]:
    """Around a search: `trial` after each of its trials, `result` at the end."""
    return guarded_run(SweepRun(study, values, root))


def tracked_trial(
    study: Mapping[str, Any], number: int, values: Mapping[str, Any], root: Path
) -> contextlib.AbstractContextManager[TrialRun]:
    """Around a trial: `callbacks` go to its trainer, `over` says how it ended."""
    return guarded_run(TrialRun(study, number, values, root))


class SweepRun(StageRun):
    """The parent: which trials there were, and how the best value grew."""

    def __init__(self, study: Mapping[str, Any], params: Mapping[str, Any], root: Path):
        super().__init__("tune", Params.load(root / "params.yaml"), root)
        self.study, self.values = study, params

    def open(self) -> None:
        self.sender = sender_of(self.state, "tune")
        parent = parent_record(self.root, self.state, self.study)
        self.begin({"do": "start", **parent}, {"do": "params", "values": _legal(self.values)})

    def trial(self, number: int, value: float | None, best: float | None) -> None:
        """A trial has ended; its number is the step."""
        named = {"trial/value": value, "trial/best_so_far": best}
        if values := {key: each for key, each in named.items() if each is not None}:
            record = {"do": "metrics", "step": number, "at": now_ms(), "values": values}
            self.guarded(lambda: self.record(record))

    def result(self, text: str, files: list[Path]) -> None:
        """The search is over: a description in Markdown, and plots and tables."""
        self.guarded(lambda: self._result(text, files))

    def _result(self, text: str, files: list[Path]) -> None:
        if self.journal is None:
            return
        kept = [
            {"do": "artifact", "file": self.journal.keep(file), "folder": "tune"} for file in files
        ]
        self.record({"do": "tags", "values": {DESCRIPTION: text}}, *kept)


class TrialRun(StageRun):
    """One trial: `callbacks` go to its trainer, `over` says how it ended."""

    def __init__(
        self, study: Mapping[str, Any], number: int, searched: Mapping[str, Any], root: Path
    ):
        super().__init__(f"trial-{number:04d}", Params.load(root / "params.yaml"), root)
        self.study, self.number, self.searched = study, number, searched
        self.recorded_state = ""
        self.started_ms = now_ms()

    def open(self) -> None:
        self.sender = sender_of(self.state, threading.current_thread().name)
        self.callbacks += [
            ("on_pretrain_routine_end", self._on_start),
            ("on_fit_epoch_end", self._on_epoch),
        ]

    def _on_start(self, trainer: Any) -> None:
        key, self.started_ms = training_identity(trainer.save_dir, False, self.started_ms)
        parent = parent_record(self.root, self.state, self.study)
        tags = {**origin(self.root), **_legal(self.study["tags"]), "trial": str(self.number)}
        settings = trainer.args.model_dump(mode="json")
        known = {
            f"train.{name}": value
            for name, value in settings.items()
            if name not in run_metadata.PLACES
        }
        self.begin(
            {
                "do": "start",
                **parent,
                "at": self.started_ms,
                "key": key,
                "run_name": self.name,
                "tags": tags,
                "parent": parent,
            },
            {
                "do": "params",
                "values": _legal(
                    {**known, **{f"searched.{k}": v for k, v in self.searched.items()}}
                ),
            },
            *(run_metadata.epoch_record(row, self.started_ms) for row in trainer.rows),
        )

    def _on_epoch(self, trainer: Any) -> None:
        self.record(run_metadata.epoch_record(trainer.metrics, self.started_ms))

    def over(self, state: str, value: float | None, why: str = "") -> None:
        """complete, pruned or failed, with the value that counts."""
        self.guarded(lambda: self._over(state, value, why))

    def _over(self, state: str, value: float | None, why: str) -> None:
        metrics = (
            []
            if value is None
            else [{"do": "metrics", "step": 0, "at": now_ms(), "values": {"trial/value": value}}]
        )
        self.record(
            *metrics,
            {"do": "tags", "values": {"trial.state": state}},
            {"do": "note"},
            {"do": "end", "status": STATES[state], "at": now_ms(), "reason": why},
        )
        self.recorded_state = state

    def abort(self, error: BaseException) -> None:
        self._finish("interrupted")

    def close(self) -> None:
        self._finish("left: its search has ended, or another process drives the study")

    def _finish(self, otherwise: str) -> None:
        if not self.recorded_state:
            self.record(
                {"do": "tags", "values": {"trial.state": "left"}},
                {"do": "end", "status": "KILLED", "at": now_ms(), "reason": otherwise},
            )
        self.end(INTERRUPTED_CLOSE_S)


def _legal(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        run_metadata.legal_name(key): str(value)[: run_metadata.PARAM_CHARACTERS]
        for key, value in values.items()
    }
