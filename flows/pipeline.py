"""The pipeline as a Prefect flow: prepare, train, validate, export, register, in one workspace.

A task is a thin skin over a stage. DVC decides what is up to date, so `dvc repro` and this flow
never redo each other's work; Prefect decides when to run and shows it. Only paths, names and plain
values travel between tasks, and nothing is
cached by Prefect: its cache would not see that a file has gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run as current_run
from prefect.task_engine import TaskRunTimeoutError

from engine.config import Params
from engine.errors import ConfigError, EngineError, nearest
from engine.files import read_object
from engine.project.environment import find_root, prepare_environment
from engine.project.workspace_lock import workspace_lock
from engine.registry.moves import PERSON
from engine.settings.base import load_yaml
from engine.stages import code
from engine.stages.layout import STAGES, Layout
from engine.stages.prepare import source_changed
from engine.stages.runner import run_stage
from engine.stages.start_weights import start_changed
from engine.tracking.mlflow_links import registered
from engine.versioning.dvc_repo import DvcStages, warn_of_no_versions
from flows import overrides as params_file
from flows.approval import ask_for_approval, creator, enter_answers
from flows.artifacts import ProgressArtifact, show_decision, show_reports, show_result
from flows.automations import DATASET_CHANGED, emit, emit_decision
from flows.decision import Standing, decision_markdown, history_markdown, standing_of
from flows.interrupts import cancelled_by_interrupt, or_cancelled, value_of
from flows.logs import engine_logs, plain_failures
from flows.prepare import run_prepare
from flows.server import mlflow_ui
from flows.start_weights import kept_start
from flows.summary import (
    StageRow,
    Summary,
    as_markdown,
    failure_markdown,
    links_of,
    summarize,
)

logger = logging.getLogger("detectflow")
plain_failures()

finished: list[
    Summary
] = []  # the last run of this process: known even where Prefect cannot note its end
FLOW_RUN_VARIABLE = "DETECTFLOW_FLOW_RUN_ID"
NETWORK = (ConnectionError, TimeoutError, urllib.error.URLError)
NO_RETRY = {"retries": 0}
RETRY_DOWNLOADS = {"retries": 2, "retry_delay_seconds": [5, 30]}


class StageTimeout(EngineError):
    """A stage took longer than the run allows."""


def stage_task(name: str, **options: Any) -> Any:
    """The Prefect task of the stage `name`: (root, force, restored) -> its row of the summary, as
    plain values.

    restored: whether a stage before it was restored instead of run.
    """

    @task(name=name, task_run_name=name, cache_policy=NO_CACHE, persist_result=False, **options)
    @or_cancelled
    def run(root: str, force: bool = False, restored: bool = False) -> dict[str, Any]:
        keep_code(Path(root), edited_only=True)
        progress = ProgressArtifact(name)
        first = not was_recorded(Path(root), name)
        outcome = DvcStages(Path(root), force=force).run(
            name,
            lambda: (
                run_prepare(Path(root), progress)
                if name == "prepare"
                else run_stage(name, Path(root), progress=progress)
            ),
            stale=lambda: is_stale(name, Path(root), restored),
        )
        reasons = (
            outcome.reasons
            if not first
            else ("first time",)
            if outcome.reasons and outcome.status == "ran"
            else ()
        )
        logger.info(
            "%s: %s%s", name, outcome.status, f" ({'; '.join(reasons[:3])})" if reasons else ""
        )
        return {
            "stage": name,
            "status": outcome.status,
            "seconds": outcome.seconds,
            "reasons": reasons,
        }

    return run


def keep_code(root: Path, edited_only: bool = False) -> None:
    """What `dvc repro` does in stage `code`: write down what each stage's code does, and let DVC
    know. edited_only: only where sources were edited since.
    """
    params = Params.load(root / "params.yaml")
    if not edited_only or code.is_outdated(params, root):
        DvcStages(root).refresh(code.NAME, lambda: code.write_code(params, root))


def was_recorded(root: Path, stage: str) -> bool:
    """Whether dvc.lock knows a result of `stage`; without one DVC would name every single input as
    the reason to run.
    """
    lock = root / "dvc.lock"
    stages = load_yaml(lock).get("stages") if lock.is_file() else None
    return isinstance(stages, dict) and stage in stages  # whether it is in order is for DVC to say


def is_transient(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help: only where the network is the cause, also behind an error of
    ours.
    """
    error: BaseException | None = state.data if isinstance(state.data, BaseException) else None
    if isinstance(error, TaskRunTimeoutError):
        return False  # a limit of ours, although it is a TimeoutError
    while error is not None:
        if isinstance(error, NETWORK) and not (
            isinstance(error, urllib.error.HTTPError) and error.code < 500
        ):
            return True
        error = error.__cause__
    return False


