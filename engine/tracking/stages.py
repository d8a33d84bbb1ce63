"""What a stage tells MLflow: `tracked` goes around a stage and never ends it, never holds it up.

One MLflow run describes one trained model. Stage train makes it and streams every epoch; validate and export add to the
run whose weights they used, found by the weights' digest. A training that was interrupted goes on in its own run. All of
it is written to a journal; `engine.tracking.sender` sends it. Prepare is told with the training; register does its own.
"""

from __future__ import annotations

import contextlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from engine.config import Params
from engine.files import write_text
from engine.kernel.checkpoint import read_sidecar
from engine.kernel.results import read_results
from engine.tracking import facts
from engine.tracking.environment import state_root
from engine.tracking.inputs import load_definition
from engine.tracking.journal import Journal, Record, journal_home
from engine.tracking.sender import CLOSE_S, Sender, sender_of

logger = logging.getLogger("detectflow.tracking")

IDENTITY = "tracking.json"  # in a training's resumable folder: which run it is
INTERRUPTED_CLOSE_S = 5.0
PICTURES = {".png", ".jpg", ".csv", ".json"}


Run = TypeVar("Run", bound="StageRun")


@contextlib.contextmanager
def tracked(name: str, params: Params, root: Path) -> Iterator[StageRun]:
    """Around stage `name`: attach `run.callbacks` to its executor, call `run.finish(summary)` when it is done."""
    with guarded_run(KINDS.get(name, StageRun)(name, params, root)) as run:
        yield run


@contextlib.contextmanager
def guarded_run(run: Run) -> Iterator[Run]:
    """Open `run`, close it, or tell it why not."""
    run.guarded(run.open)
    try:
        yield run
    except BaseException as error:
        run.guarded(lambda error=error: run.abort(error))
        raise
    run.guarded(run.close)


class StageRun:
    """A stage that tells nothing; the base of those that do."""

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
        except Exception as error:  # a full disk, a damaged file, a mistake of ours: none is the stage's business
            self._broken = True
            logger.warning("stage %s goes on without tracking: %s: %s", self.name, type(error).__name__, error)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """The stage has succeeded with this summary."""
        self.guarded(lambda: self.record_summary(summary))

    def open(self) -> None:
        """Before the stage."""

    def record_summary(self, summary: Mapping[str, Any]) -> None:
        """After the stage, its results in place."""

    def abort(self, error: BaseException) -> None:
        """The stage ended with `error`."""

    def close(self) -> None:
        """After `finish`."""

    # For those that do tell something -------------------------------------------------------------------------------

    def begin(self, *records: Record) -> None:
        """Open the journal with these records and let it be sent."""
        self.journal = Journal.create(journal_home(self.state), self.name)
        self.journal.append(*records)
        assert self.sender is not None
        self.sender.submit(self.journal)

    def tell(self, *records: Record) -> None:
        """Add records."""
        if self.journal is not None and not self._broken:
            self.journal.append(*records)
            self.sender.notify()

    def end(self, wait_s: float) -> None:
        """No more records will come; wait a little until they are sent."""
        if self.journal is None:
            return
        self.journal.closed = True
        self.sender.notify()
        if not self.sender.wait(self.journal, wait_s):
            logger.warning(
                "MLflow at %s did not take everything of stage %s (%s); the rest waits in %s and goes out with the next "
                "stage, or with `python -m engine.tracking.sender`",
                self.sender.shown, self.name, self.sender.failure or "time is up", self.journal.folder,
            )  # fmt: skip

    def identity(self, key: str, at_ms: int) -> Record:
        """What is needed to make a run."""
        return {
            "at": at_ms,
            "key": key,
            "experiment": self.params.register_.experiment,
            "run_name": facts.run_name(self.root, self.params),
            "workspace": facts.workspace_id(self.state),
            "tags": facts.origin_tags(self.root, self.params),
        }

    def reports(self, stage: str) -> list[Record]:
        """The pictures and tables a stage declares in dvc.yaml, to be uploaded into a folder of its name."""
        records = []
        for out in load_definition(self.root, stage).outs:
            place = self.root / out
            files = sorted(place.iterdir()) if place.is_dir() else [place]
            if out.startswith("reports/"):
                found = [file for file in files if file.is_file() and file.suffix in PICTURES]
                records += [{"do": "artifact", "file": self.journal.keep(file), "folder": stage} for file in found]
        return records


