"""What stage train records in MLflow: one run per training, from its first epoch to its last, over
interruptions.

Besides settings, metrics and results that is what section `tracking` of params.yaml asks for:
metrics of single classes, images of some epochs, the load of the machine, checkpoints. Each of
these has a file of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.files import read_object, write_text
from engine.tracking import run_metadata
from engine.tracking.checkpoint_uploads import Checkpoints
from engine.tracking.class_metrics import ClassMetrics
from engine.tracking.epoch_images import Artist, EpochImages
from engine.tracking.journal import Record
from engine.tracking.sender import sender_of
from engine.tracking.stage_run import INTERRUPTED_CLOSE_S, StageRun, now_ms
from engine.tracking.system_metrics import MachineWatch
from engine.versioning.git_diff import uncommitted

logger = logging.getLogger("detectflow.tracking")

IDENTITY = "tracking.json"  # in a training's resumable folder: which run it is
DRAWING_S = 60.0  # at most, after the last epoch
CODE_DIFF = "uncommitted.diff.txt"  # the UI shows text by its ending


class TrainingRun(StageRun):
    """Stage train: one run, from the first epoch to the last, over interruptions."""

    def __init__(self, name: str, params: Params, root: Path, artist: Artist | None = None):
        super().__init__(name, params, root)
        settings = params.tracking
        self.started_ms = 0
        self.classes = ClassMetrics(settings.classes, "val")
        self.images = (
            EpochImages(artist, settings.images) if artist is not None and settings.images else None
        )
        self.checkpoints = Checkpoints(settings)
        self.watch: MachineWatch | None = None

    def open(self) -> None:
        self.sender = sender_of(self.state)
        self.sender.start()
        self.callbacks += [
            ("on_pretrain_routine_end", self._on_start),
            ("on_val_end", self.classes.on_val_end),
            ("on_fit_epoch_end", self._on_epoch),
            ("on_train_end", self._on_end),
            ("teardown", self._on_teardown),
        ]
        if self.images is not None:
            self.callbacks += [
                ("on_train_epoch_end", self.images.on_train_epoch_end),
                ("on_val_batch_end", self.images.on_val_batch_end),
            ]

    def _on_start(self, trainer: Any) -> None:
        if not trainer.world.is_main:
            return
        if self.journal is not None:  # the trainer starts over with a smaller batch
            self.record({"do": "tags", "values": {"batch_halved_to": str(trainer.batch_size)}})
            return
        resumed = trainer.start_epoch > 0
        key, self.started_ms = training_identity(
            trainer.save_dir, resumed, now_ms() - int(1000 * trainer.elapsed_s())
        )
        self.begin(
            {"do": "start", **self.identity(key, self.started_ms)},
            {"do": "params", "values": run_metadata.flat_params(self.params, trainer.args)},
            {"do": "inputs", "datasets": run_metadata.dataset_inputs(self.root, self.params)},
            {"do": "note"},
            # Again what a tracker may have missed: the same row gives the same record, which counts
            # once.
            *(run_metadata.epoch_record(row, self.started_ms) for row in trainer.rows),
        )
        if self.params.tracking.code == "diff":
            self.record(*self._code())
        if self.params.tracking.machine_every_s:
            self.watch = MachineWatch(
                self.params.tracking.machine_every_s, self.started_ms, self._on_sample
            )
            self.watch.start()

    def _code(self) -> list[Record]:
        text = uncommitted(self.root)
        if not text:
            return []
        logger.warning(
            "tracking.code=diff: uncommitted changes are uploaded to MLflow as they are; passwords "
            "in them are not hidden"
        )
        digest = hashlib.sha256(text.encode()).hexdigest()
        return [
            {"do": "artifact", "file": self.journal.keep_text(CODE_DIFF, text), "folder": "code"},
            {
                "do": "tags",
                "values": {"git.uncommitted": f"code/{CODE_DIFF}, sha256:{digest[:16]}"},
            },
        ]

    def _on_epoch(self, trainer: Any) -> None:
        if not trainer.world.is_main:
            return
        record = run_metadata.epoch_record(trainer.metrics, self.started_ms)
        record["values"] |= self.classes.take()
        self.record(record)
        self.record(*self.checkpoints.records(trainer, self.journal, is_end=False))
        if self.images is not None:
            self.images.draw(
                trainer.validator, self.journal, record["step"], record["at"], self.record
            )

    def _on_end(self, trainer: Any) -> None:
        if trainer.world.is_main:  # `elapsed_s` counts on over interruptions
            took = {
                "do": "metrics",
                "step": 0,
                "at": now_ms(),
                "values": {f"{run_metadata.TIME}/train_s": round(trainer.elapsed_s(), 1)},
            }
            self.record({"do": "tags", "values": {"stop_reason": trainer.stop_reason}}, took)
            self.record(*self.checkpoints.records(trainer, self.journal, is_end=True))

    def _on_teardown(self, trainer: Any) -> None:
        if self.watch is not None:
            self.watch.stop()
        if self.images is not None:
            self.images.finish(
                DRAWING_S if trainer.stop_reason in {"done", "stopped"} else INTERRUPTED_CLOSE_S
            )

    def _on_sample(self, values: dict[str, float], step: int, at_ms: int) -> None:
        self.record({"do": "metrics", "step": step, "at": at_ms, "values": values})

    def record_summary(self, summary: Mapping[str, Any]) -> None:
        if self.journal is None:
            return
        self.record(
            best_metrics(summary, now_ms()),
            {"do": "tags", "values": {"weights_sha256": summary["weights_sha256"]}},
            *self.reports("train"),
        )


def best_metrics(summary: Mapping[str, Any], at_ms: int) -> Record:
    """The final metrics of a training. They are a summary, not another epoch: all at step 0."""
    best_epoch = float(summary["best_epoch"])
    values = run_metadata.metrics_of(
        {key: value for key, value in summary.items() if key != "best_epoch"}, run_metadata.BEST
    )
    return {
        "do": "metrics",
        "step": 0,
        "at": at_ms,
        "values": values | {f"{run_metadata.BEST}/epoch": best_epoch},
    }


def training_identity(folder: Path, resumed: bool, started_ms: int) -> tuple[str, int]:
    """(key, start in ms) of the training in `folder`: the earlier one's if it is resumed, else new
    and written there.
    """
    if resumed:
        saved = read_object(folder / IDENTITY)
        with contextlib.suppress(KeyError):
            return str(saved["key"]), int(saved["started_ms"])
    key = secrets.token_hex(8)
    write_text(folder / IDENTITY, json.dumps({"key": key, "started_ms": started_ms}) + "\n")
    return key, started_ms
