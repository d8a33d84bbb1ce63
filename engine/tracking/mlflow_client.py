"""The way to MLflow: which server or database, opened safely, with short patience where a stage
must not wait.

MLflow is imported inside functions only (3 s). Nothing here changes its global state: a client of
our own is used, never the fluent interface. What it asks of the environment: MLFLOW_TRACKING_URI,
by default a SQLite file in the project.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import WorkspaceError
from engine.locks import locked
from engine.project.redaction import hide

logger = logging.getLogger("detectflow.tracking")

# One call to a dead server blocks for four minutes with MLflow's own patience.
SILENT = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
QUICK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", **SILENT}
PATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", **SILENT}
MOST_PATIENCE_S = 60
SLOWEST_BYTES_PER_S = 500_000  # at which an upload is waited for
ARTIFACTS = "mlartifacts"  # folder of files where MLflow is used without a server
_patience = threading.RLock()  # these are variables of the whole process

REFUSED = {  # error codes that stay the same however often one asks
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_STATE",
}

LOGIN = {
    "UNAUTHENTICATED": (
        "the server wants to know who you are, and MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD are missing or wrong (set them in .env)"
    ),
    "PERMISSION_DENIED": "the server knows the user of MLFLOW_TRACKING_USERNAME, who may not do "
    "this (ask for EDIT or MANAGE)",
}

EXPERIMENT_TAGS = {
    # Otherwise the UI opens the view for language models.
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.experiment.primaryMetric.name": "test/mAP50-95",
    "mlflow.note.content": (
        "One run describes one trained detector. Its page *Model metrics* has the metrics of every "
        "epoch (`metrics/`, `train/`, `val/`, single classes under `val class`), images of some "
        "epochs with a slider, those of the best epoch (`val best/`) and those that decide "
        "(`test/`). Tables, curves and checkpoints are among its artifacts. The versions, with the "
        "aliases `champion` and `challenger`, are under *Model registry*."
    ),
}


def tracking_uri(state: Path) -> str:
    """Where runs and models are kept: the user's MLFLOW_TRACKING_URI, else a SQLite file of the
    project.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state / 'mlflow.db'}"


@contextlib.contextmanager
def quick(failed: int = 0) -> Iterator[None]:
    """MLflow's HTTP calls within the block give up soon, later after each of the `failed` attempts
    before: a server that takes its time is not to be asked the same for ever. One such block at a
    time in this process.
    """
    with _time_limits({**QUICK, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(patience_s(failed))}):
        yield


def patience_s(failed: int = 0) -> int:
    """Seconds that one of `quick`'s calls may take."""
    return min(int(QUICK["MLFLOW_HTTP_REQUEST_TIMEOUT"]) * 2 ** min(failed, 8), MOST_PATIENCE_S)


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """MLflow's HTTP calls within the block wait as long as the user's variables say, by default a
    minute or two.
    """
    with _time_limits({name: os.environ.get(name, value) for name, value in PATIENT.items()}):
        yield


@contextlib.contextmanager
def uploading(file: Path) -> Iterator[None]:
    """MLflow's HTTP calls within the block have time for this file: a server may store it before it
    answers.
    """
    seconds = float(
        os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", PATIENT["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    )
    seconds += file.stat().st_size / SLOWEST_BYTES_PER_S
    with _time_limits({"MLFLOW_HTTP_REQUEST_TIMEOUT": str(math.ceil(seconds))}):
        yield