class TrainingRun(StageRun):
    """Stage train: one run, from the first epoch to the last, over interruptions."""

    def open(self) -> None:
        self.sender = sender_of(self.state)
        self.sender.start()
        self.started_ms = 0
        self.callbacks += [
            ("on_pretrain_routine_end", self._on_start),
            ("on_fit_epoch_end", self._on_epoch),
            ("on_train_end", self._on_end),
        ]

    def _on_start(self, trainer: Any) -> None:
        if not trainer.world.is_main:
            return
        resumed = trainer.start_epoch > 0
        key, self.started_ms = training_identity(trainer.save_dir, resumed, _now_ms() - int(1000 * trainer.elapsed_s()))
        self.begin(
            {"do": "start", **self.identity(key, self.started_ms)},
            {"do": "params", "values": facts.flat_params(self.params, trainer.args)},
            {"do": "inputs", "datasets": facts.dataset_inputs(self.root, self.params)},
            {"do": "note"},
            # Again what a tracker may have missed: the same row gives the same record, which counts once.
            *(self._epoch(row) for row in trainer.rows),
        )

    def _on_epoch(self, trainer: Any) -> None:
        if trainer.world.is_main:
            self.tell(self._epoch(trainer.metrics))

    def _on_end(self, trainer: Any) -> None:
        if trainer.world.is_main:
            self.tell({"do": "tags", "values": {"stop_reason": trainer.stop_reason}})

    def _epoch(self, row: Mapping[str, Any]) -> Record:
        at = self.started_ms + int(1000 * row.get("time_s", 0))
        return {"do": "metrics", "step": int(row["epoch"]), "at": at, "values": facts.epoch_figures(row)}

    def record_summary(self, summary: Mapping[str, Any]) -> None:
        if self.journal is None:
            return
        self.tell(
            best_figures(summary, _now_ms()),
            {"do": "tags", "values": {"weights_sha256": summary["weights_sha256"]}},
            *self.reports("train"),
        )

    def abort(self, error: BaseException) -> None:
        interrupted = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit))
        self._over("KILLED" if interrupted else "FAILED", INTERRUPTED_CLOSE_S, _in_words(error))

    def close(self) -> None:
        self._over("FINISHED", CLOSE_S, "")

    def _over(self, status: str, wait_s: float, why: str) -> None:
        self.tell({"do": "end", "status": status, "at": _now_ms(), "reason": why}, {"do": "note"})
        self.end(wait_s)


class AddedRun(StageRun):
    """Stages validate and export: figures and files for the run of these weights."""

    def open(self) -> None:
        self.sender = sender_of(self.state)
        self.sender.start()

    def record_summary(self, summary: Mapping[str, Any]) -> None:
        begin_attached(self, str(summary["weights_sha256"]))
        records: list[Record] = []
        if self.name == "validate":
            split = str(summary.get("split", "test"))
            values = facts.figures({k: v for k, v in summary.items() if k.startswith("metrics/")}, split)
            tags = {"validated_on": split, f"digest.{split}": facts.split_digest(self.root, split)}
        else:
            values = facts.figures(dict(_flat_numbers(summary.get("files") or {})), "export")
            digests = {name: file.get("sha256", "") for name, file in (summary.get("files") or {}).items()}
            tags = {f"{facts.legal_name(name)}_sha256": digest for name, digest in digests.items()}
        if values:
            records.append({"do": "metrics", "step": 0, "at": _now_ms(), "values": values})
        # Only now does dvc.lock know the weights.
        tags |= facts.dvc_tags(self.root) | {f"stage.{self.name}": "done"}
        self.tell({"do": "tags", "values": tags}, *records, *self.reports(self.name))

    def abort(self, error: BaseException) -> None:
        weights = read_sidecar(self.root / facts.WEIGHTS).get("sha256")
        if weights and self.journal is None:
            begin_attached(self, weights)
        self.tell({"do": "tags", "values": {f"stage.{self.name}": _in_words(error)}})
        self._over(INTERRUPTED_CLOSE_S)

    def close(self) -> None:
        self._over(CLOSE_S)

    def _over(self, wait_s: float) -> None:
        self.tell({"do": "end", "status": "FINISHED", "at": _now_ms()}, {"do": "note"})
        self.end(wait_s)


