"""Where the project is, and the environment its tools need; called before prefect, mlflow or dvc
are imported.

Everything is a default: a variable that the user, or the project's `.env`, has set stays as it is.
All state lies inside the project root, nothing leaves the machine.
"""

from __future__ import annotations

import logging
import os
import urllib.parse
from importlib import metadata
from pathlib import Path

from engine.errors import ConfigError, nearest
from engine.plugins import look_in
from engine.project.env_file import read_env_file
from engine.project.proxies import prepare_proxies
from engine.project.redaction import hide

logger = logging.getLogger("detectflow")

PROJECT_FILES = ("dvc.yaml", "params.yaml")
LOOPBACK = "127.0.0.1"
PREFECT_PORT = 4200
MLFLOW_PORT = 5000

FIXED_DEFAULTS = {
    # MLflow accepts only this spelling of the value.
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime's, from 1.29
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # between the lines of a command
    # A fresh Prefect home needs about 32 s to migrate its database; the default of 20 s fails the
    # very first run.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    # By default a server keeps in memory which run has a deployment's slot: after a restart it ends
    # that run.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    "PREFECT_SERVER_UI_API_URL": "/api",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # The default is "*": any page in the user's browser could then drive the server.
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{LOOPBACK}:{PREFECT_PORT}",
    # Otherwise the server starts seven GenAI consumers: 2.3 GB of memory in place of 0.5.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
# Certificates that are trusted: Python's own variable, and what Prefect, requests (MLflow, DVC) and
# boto3 look at in its place.
TRUSTED = "SSL_CERT_FILE"
TRUSTED_BY = ("PREFECT_API_SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")
# How addresses begin that MLflow takes, in the order of its registry of stores. Packages may add
# others; a folder has none.
MLFLOW_SCHEMES = (
    "databricks",
    "databricks-uc",
    "uc",
    "http",
    "https",
    "postgresql",
    "mysql",
    "sqlite",
    "mssql",
)
FILE_STORE = "MLFLOW_ALLOW_FILE_STORE"  # MLflow's own variable
MLFLOW_PLUGINS = "mlflow.tracking_store"


class NoProject(ConfigError):
    """There is no project here; a caller that needs none goes on."""


def find_root(start: str | Path | None = None) -> Path:
    """The absolute folder of the workspace: the nearest one upwards from `start` (default: here)
    with dvc.yaml and params.yaml.

    `DVC_ROOT` is not asked here: in `dvc exp run --temp` it names the project, while the stage must
    work in the copy.

    Raises:
        NoProject: no such folder.
    """
    here = Path(start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if all((folder / name).is_file() for name in PROJECT_FILES):
            return folder
    raise NoProject(
        f"{here}: no project here or above (looked for {' and '.join(PROJECT_FILES)}). "
        "Go to the project's folder and run the command again."
    )


def state_root(root: Path) -> Path:
    """Where databases and caches lie: `root`, or the project that owns the temporary copy of a DVC
    experiment.
    """
    owner = os.environ.get("DVC_ROOT")
    if owner and (Path(owner) / PROJECT_FILES[0]).is_file():
        return Path(owner).resolve()
    parts = root.parts
    for index in range(len(parts) - 2):  # .../.dvc/tmp/exps/tmpabc
        if parts[index : index + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:index])
    return root


def prepare_environment(root: str | Path | None = None) -> Path:
    """Set every missing variable and return the workspace root; cheap, and harmless when called
    again.

    Raises:
        NoProject: no `root` is given, and there is none here.
        ConfigError: a line of `.env` cannot be read; a variable has a value that nothing can come
            of, a proxy among them.
    """
    root = find_root() if root is None else Path(root).resolve()
    state = state_root(root)
    for name, value in read_env_file(state / ".env").items():
        os.environ.setdefault(name, value)
    for name, value in {**FIXED_DEFAULTS, **_paths(state), **_trusted()}.items():
        os.environ.setdefault(name, value)
    require_possible_tracker(os.environ["MLFLOW_TRACKING_URI"])
    for sentence in prepare_proxies():
        logger.warning(sentence)
    look_in(root)  # modules of the user's own are found from wherever a command is called
    return root


def require_possible_tracker(uri: str) -> None:
    """ConfigError where MLflow takes no such address: records would wait for it for ever. Whether
    it answers is not asked.
    """
    try:
        scheme = urllib.parse.urlsplit(uri).scheme.partition("+")[0]
    except ValueError as error:
        raise ConfigError(f"MLFLOW_TRACKING_URI={hide(uri)} is no address: {error}") from None
    if not uri or {uri, scheme} & {*MLFLOW_SCHEMES}:  # "databricks" alone is one too
        return
    if len(scheme) < 2 or scheme == "file":  # one letter: a drive
        return _require_file_store(uri)
    if scheme in {plugin.name for plugin in metadata.entry_points(group=MLFLOW_PLUGINS)}:
        return
    is_host = not uri.partition(":")[2].startswith("/")
    meant = f" Did you mean 'http://{hide(uri)}'?" if is_host else nearest(scheme, MLFLOW_SCHEMES)
    raise ConfigError(
        f"MLFLOW_TRACKING_URI={hide(uri)}: MLflow takes no address that begins with "
        f"'{scheme}:'.{meant} Correct or unset it: one of {', '.join(MLFLOW_SCHEMES)}."
    )


def _require_file_store(uri: str) -> None:
    """ConfigError: MLflow would refuse a folder only when the first run is to be recorded, after
    hours of training.
    """
    if os.environ.get(FILE_STORE, "").strip().lower() in {"true", "1"}:
        return
    raise ConfigError(
        f"MLFLOW_TRACKING_URI={hide(uri)} is a folder, and MLflow keeps nothing new in folders. "
        "Unset it (the project's own mlflow.db is used then), or name a database such as "
        "sqlite:////data/mlflow.db, or a server: http://HOST:5000. `mlflow migrate-filestore` "
        "takes over what the folder holds."
    )


def _trusted() -> dict[str, str]:
    """One variable for all libraries. ConfigError where it names no file: they would each say
    something of their own.
    """
    file = os.environ.get(TRUSTED)
    if not file:
        return {}
    if not Path(file).is_file():
        raise ConfigError(
            f"{TRUSTED}={file}: no such file; it names the certificates to trust (PEM)"
        )
    return dict.fromkeys(TRUSTED_BY, file)


def _paths(state: Path) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(state / ".prefect"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{state / 'mlflow.db'}",
        "DVC_SITE_CACHE_DIR": str(state / ".cache" / "dvc"),
        "MPLCONFIGDIR": str(state / ".cache" / "matplotlib"),
        "TORCH_HOME": str(state / ".cache" / "torch"),
        "DETECTFLOW_STATE": str(state),
    }