@contextlib.contextmanager
def _time_limits(settings: dict[str, str]) -> Iterator[None]:
    with _patience:
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@dataclass(frozen=True)
class Store:
    """An open tracker and registry."""

    client: Any  # mlflow.MlflowClient
    uri: str
    state: Path

    def experiment(self, name: str) -> str:
        """The id of experiment `name`, which is made, or restored where somebody deleted it."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            found = self._create(name)
        elif found.lifecycle_stage == "deleted":
            logger.warning("MLflow: the experiment '%s' had been deleted; it is restored", name)
            self.client.restore_experiment(found.experiment_id)
        for key, value in EXPERIMENT_TAGS.items():
            if key not in found.tags:  # what somebody has changed stays
                self.client.set_experiment_tag(found.experiment_id, key, value)
        return found.experiment_id

    def _create(self, name: str) -> Any:
        from mlflow.exceptions import MlflowException

        # A server knows where its artifacts go; with a database alone they would land in the
        # current folder.
        place = None if self.uri.startswith("http") else artifact_root(self.state)
        try:
            self.client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                raise
        return self.client.get_experiment_by_name(name)

    def find_run(self, tag: str, value: str) -> Any | None:
        """The newest run, in any experiment, with this value of a tag; deleted ones do not
        count.
        """
        experiments = [each.experiment_id for each in self.client.search_experiments()]
        found = self.client.search_runs(experiments, f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0] if found else None


def artifact_root(state: Path) -> str:
    """Where files go when MLflow is used without a server."""
    return os.environ.get("MLFLOW_DEFAULT_ARTIFACT_ROOT") or str(state / ARTIFACTS)


def refuse_moved_project(store: Store) -> None:
    """WorkspaceError where the project was moved or copied. MLflow's database has absolute places
    of files, so runs made now would write into the folder where the project was.
    """
    if store.uri != f"sqlite:///{store.state / 'mlflow.db'}" or (
        "MLFLOW_DEFAULT_ARTIFACT_ROOT" in os.environ
    ):
        return
    for experiment in store.client.search_experiments():
        before = experiment.artifact_location.removesuffix(f"/{ARTIFACTS}")
        is_ours = before.startswith("/") and before != experiment.artifact_location
        if is_ours and Path(before).resolve() != store.state.resolve():
            raise WorkspaceError(
                f"MLflow's files of this project are expected in {before}, where it was before it "
                f"was moved or copied. Make that path a link to {store.state}, or rename mlflow.db "
                f"and {ARTIFACTS} to begin a new record (docs/howto/mlflow.md)."
            )


def open_store(state: Path, uri: str | None = None, *, reads_only: bool = False) -> Store:
    """Connect; a missing database is made. reads_only: no file of a run will be read or written.

    Raises:
        WorkspaceError: the project was moved, its files are expected elsewhere. ImportError:
            MLflow is missing. Besides, whatever MLflow raises.
    """
    uri = uri or tracking_uri(state)
    if uri.startswith("sqlite:"):
        # A connection kept open would go on writing into a database file that was deleted
        # meanwhile.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    import mlflow

    for name in ("mlflow", "alembic"):  # they greet every new database with forty lines
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # errors come as exceptions too
    # Two processes that make the tables at the same time break each other.
    with locked(state / ".lock" / "mlflow"):
        if uri.startswith("sqlite:///"):
            _make_tables(uri, state)
        client = mlflow.MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    store = Store(client, uri, state)
    if not reads_only:
        refuse_moved_project(store)
    return store


def _make_tables(uri: str, state: Path) -> None:
    """MLflow does this once per process and address; the file may have been deleted since."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists() or not file.stat().st_size:
        # Made aside, then renamed: one that is killed half-way would leave tables that MLflow can
        # neither use nor complete.
        part = file.with_name(f"{file.name}.part")
        for leftover in (part, part.with_name(f"{part.name}-journal")):
            leftover.unlink(missing_ok=True)
        SqlAlchemyStore(f"sqlite:///{part}", artifact_root(state)).engine.dispose()
        os.replace(part, file)
    SqlAlchemyStore(uri, artifact_root(state))


# What MLflow raises, and what it is made of: HTTP, databases, stores of artifacts.
STORE_PACKAGES = {
    *("mlflow", "requests", "urllib3", "http", "ssl", "sqlalchemy", "alembic", "sqlite3"),
    *("botocore", "boto3", "azure", "google", "pyarrow", "paramiko"),
}


def is_of_store(error: BaseException) -> bool:
    """Whether an error is MLflow's, a network's or a database's: of anything else (a NameError) the
    cause is a fault in code, and no server has anything to do with it.
    """
    return isinstance(error, OSError) or any(
        kind.__module__.partition(".")[0] in STORE_PACKAGES for kind in type(error).__mro__
    )


def is_refusal(error: Exception) -> bool:
    """Whether MLflow understood and said no, so that asking again is useless."""
    return getattr(error, "error_code", None) in REFUSED


def is_forgotten(error: Exception) -> bool:
    """Whether MLflow does not know what it was asked about."""
    return getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def reason(error: BaseException) -> str:
    """The first line of an error that says something: SQLAlchemy begins with a hint about itself,
    in brackets.

    A refused login is our own message, and no password is shown.
    """
    if getattr(error, "error_code", None) in LOGIN:
        return LOGIN[error.error_code]
    lines = [
        line
        for line in str(error).strip().splitlines()
        if not line.startswith("(raised as a result of ")
    ]
    return hide(lines[0] if lines else type(error).__name__)[:300]
