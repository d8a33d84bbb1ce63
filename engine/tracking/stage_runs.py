"""What a stage records in MLflow: `tracked` goes around a stage and never ends it, never holds it
up.

One MLflow run describes one trained model. Stage train makes it and streams every epoch
(`engine.tracking.training_run`); validate and export add to the run whose weights they used, found
by the weights' digest. Prepare is recorded with the training; register does its own.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.core.checkpoint import read_sidecar
from engine.core.results import read_results
from engine.tracking import run_metadata
from engine.tracking.class_metrics import ClassMetrics
from engine.tracking.epoch_images import Artist
from engine.tracking.journal import Record
from engine.tracking.sender import sender_of
from engine.tracking.stage_run import (
    INTERRUPTED_CLOSE_S,
    StageRun,
    describe_error,
    guarded_run,
    now_ms,
)
from engine.tracking.training_run import TrainingRun, best_metrics


@contextlib.contextmanager
def tracked(
    name: str, params: Params, root: Path, artist: Artist | None = None
) -> Iterator[StageRun]:
    """Around stage `name`: attach `run.callbacks` to its executor, call `run.finish(summary)` when
    it is done.

    artist: draws the epochs of a training; without it they are not drawn.
    """
    made = (
        TrainingRun(name, params, root, artist)
        if name == "train"
        else KINDS.get(name, StageRun)(name, params, root)
    )
    with guarded_run(made) as run:
        yield run


class AddedRun(StageRun):
    """Stages validate and export: metrics and files for the run of these weights."""

    def open(self) -> None:
        self.began_ms = now_ms()
        self.sender = sender_of(self.state)
        self.sender.start()
        self.classes = ClassMetrics(
            self.params.tracking.classes, self.params.validate_.split, ("ap",)
        )
        if self.name == "validate":
            self.callbacks.append(("on_val_end", self.classes.on_val_end))

    def record_summary(self, summary: Mapping[str, Any]) -> None:
        begin_attached(self, str(summary["weights_sha256"]))
        records: list[Record] = []
        if self.name == "validate":
            split = str(summary.get("split", "test"))
            values = (
                run_metadata.metrics_of(
                    {k: v for k, v in summary.items() if k.startswith("metrics/")}, split
                )
                | self.classes.take()
            )
            tags = {
                "validated_on": split,
                f"digest.{split}": run_metadata.split_digest(self.root, split),
            }
        else:
            files: Mapping[str, Mapping[str, Any]] = summary.get("files") or {}
            numbers = {f"{name}_{key}": v for name in files for key, v in files[name].items()}
            values = run_metadata.metrics_of(numbers, run_metadata.EXPORT)
            tags = {
                f"{run_metadata.legal_name(name)}_sha256": file.get("sha256", "")
                for name, file in files.items()
            }
        values[f"{run_metadata.TIME}/{self.name}_s"] = round((now_ms() - self.began_ms) / 1000, 1)
        records.append(
            {"do": "metrics", "step": 0, "at": now_ms(), "values": values, "again": True}
        )
        # Only now does dvc.lock know the weights.
        tags |= run_metadata.dvc_tags(self.root) | {f"stage.{self.name}": "done"}
        self.record({"do": "tags", "values": tags}, *records, *self.reports(self.name))

    def abort(self, error: BaseException) -> None:
        weights = read_sidecar(self.root / run_metadata.WEIGHTS).get("sha256")
        if weights and self.journal is None:
            begin_attached(self, weights)
        self.record({"do": "tags", "values": {f"stage.{self.name}": describe_error(error)}})
        self.end_run("FINISHED", INTERRUPTED_CLOSE_S)


KINDS: dict[str, type[StageRun]] = {"validate": AddedRun, "export": AddedRun}


def begin_attached(run: StageRun, weights_sha256: str) -> None:
    """Open the journal of `run` for the MLflow run of these weights."""
    run.begin()
    run.record(attachment(run, weights_sha256))


def attachment(run: StageRun, weights_sha256: str) -> Record:
    """The record that finds the MLflow run of these weights; what makes one, where there is none,
    is sent along.
    """
    now = now_ms()
    key = secrets.token_hex(8)
    return {
        "do": "attach",
        **run.identity(key, now),
        "weights_sha256": weights_sha256,
        "otherwise": _restored(run, now),
    }


def _restored(run: StageRun, now_ms: int) -> list[Record]:
    """The training as its reports have it, for a tracker that has not seen it."""
    origin = (
        "Written down afterwards: these weights were not trained under this tracker but restored "
        "(from DVC's cache, or from another clone). Parameters are those of params.yaml, curves "
        "those of `reports/train`."
    )
    records: list[Record] = [
        {"do": "tags", "values": {"origin": origin}},
        {"do": "params", "values": run_metadata.flat_params(run.params)},
        {"do": "inputs", "datasets": run_metadata.dataset_inputs(run.root, run.params)},
    ]
    with contextlib.suppress(
        Exception
    ):  # reports of another version, or none: the run is then shorter
        summary = json.loads(
            (run.root / "reports" / "train" / "metrics.json").read_text(encoding="utf-8")
        )
        rows = read_results(run.root / "reports" / "train" / "results.csv")
        records += [
            {
                "do": "metrics",
                "step": int(row["epoch"]),
                "at": now_ms + int(row["epoch"]),
                "values": run_metadata.epoch_metrics(row),
            }
            for row in rows
        ]
        records += [best_metrics(summary, now_ms), *run.reports("train")]
    return records