# In the order of dvc.yaml; a test compares them. Called directly, not submitted: a time-out or a
# signal must reach them.
TASKS = {
    "prepare": stage_task("prepare", **RETRY_DOWNLOADS, retry_condition_fn=is_transient),
    "train": stage_task("train", **NO_RETRY),
    "validate": stage_task("validate", **NO_RETRY),
    "export": stage_task("export", **NO_RETRY),
    "register": stage_task("register", **NO_RETRY),
}


def run_name() -> str:
    """ "digits yolov8n": data and model of the run that Prefect is about to name."""
    given = current_run.parameters
    overrides = {
        **named(given.get("dataset"), given.get("start")),
        **(given.get("overrides") or {}),
    }
    for wanted in (
        overrides,
        {},
    ):  # where they are wrong: as the file has it; the flow itself will say what is wrong
        with contextlib.suppress(EngineError):
            return name_of(params_file.checked(find_root(given.get("root")), wanted))
    return "pipeline"


def named(dataset: str | None, start: str | None) -> dict[str, str]:
    """The overrides that the flow's own parameters stand for."""
    return {
        key: value for key, value in {"data.source": dataset, "train.model": start}.items() if value
    }


def name_of(params: Params) -> str:
    """Names of data and model."""
    return f"{Path(params.data.source).stem} {Path(params.train.model).stem}"


@cancelled_by_interrupt
@flow(name="pipeline", flow_run_name=run_name, persist_result=False)
def pipeline(
    root: str | None = None,
    overrides: dict[str, Any] | None = None,
    force: bool = False,
    wait: bool = True,
    dataset: str | None = None,
    start: str | None = None,
    timeouts_min: dict[str, float] | None = None,
) -> Summary:
    """From labelled images to a registered, exported detector.

    Args:
        root: the workspace; by default the project around the working directory.
        overrides: values for params.yaml by dotted key, for example {"train.epochs": 5}. They are
            written into the file.
        force: run every stage, also what is up to date.
        wait: wait while somebody else holds the workspace; otherwise fail at once and name them.
        dataset, start: short for the overrides data.source and train.model, a description or folder
            and a checkpoint.
        timeouts_min: minutes that a stage may take, for example {"train": 600}; others may take any
            time.
    """
    finished.clear()
    warn_of_no_versions.cache_clear()
    folder = prepare_environment(root)
    limits_min = checked_timeouts(timeouts_min or {})
    overrides = {**named(dataset, start), **(overrides or {})}
    started = time.monotonic()
    rows: list[StageRow] = []
    stage = "parameters"
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with (
        engine_logs(),
        run_variables(),
        contextlib.ExitStack() as held,
    ):  # the workspace is ours until its results have been reported
        try:
            held.enter_context(workspace_lock(folder, "detectflow run", wait=wait))
            wanted = dict(overrides or {})
            wanted |= kept_start(params_file.checked(folder, wanted), folder)
            params = params_file.apply(folder, wanted)
            digest = data_digest(folder)
            keep_code(folder)
            enter_answers(folder)
            for stage in STAGES:
                restored = any(row.status == "restored" for row in rows)
                rows.append(
                    StageRow(**in_time(stage, limits_min.get(stage), str(folder), force, restored))
                )
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            show_result(
                failure_markdown(run_name(), stage, reason, rows), "why it ended without one"
            )
            raise
        found = standing_of(folder)
        summary = summarize(folder, name_of(params), rows, time.monotonic() - started, found)
        links = links_of(folder, mlflow_ui(folder))
        show_result(as_markdown(dataclasses.replace(summary, links=links)))
        show_reports(folder)
        emit_data_changed(folder, digest)
        if found is not None:
            show_decision(decision_markdown(found, folder), history_markdown(found))
            emit_decisions(found, began)
        finished.append(summary)
        if found is not None:
            ask_for_approval(found, params, folder, began)
    return summary