KINDS: dict[str, type[StageRun]] = {"train": TrainingRun, "validate": AddedRun, "export": AddedRun}


def begin_attached(run: StageRun, weights_sha256: str) -> None:
    """Open the journal of `run` for the MLflow run of these weights."""
    run.begin()
    run.tell(attachment(run, weights_sha256))


def attachment(run: StageRun, weights_sha256: str) -> Record:
    """The record that finds the MLflow run of these weights; what makes one, where there is none, is sent along."""
    now = _now_ms()
    key = secrets.token_hex(8)
    return {
        "do": "attach",
        **run.identity(key, now),
        "weights_sha256": weights_sha256,
        "otherwise": _restored(run, now),
    }


def _restored(run: StageRun, now_ms: int) -> list[Record]:
    """The training as its reports tell it, for a tracker that has not seen it."""
    origin = (
        "Written down afterwards: these weights were not trained under this tracker but restored (from DVC's cache, or "
        "from another clone). Parameters are those of params.yaml, curves those of `reports/train`."
    )
    records: list[Record] = [
        {"do": "tags", "values": {"origin": origin}},
        {"do": "params", "values": facts.flat_params(run.params)},
        {"do": "inputs", "datasets": facts.dataset_inputs(run.root, run.params)},
    ]
    with contextlib.suppress(Exception):  # reports of another version, or none: the run is then shorter
        summary = json.loads((run.root / "reports" / "train" / "metrics.json").read_text(encoding="utf-8"))
        rows = read_results(run.root / "reports" / "train" / "results.csv")
        records += [
            {"do": "metrics", "step": int(row["epoch"]), "at": now_ms + int(row["epoch"]), "values": facts.epoch_figures(row)}
            for row in rows
        ]
        records += [best_figures(summary, now_ms), *run.reports("train")]
    return records


def best_figures(summary: Mapping[str, Any], at_ms: int) -> Record:
    """The final figures of a training. They are a summary, not another epoch: all at step 0."""
    best_epoch = float(summary["best_epoch"])
    values = facts.figures({key: value for key, value in summary.items() if key != "best_epoch"}, "best")
    return {"do": "metrics", "step": 0, "at": at_ms, "values": values | {"best/epoch": best_epoch}}


def training_identity(folder: Path, resumed: bool, started_ms: int) -> tuple[str, int]:
    """(key, start in ms) of the training in `folder`: the earlier one's if it is resumed, else new and written there."""
    if resumed:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            saved = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
            return str(saved["key"]), int(saved["started_ms"])
    key = secrets.token_hex(8)
    write_text(folder / IDENTITY, json.dumps({"key": key, "started_ms": started_ms}) + "\n")
    return key, started_ms


def _flat_numbers(files: Mapping[str, Mapping[str, Any]]) -> Sequence[tuple[str, Any]]:
    return [(f"{name}_{key}", value) for name, file in files.items() for key, value in file.items()]


def _in_words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def _now_ms() -> int:
    return int(time.time() * 1000)
