"""The frame of a stage that is recorded: opened, closed, or aborted, without ever ending or holding
up the stage.

All records are written to a journal; `engine.tracking.sender` sends it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from engine.config import Params
from engine.project.environment import state_root
from engine.tracking import run_metadata
from engine.tracking.journal import Journal, Record, journal_home
from engine.tracking.sender import CLOSE_S, Sender
from engine.versioning.stage_inputs import load_definition

logger = logging.getLogger("detectflow.tracking")

INTERRUPTED_CLOSE_S = 5.0
REPORTS = {".png", ".jpg", ".csv", ".json"}

Run = TypeVar("Run", bound="StageRun")


@contextlib.contextmanager
def guarded_run(run: Run) -> Iterator[Run]:
    """Open `run`, close it, or abort it."""
    run.guarded(run.open)
    try:
        yield run
    except BaseException as error:
        run.guarded(lambda error=error: run.abort(error))
        raise
    run.guarded(run.close)


class StageRun:
    """A stage that records nothing; the base of those that do."""

    def __init__(self, name: str, params: Params, root: Path):
        self.name, self.params, self.root = name, params, root
        self.state = state_root(root)
        self.callbacks: list[tuple[str, Callable[[Any], None]]] = []
        self.journal: Journal | None = None
        self.sender: Sender | None = None
        self._broken = False

    def guarded(self, action: Callable[[], None]) -> None:
        """Do it; a failure is one warning, and the end of tracking for this stage."""
        if self._broken:
            return
        try:
            action()
        except (
            Exception
        ) as error:  # a full disk, a damaged file, a mistake of ours: none is the stage's business
            self._broken = True
            logger.warning(
                "stage %s goes on without tracking: %s: %s", self.name, type(error).__name__, error
            )

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The stage has succeeded with this summary."""
        self.guarded(lambda: self.record_summary(summary))

    def open(self) -> None:
        """Before the stage."""

    def record_summary(self, summary: Mapping[str, Any]) -> None:
        """After the stage, its results in place."""

    def abort(self, error: BaseException) -> None:
        """The stage ended with `error`; what is no `Exception` (Ctrl-C, the signal by which Prefect
        cancels) interrupted it.
        """
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        self.end_run(status, INTERRUPTED_CLOSE_S, describe_error(error))

    def close(self) -> None:
        """After `finish`."""
        self.end_run("FINISHED", CLOSE_S)

    # For those that do record something -----------------------------------------------------------

    def begin(self, *records: Record) -> None:
        """Open the journal with these records and let it be sent."""
        self.journal = Journal.create(journal_home(self.state), self.name)
        self.journal.append(*records)
        assert self.sender is not None
        self.sender.submit(self.journal)

    def record(self, *records: Record) -> None:
        """Add records."""
        if self.journal is not None and not self._broken:
            self.journal.append(*records)
            self.sender.notify()

    def end_run(self, status: str, wait_s: float, why: str = "") -> None:
        """The run is over in the tracker too; the journal as in `end`."""
        self.record({"do": "end", "status": status, "at": now_ms(), "reason": why}, {"do": "note"})
        self.end(wait_s)

    def end(self, wait_s: float) -> None:
        """No more records will come; wait a little until they are sent."""
        if self.journal is None:
            return
        self.journal.closed = True
        self.sender.notify()
        if not self.sender.wait(self.journal, wait_s):
            logger.warning(
                "MLflow at %s did not take everything of stage %s (%s); the rest waits in %s and "
                "goes out with the next stage, or with `python -m engine.tracking.sender`",
                self.sender.shown,
                self.name,
                self.sender.failure or "time is up",
                self.journal.folder,
            )

    def identity(self, key: str, at_ms: int) -> Record:
        """What is needed to make a run."""
        return {
            "at": at_ms,
            "key": key,
            "experiment": self.params.register_.experiment,
            "run_name": run_metadata.run_name(self.root, self.params),
            "workspace": run_metadata.workspace_id(self.state),
            "tags": run_metadata.origin_tags(self.root, self.params),
        }

    def reports(self, stage: str) -> list[Record]:
        """The plots and tables a stage declares in dvc.yaml, to be uploaded into a folder of its
        name.
        """
        records = []
        for out in load_definition(self.root, stage).outs:
            place = self.root / out
            files = sorted(place.iterdir()) if place.is_dir() else [place]
            if out.startswith("reports/"):
                found = [file for file in files if file.is_file() and file.suffix in REPORTS]
                records += [
                    {"do": "artifact", "file": self.journal.keep(file), "folder": stage}
                    for file in found
                ]
        return records


def describe_error(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{'' if isinstance(error, Exception) else 'interrupted: '}{text}".splitlines()[0][:500]


def now_ms() -> int:
    return int(time.time() * 1000)
