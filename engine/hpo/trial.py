"""One trial: ask the study for values, train, report every validated epoch and how it ended. Runs
wherever it is put.

A trial has its own run directory. It leaves without a word, so that its values are tried again,
when its driver has gone: another token stands in the study, the parent process has ended, or
`LEAVE` is set in this one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from engine.config import DetectionTrainConfig
from engine.errors import DataError, TrainingError
from engine.files import sha256_file
from engine.hpo import study as studies
from engine.hpo.sweep import Sweep

log = logging.getLogger("detectflow")

LEAVE = threading.Event()  # the threads of this process that train are to leave


class TrialAbandoned(BaseException):
    """The trial's driver has gone. Not an `Exception`: nothing on the way may take it for a failure
    of the training.
    """


def run_trial(sweep: Sweep, token: str, index: int, about: Mapping[str, Any]) -> dict[str, Any]:
    """The next trial of the study as a row of plain values; "state" is complete, pruned, failed, or
    left where none was run.

    index: of the trial in the order of planning. about: the study as the tracker knows it, see
    `engine.tracking.hpo_runs`.
    """
    study = studies.open_study(sweep, index)
    if (
        not studies.is_driven_by(study, token)
        or studies.why_all_failed(study) is not None
        or LEAVE.is_set()
    ):
        return {"state": "left", "number": None}
    trial = study.ask({each.name: each.distribution() for each in sweep.dimensions})
    folder, began_s = sweep.folder / f"trial-{trial.number:04d}", time.monotonic()
    resume = take_over(trial.user_attrs.get(studies.CONTINUES), folder)
    trial.set_user_attr("pid", os.getpid())
    row = {"number": trial.number, "values": trial.params, "folder": folder.name}
    root = Path(sweep.root)
    tracker = tracker_of_searches(root)
    with tracker.tracked_trial(about, trial.number, trial.params, root) as run:
        try:
            row |= _train(sweep, study, trial, folder, resume, token, run.callbacks)
        except optuna.TrialPruned:
            row |= {"state": "pruned", "value": trial_value(study, trial)}
        except TrialAbandoned:
            return {**row, "state": "left"}
        # Of the training with these values, be it ours or out of memory: other values may do.
        except Exception as error:
            log.warning("trial %d failed: %s", trial.number, error)
            row |= {
                "state": "failed",
                "value": None,
                "error": f"{type(error).__name__}: {error}".splitlines()[0],
            }
        row["seconds"] = round(time.monotonic() - began_s, 1)
        if not _finish(study, trial, row):
            return {**row, "state": "left"}
        run.over(row["state"], row["value"], row.get("error", ""))
    return row


def trial_value(study: optuna.Study, trial: optuna.Trial) -> float | None:
    """The newest value a trial has reported."""
    reported = study.trials[trial.number].intermediate_values
    return reported[max(reported)] if reported else None


def take_over(number: int | None, folder: Path) -> bool:
    """Whether `folder` now has the last complete epoch of trial `number`, whose process died."""
    if folder.exists():  # of a study of the same name whose database has gone
        shutil.rmtree(folder)
    if number is None:
        return False
    old = folder.with_name(f"trial-{number:04d}")
    if not ((old / "args.yaml").is_file() and (old / "weights" / "last.pt").is_file()):
        return False
    os.rename(old, folder)
    (folder / "tracking.json").unlink(
        missing_ok=True
    )  # it is tracked as a run of its own, like the trial
    return True


def settings_of(
    sweep: Sweep, values: Mapping[str, Any], folder: Path, resume: bool = False
) -> DetectionTrainConfig:
    """Settings of the training with these values."""
    places = {
        "data": sweep.data,
        "project": str(folder.parent),
        "name": folder.name,
        "exist_ok": True,
        "resume": resume,
    }
    return sweep.training.with_overrides(
        {"plots": False, **sweep.base, **values, **places, "verbose": False}, "trial"
    )


def _train(
    sweep: Sweep,
    study: optuna.Study,
    trial: optuna.Trial,
    folder: Path,
    resume: bool,
    token: str,
    callbacks: list[Any],
) -> dict[str, Any]:
    from engine.detect.choose import make_trainer

    trainer = make_trainer(settings_of(sweep, trial.params, folder, resume))
    for event, function in callbacks:
        trainer.add_callback(event, function, may_fail=True)
    parent = os.getppid()

    def on_start(trainer: Any) -> None:
        # A get_dataset of the user's own may know no digest.
        if trainer.data_digest() not in ("", sweep.digest):
            raise DataError(
                f"{sweep.data}: the data are not those the search began with. Begin another "
                "study: study=NAME"
            )
        for row in trainer.rows:  # of a training that is taken up again
            report(row)

    def report(row: Mapping[str, Any]) -> None:
        if row.get(trainer.args.monitor) is not None:
            # steps of Optuna count from 0, also in studies of earlier versions
            trial.report(float(row[trainer.args.monitor]), int(row["epoch"]) - 1)

    def on_batch(trainer: Any) -> None:
        if LEAVE.is_set() or os.getppid() != parent:
            raise TrialAbandoned

    def on_epoch(trainer: Any) -> None:
        if not studies.is_driven_by(study, token):
            raise TrialAbandoned
        report(trainer.metrics)
        if trainer.epoch + 1 < trainer.args.epochs and trial.should_prune():
            raise optuna.TrialPruned

    trainer.add_callback("on_pretrain_routine_end", on_start)
    trainer.add_callback("on_train_batch_end", on_batch)
    trainer.add_callback("on_fit_epoch_end", on_epoch)
    result = trainer.train()
    if trainer.best_fitness is None:
        raise TrainingError(
            f"no epoch has a value of {trainer.args.monitor}, by which trials are compared"
        )
    return {
        "state": "complete",
        "value": float(trainer.best_fitness),
        "best_epoch": trainer.best_epoch,
        "epochs": result.epochs,
        "weights_sha256": sha256_file(trainer.best),
    }


def _finish(study: optuna.Study, trial: optuna.Trial, row: dict[str, Any]) -> bool:
    """Whether the study took it: a driver that came later has failed the trial meanwhile, and tries
    its values again.
    """
    states = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    try:
        for key in ("best_epoch", "epochs", "seconds", "weights_sha256", studies.ERROR):
            if key in row:
                trial.set_user_attr(key, row[key])
        study.tell(
            trial, row["value"] if row["state"] == "complete" else None, state=states[row["state"]]
        )
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
        log.warning("trial %d does not count: %s", trial.number, error)
        return False
    return True


def tracker_of_searches(root: Path) -> Any:
    """What records searches and trials, see `engine.config.trackers`."""
    from engine.config import Params
    from engine.stages.runner import tracker_of

    return tracker_of(Params.load(root / "params.yaml"), "searches") or NullTracker()


def about_study(plan: Sweep, study: optuna.Study) -> dict[str, Any]:
    """The study as the tracker knows it."""
    began = min(
        (trial.datetime_start for trial in study.trials if trial.datetime_start), default=None
    )
    tags = {"study": plan.study, "dataset": plan.dataset, "data_digest": plan.digest}
    return {
        "key": study.user_attrs[studies.TRACKING],
        "name": plan.study,
        "tags": tags,
        "began_ms": int(1000 * (began.timestamp() if began else time.time())),
    }


def tracked_study(plan: Sweep, study: optuna.Study) -> contextlib.AbstractContextManager[Any]:
    """The study's run in the tracker, parent of its trials' runs."""
    root = Path(plan.root)
    space = {f"space.{each.name}": each.describe() for each in plan.dimensions}
    params = {
        **{f"tune.{key}": value for key, value in plan.tune.items()},
        **space,
        "seed": plan.training.seed,
    }
    return tracker_of_searches(root).tracked_study(about_study(plan, study), params, root)


class NullTracker:
    """Tracking is off: a tracker, and the run of a search or a trial, that records nothing."""

    callbacks: tuple[Any, ...] = ()

    def tracked_study(self, *about: Any) -> contextlib.AbstractContextManager[NullTracker]:
        return contextlib.nullcontext(self)

    tracked_trial = tracked_study

    def over(self, state: str, value: float | None, why: str = "") -> None: ...

    def trial(self, number: int, value: float | None, best: float | None) -> None: ...

    def result(self, text: str, files: list[Path]) -> None: ...
