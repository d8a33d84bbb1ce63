"""A search from its first trial to its report. Who runs the trials is handed in: here it is this
process, one after the other; flows/sweep.py has other ways.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml

from engine.errors import ConfigError, TrainingError
from engine.files import write_text
from engine.hpo.report import clear_weights, write_report
from engine.hpo.study import driving, finished, ranked, why_all_failed
from engine.hpo.sweep import Sweep, make_sweep
from engine.hpo.trial import about_study, run_trial, tracked_study
from engine.project.environment import prepare_environment, state_root

log = logging.getLogger("detectflow")

Row = dict[str, Any]
# (plan, token, the study as the tracker knows it, indices of the trials, called with each row)
RunTrials = Callable[[Sweep, str, Row, range, Callable[[Row], None]], None]


def search(given: Mapping[str, Any], root: str | Path | None = None) -> Row:
    """Search in this process; see `engine.hpo.report.write_report` for the result.

    given: settings of the search and of the trainings, mixed. root: the project; None: the one
    around the working directory.

    Raises:
        ConfigError, DataError, WorkspaceError: before the first trial. TrainingError: no trial came
            to an end.
    """
    folder = prepare_environment(root)
    plan = make_sweep(given, folder)
    if plan.settings.jobs > 1 or plan.settings.runner == "dask":
        raise ConfigError(
            "tune: this process runs one trial after the other; several at a time are "
            f"`detectflow tune jobs={max(plan.settings.jobs, 2)}`"
        )
    return conduct(plan, in_turn)


def conduct(plan: Sweep, run_trials: RunTrials, show: Callable[[Row], None] | None = None) -> Row:
    """The trials that are still to come, and the report. show: is given it, also where all failed.

    Raises:
        ConfigError, WorkspaceError: see `driving`. TrainingError: no trial came to an end.
    """
    with driving(plan) as (study, token), tracked_study(plan, study) as run:
        done = len(finished(study))
        wanted = max(plan.settings.trials - done, 0)
        log.info("study %s: %d trials are there, %d to go", plan.study, done, wanted)

        def ended(row: Row) -> None:
            log_trial(row, plan, study)
            best = ranked(study)
            run.trial(row["number"], row["value"], best[0].value if best else None)
            clear_weights(plan, study)

        run_trials(plan, token, about_study(plan, study), range(done, done + wanted), ended)
        result = write_report(plan, study)
        run.result(result["table"], [plan.folder / name for name in result["files"]])
        if show is not None:
            show(result)
        why = why_all_failed(study, enough=1)
        if why:
            raise TrainingError(f"study '{plan.study}': every trial failed: {why}")
    return result


def in_turn(
    plan: Sweep, token: str, about: Row, indices: range, ended: Callable[[Row], None]
) -> None:
    """One trial after the other, here."""
    minutes = plan.settings.stop_after_minutes
    deadline = time.monotonic() + 60 * minutes if minutes else None
    for index in indices:
        if deadline is not None and time.monotonic() > deadline:
            break
        row = run_trial(plan, token, index, about)
        if row["number"] is None:
            break
        ended(row)


def log_trial(row: Row, plan: Sweep, study: optuna.Study) -> None:
    """One line a trial."""
    best = ranked(study)
    value = (
        f"{plan.training.monitor} {row['value']:.4f}"
        if row["value"] is not None
        else row.get("error", "no value")
    )
    of_best = f" (best {best[0].value:.4f}, trial {best[0].number})" if best else ""
    log.info(
        "trial %d %s: %s%s, %.0f s", row["number"], row["state"], value, of_best, row["seconds"]
    )


def space_file(space: Mapping[str, Any], root: Path) -> Path:
    """A space that was given in Python as the file that `space=` takes, in the project's cache. A
    range may be a pair: {"lr0": (1e-5, 1e-1)}.

    Raises:
        ConfigError: no range; what `load_space` says of the rest comes later.
    """
    described: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, Mapping):
            described[str(name)] = dict(values)
        elif isinstance(values, (tuple, list)) and len(values) >= 2:
            described[str(name)] = {"low": values[0], "high": values[1]}
        else:
            raise ConfigError(
                f"tune: space: {name}: {values!r} is no range; write (low, high), "
                "{'low': 1e-4, 'high': 1e-2, 'log': True} or {'choices': [...]}"
            )
    text = yaml.safe_dump(described)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = state_root(root) / ".cache" / "tune" / f"space-{digest}.yaml"
    write_text(path, text)
    return path
