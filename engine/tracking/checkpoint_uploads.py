"""Which checkpoints of a training MLflow gets while it goes on. Hands files to the journal;
training never waits for one.

A file that is to be replaced anyway is not queued twice: where the tracker is slow, the newest
counts.
"""

from __future__ import annotations

from typing import Any

from engine.config import TrackingConfig
from engine.core.checkpoint import read_sidecar
from engine.tracking.journal import Journal, Record

FOLDER = "checkpoints"  # of a run's artifacts


class Checkpoints:
    """`best.pt`, `last.pt` and `epoch_0010.pt`, by the policy of `settings`."""

    def __init__(self, settings: TrackingConfig):
        self.policy, self.every = settings.checkpoints, settings.checkpoint_every_epochs
        self._queued: dict[str, str] = {}  # name -> SHA-256 of what was queued last
        self._waiting: dict[str, str] = {}  # name -> its place in the journal

    def records(self, trainer: Any, journal: Journal, is_end: bool) -> list[Record]:
        """What this epoch adds; its checkpoints are complete on disk."""
        done = trainer.epoch + 1
        if not (is_end or done % self.every == 0):
            return []
        wanted = {"best.pt": trainer.best} if self.policy != "none" else {}
        if self.policy == "last":
            wanted["last.pt"] = trainer.last
        elif self.policy == "all":
            wanted[f"epoch_{done:04d}.pt"] = trainer.last
        return [
            record for name, file in wanted.items() for record in self._record(name, file, journal)
        ]

    def _record(self, name: str, file: Any, journal: Journal) -> list[Record]:
        digest = read_sidecar(file).get("sha256", "")
        if not file.is_file() or self._queued.get(name) == digest:
            return []
        if name in self._waiting:
            journal.drop(self._waiting[name])
        self._queued[name], self._waiting[name] = digest, journal.keep(file, name)
        return [{"do": "artifact", "file": self._waiting[name], "folder": FOLDER, "once": True}]
