"""Flow sweep: a search for hyper-parameters, each trial a task, run here in turn, in processes or
threads, or by Dask.

The study (engine/hpo) decides what is tried and remembers it; Prefect decides where, and shows
it. Plain values travel to the tasks, and results back; weights stay where the trial put them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.runtime import flow_run as current_run
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from engine.hpo import trial as trials
from engine.hpo.search import conduct
from engine.hpo.study import TOKEN, open_study
from engine.hpo.sweep import Sweep, make_sweep
from engine.project.environment import prepare_environment
from flows.artifacts import not_taken
from flows.cluster import dask_runner
from flows.interrupts import cancelled_by_interrupt
from flows.logs import engine_logs, plain_failures

logger = logging.getLogger("detectflow")
plain_failures()

Row = dict[str, Any]


@cancelled_by_interrupt
@flow(
    name="sweep",
    flow_run_name=lambda: (
        f"sweep {(current_run.parameters.get('settings') or {}).get('study') or ''}".strip()
    ),
    persist_result=False,
)
def sweep(root: str | None = None, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Search for settings of training; what `detectflow tune` does.

    Args:
        root: the workspace; by default the project around the working directory.
        settings: of the search and of the trainings together, for example {"trials": 30, "epochs":
            20, "jobs": 2}. A storage with a password is not given here, where everybody sees it,
            but in DETECTFLOW_TUNE_STORAGE.

    Raises:
        ConfigError, DataError, WorkspaceError: before the first trial. TrainingError: no trial came
            to an end.
    """
    folder = prepare_environment(root)
    with engine_logs():
        return conduct(make_sweep(settings or {}, folder), search, show)


def search(
    plan: Sweep, token: str, about_study: Row, indices: range, ended: Callable[[Row], None]
) -> None:
    """Run the trials in turn, or several at a time; `ended` is called for each in this process."""
    tune = plan.settings
    minutes = tune.stop_after_minutes
    deadline = time.time() + 60 * minutes if minutes else None
    if (
        tune.jobs == 1 and tune.runner != "dask"
    ):  # called directly: an interrupt reaches the training at once
        for index in indices:
            row = one_trial(plan.to_plain(), token, index, about_study, deadline)
            if row["number"] is None:
                break
            ended(row)
        return
    runner = task_runner(plan)
    _searches[token] = Search(plan, about_study, indices, deadline, ended)
    try:
        several.with_options(task_runner=runner)(token)
    finally:
        del _searches[token]


@dataclass(frozen=True)
class Search:
    """What the flow `trials` works on. Not its parameter: Prefect shows those (a storage may have a
    password), and pickles them into other processes.
    """

    plan: Sweep
    about: Row
    indices: range
    deadline: float | None  # s, by the clock of the machine
    ended: Callable[[Row], None]


_searches: dict[str, Search] = {}  # by token, those of this process


def search_of(token: str) -> Search:
    """A flow's function is pickled with the globals it names, so it must not name what holds a
    database connection.
    """
    return _searches[token]


@flow(name="trials", persist_result=False)
def several(token: str) -> None:
    """Each trial a task of its own; the runner decides how many at a time."""
    work = search_of(token)
    tune = work.plan.settings
    threads = (
        max(1, (os.cpu_count() or 1) // tune.jobs)
        if tune.runner != "threads" and tune.scheduler is None
        else None
    )
    plain = work.plan.to_plain()
    trials.LEAVE.clear()
    try:
        futures = [
            one_trial.submit(plain, token, index, work.about, work.deadline, threads)
            for index in work.indices
        ]
        for future in as_completed(futures):
            row = future.result(raise_on_failure=False)
            if isinstance(row, dict) and row["state"] != "left":
                work.ended(row)
            elif not isinstance(row, dict):
                logger.warning(
                    "a trial was lost with its process (%s); its values will be tried again", row
                )
    except BaseException:
        trials.LEAVE.set()  # the runner waits for its threads
        with contextlib.suppress(Exception):
            stop_others(work.plan)
        raise


def stop_others(plan: Sweep) -> None:
    """Tell trials in other processes, for which the runner waits before `driving` could do it, that
    they are to leave.
    """
    open_study(plan).set_user_attr(TOKEN, "")


@task(
    name="trial",
    task_run_name="trial {index}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=0,
)
def one_trial(
    plan: Row,
    token: str,
    index: int,
    about_study: Row,
    deadline: float | None = None,
    torch_threads: int | None = None,
) -> Row:
    """Row of the trial; "number" is None where none was begun."""
    if deadline is not None and time.time() > deadline:
        return {"state": "left", "number": None}
    if torch_threads is not None:
        torch.set_num_threads(torch_threads)
    prepare_environment(plan["root"])
    return trials.run_trial(Sweep(**plan), token, index, about_study)


def task_runner(plan: Sweep) -> TaskRunner[Any]:
    """Who runs several trials at a time.

    Raises:
        ConfigError: Dask is asked for and not installed, does not answer, or has no workers.
    """
    tune = plan.settings
    if tune.runner == "threads":
        logger.warning(
            "threads use common random numbers: trials are not repeatable to the bit, as those "
            "of processes are"
        )
        return ThreadPoolTaskRunner(max_workers=tune.jobs)
    if tune.runner == "processes":
        return ProcessPoolTaskRunner(max_workers=tune.jobs)
    # A trial is not thread-safe, so every worker is a process with one thread.
    return dask_runner(tune.scheduler, tune.jobs)


def show(result: Row) -> None:
    """The table as an artifact of the run."""
    try:
        commands = "\n".join(f"    {command}" for command in result.get("commands", ()))
        create_markdown_artifact(
            f"{result['table']}\n\n{commands}", key="sweep-result", description="the best trials"
        )
    except Exception as error:  # see not_taken
        not_taken("the result", error)
