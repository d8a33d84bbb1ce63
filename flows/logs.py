"""The engine's log lines in Prefect: each once in the run's log and once on the console, errors
without a traceback.

The engine logs to "detectflow" and "engine.*" and knows no handlers. A line that comes from a
thread or a signal handler belongs to the run as well, although Prefect's own context is not there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator

import httpx
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from engine.errors import EngineError

ENGINE_LOGGERS = ("detectflow", "engine")
QUIET_LOGGERS = ("dvc", "dvc_data", "alembic", "mlflow", "matplotlib", "httpx")
REPEATS = "detectflow.dvc"  # speaks once per stage
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


@contextlib.contextmanager
def engine_logs() -> Iterator[None]:
    """Send the engine's lines to the flow run that is under way; the console has them through
    Prefect's root handler.
    """
    handler = APILogHandler()
    handler.addFilter(_RunIds())
    once = _Once()
    loggers = [logging.getLogger(name) for name in ENGINE_LOGGERS]
    levels = [logger.level for logger in loggers]
    for name in QUIET_LOGGERS:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logger.level or logging.INFO)
    logging.getLogger(REPEATS).addFilter(once)
    logging.getLogger("dvc").propagate = False  # it writes to the console itself
    try:
        yield
    finally:
        logging.getLogger("dvc").propagate = True
        logging.getLogger(REPEATS).removeFilter(once)
        for logger, level in zip(loggers, levels):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.flush()  # the process may end now, and lines are sent in batches


class _RunIds(logging.Filter):
    """Marks records with the run they belong to: the task's where one is under way, else the
    flow's.
    """

    def __init__(self) -> None:
        super().__init__()
        context = FlowRunContext.get()
        self.flow_run_id = (
            str(context.flow_run.id)
            if context is not None and context.flow_run is not None
            else None
        )

    def filter(self, record: logging.LogRecord) -> bool:
        task = TaskRunContext.get()
        record.flow_run_id = self.flow_run_id
        record.task_run_id = str(task.task_run.id) if task is not None else None
        return self.flow_run_id is not None


class _Once(logging.Filter):
    """A warning that is repeated word for word (each stage says there is no .dvc) is shown once per
    run.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        key = (record.name, record.getMessage())
        new = key not in self.seen
        self.seen.add(key)
        return new


class _Plain(logging.Filter):
    """Prefect's lines about a run that failed for a reason the user can mend: the reason first,
    once, no traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, EngineError) and not os.environ.get("DETECTFLOW_DEBUG"):
            if error is self.told:
                return False  # the task has said it
            self.told = error
            record.msg, record.args = f"{type(error).__name__}: {error}", ()
            record.exc_info = record.exc_text = None
        elif isinstance(
            error, httpx.TransportError
        ):  # the server has gone; where from it was asked tells nobody anything
            record.exc_info = record.exc_text = None
        elif isinstance(record.msg, str):
            if record.msg.startswith("Crash detected! Execution was aborted by an interrupt"):
                return False  # a Ctrl-C is no crash; the state says it, and the command line
            # The reason in brackets has a line of its own already.
            record.msg = re.sub(
                r"^(Finished in state (Failed|Crashed))\(.*", r"\1", record.msg, flags=re.DOTALL
            )
        return True


class _GoneOnce(logging.Filter):
    """A server that has gone is told once: Prefect says it for every event that waits, with all of
    its content.
    """

    def __init__(self) -> None:
        super().__init__()
        self.told = False

    def filter(self, record: logging.LogRecord) -> bool:
        said = str(record.msg)
        if said.startswith("Unable to connect to"):
            self.told, before = True, self.told
            return not before
        return not (self.told and said.startswith("Service %r failed"))


class _NoLateHeartbeat(logging.Filter):
    """A run that ends within its first seconds sends one heartbeat too many: ten lines of traceback
    that mean nothing.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.getMessage() != "Error emitting event: prefect.flow-run.heartbeat"


class _NoDeadLink(logging.Filter):
    """A temporary server has no UI: Prefect's `View at ...` would lead nowhere."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("View at ")


def plain_failures() -> None:
    """Install the filter on Prefect's run loggers; it outlives the flow, whose last lines come
    after its function.
    """
    for name in RUN_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Plain) for each in logger.filters):
            logger.addFilter(_plain)
    logging.getLogger("prefect.events.utilities").addFilter(
        _no_late_heartbeat
    )  # the same one again is not added
    for name in ("prefect.events.clients", "prefect._internal.concurrency"):
        logging.getLogger(name).addFilter(_gone_once)


def no_links() -> None:
    """Leave out the links to runs."""
    logging.getLogger("prefect.flow_runs").addFilter(_NoDeadLink())


_plain, _no_late_heartbeat, _gone_once = _Plain(), _NoLateHeartbeat(), _GoneOnce()
