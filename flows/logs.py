"""The engine's log lines in Prefect: each once in the run's log and once on the console, errors
without a traceback.

The engine logs to "detectflow" and "engine.*" and knows no handlers. A line that comes from a
thread or a signal handler belongs to the run as well, although Prefect's own context is not there.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import httpx
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler, PrefectConsoleHandler

from engine.errors import EngineError

ENGINE_LOGGERS = ("detectflow", "engine")
QUIET_LOGGERS = ("dvc", "dvc_data", "alembic", "mlflow", "matplotlib", "httpx")
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")
# Of a server that has gone they say so for every event that waits, and of a run that ends within
# seconds that a heartbeat came late, with tracebacks; what matters of it the run itself reports.
EVENT_LOGGERS = (
    "prefect.events.clients",
    "prefect.events.utilities",
    "prefect._internal.concurrency",
)


@contextlib.contextmanager
def engine_logs() -> Iterator[None]:
    """Send the engine's lines to the flow run that is under way; the console has them through
    Prefect's root handler.
    """
    handler = APILogHandler()
    handler.addFilter(_RunIds())
    loggers = [logging.getLogger(name) for name in ENGINE_LOGGERS]
    levels = [logger.level for logger in loggers]
    for name in QUIET_LOGGERS:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logger.level or logging.INFO)
    logging.getLogger("dvc").propagate = False  # it writes to the console itself
    try:
        yield
    finally:
        logging.getLogger("dvc").propagate = True
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


class _NoTraceback(logging.Filter):
    """A run that failed: why, once; for a reason the user can correct, without a traceback. Of a
    server that has gone, the place that called it is of no use.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and error is self.shown:
            return False  # the flow repeats what its task has said
        self.shown = error or self.shown
        record.raised = error
        if isinstance(error, EngineError) and not os.environ.get("DETECTFLOW_DEBUG"):
            record.msg, record.args = f"{type(error).__name__}: {error}", ()
            record.exc_info = record.exc_text = None
        elif isinstance(error, httpx.TransportError):
            record.exc_info = record.exc_text = None
        elif str(record.msg).startswith("Finished in state Failed("):
            record.msg = record.msg.partition("(")[0]  # the reason in brackets was the line before
        elif str(record.msg).startswith("Finished in state Cancelled("):
            record.levelno, record.levelname = logging.INFO, "INFO"  # a wish, no error
        return True


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Whether no error ends a run with this line."""
    return getattr(record, "raised", None) is None


def _is_no_link(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("View at ")


def _is_critical(record: logging.LogRecord) -> bool:
    """A filter and no level: Prefect sets the levels of its loggers anew when a run begins."""
    return record.levelno >= logging.CRITICAL


_no_traceback = _NoTraceback()


def plain_failures() -> None:
    """Errors of runs without tracebacks; outlives the flow, whose last lines come after its
    function. The same filter again is not added.
    """
    for name in RUN_LOGGERS:
        logging.getLogger(name).addFilter(_no_traceback)
    for name in EVENT_LOGGERS:
        logging.getLogger(name).addFilter(_is_critical)


def errors_by_caller() -> None:
    """Keep the errors of runs from the console, where whoever called the flow prints them once, as
    the last line; the run's log on the server has them.
    """
    for name in ("", "prefect", *RUN_LOGGERS):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.addFilter(_is_not_raised)


def no_links() -> None:
    """Leave out the links to runs: a temporary server has no UI to show them."""
    logging.getLogger("prefect.flow_runs").addFilter(_is_no_link)