@contextlib.contextmanager
def run_variables() -> Iterator[None]:
    """What the stages know of this run: its id, a tag of the MLflow run, and who made it, for the
    history of the registry.
    """
    values = {FLOW_RUN_VARIABLE: str(current_run.id or "")}
    if (who := creator()) and not os.environ.get(PERSON):
        values[PERSON] = who
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)


def checked_timeouts(timeouts_min: dict[str, float]) -> dict[str, float]:
    """The given limits. ConfigError: not a stage, or no time."""
    for stage, minutes in timeouts_min.items():
        if stage not in STAGES:
            raise ConfigError(
                f"timeouts_min: no stage '{stage}'.{nearest(stage, STAGES)} Stages: "
                f"{', '.join(STAGES)}"
            )
        if isinstance(minutes, bool) or not isinstance(minutes, (int, float)) or not minutes > 0:
            raise ConfigError(f"timeouts_min: {stage}: {minutes!r} is no number of minutes above 0")
    return timeouts_min


def in_time(stage: str, limit_min: float | None, *arguments: Any) -> dict[str, Any]:
    """What the task of `stage` returns.

    Raises:
        StageTimeout: it was ended after `limit_min` minutes. Whatever ends the stage.
    """
    if limit_min is None:
        return value_of(TASKS[stage](*arguments))
    try:
        limited = TASKS[stage].with_options(timeout_seconds=60 * limit_min)
        return value_of(limited(*arguments))
    except TaskRunTimeoutError:
        raise StageTimeout(
            f"stage {stage} was ended after {limit_min:g} min (timeouts_min). What was done is "
            "kept, a training to its last complete epoch: the next run goes on from there."
        ) from None


def data_digest(root: Path) -> str | None:
    """Digest of the prepared dataset that is in place, None where there is none."""
    return read_object(Layout(root).prepared / "dataset.json").get("digest")


def emit_data_changed(root: Path, before: str | None) -> None:
    """The event that starts a training where that automation is switched on; the first preparation
    is no change.
    """
    digest = data_digest(root)
    if before is not None and digest != before:
        name = read_object(Layout(root).prepared / "dataset.json").get("name", "")
        emit(DATASET_CHANGED, f"dataset.{name}", digest=digest, before=before)


def emit_decisions(found: Standing, since: str) -> None:
    """The events of what this run has decided, and of the answers that it was given. since: when it
    began.
    """
    for entry in found.decided_since(since):
        emit_decision(found.model, entry, found.aliases)


def is_stale(stage: str, root: Path, restored: bool) -> bool:
    """Whether `stage` must run although DVC has a result for it: what it depends on lies outside
    the workspace.
    """
    params = Params.load(root / "params.yaml")
    if stage == "prepare":
        return source_changed(params, root)
    if stage == "train":
        return start_changed(params, root)
    if stage == "register":
        # A restored report holds a decision that the registry may have left behind, and a person
        # may have answered since.
        found = standing_of(root)
        return restored or not registered(root, params) or (found is not None and found.is_outdated)
    return False
