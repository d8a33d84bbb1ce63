"""Where the project is, and the environment its tools need; called before prefect, mlflow or dvc are imported.

Everything is a default: a variable that the user, or the project's `.env`, has set stays as it is. All state lies inside
the project root, nothing leaves the machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import ConfigError

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
    # A fresh Prefect home needs about 32 s to migrate its database; the default of 20 s fails the very first run.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "PREFECT_SERVER_UI_API_URL": "/api",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # The default is "*": any page in the user's browser could then drive the server.
    "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://{LOOPBACK}:{PREFECT_PORT}",
    # Otherwise the server starts seven GenAI consumers: 2.3 GB of memory in place of 0.5.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def find_root(start: str | Path | None = None) -> Path:
    """The absolute folder of the workspace: the nearest one upwards from `start` (default: here) with dvc.yaml and params.yaml.

    `DVC_ROOT` is not asked here: in `dvc exp run --temp` it names the project, while the stage must work in the copy.

    Raises:
        ConfigError: no such folder.
    """
    here = Path(start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if all((folder / name).is_file() for name in PROJECT_FILES):
            return folder
    raise ConfigError(
        f"{here}: no project here or above (looked for {' and '.join(PROJECT_FILES)}). "
        "Go to the project's folder and run the command again."
    )


def state_root(root: Path) -> Path:
    """Where databases and caches lie: `root`, or the project that owns the temporary copy of a DVC experiment."""
    owner = os.environ.get("DVC_ROOT")
    if owner and (Path(owner) / PROJECT_FILES[0]).is_file():
        return Path(owner).resolve()
    parts = root.parts
    for index in range(len(parts) - 2):  # .../.dvc/tmp/exps/tmpabc
        if parts[index : index + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:index])
    return root


def prepare_environment(root: str | Path | None = None) -> Path:
    """Set every missing variable and return the workspace root; cheap, and harmless when called again."""
    root = find_root() if root is None else Path(root).resolve()
    state = state_root(root)
    for name, value in read_env_file(state / ".env").items():
        os.environ.setdefault(name, value)
    for name, value in {**FIXED_DEFAULTS, **_paths(state)}.items():
        os.environ.setdefault(name, value)
    return root


def _paths(state: Path) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(state / ".prefect"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{state / 'mlflow.db'}",
        "DVC_SITE_CACHE_DIR": str(state / ".cache" / "dvc"),
        "MPLCONFIGDIR": str(state / ".cache" / "matplotlib"),
        "TORCH_HOME": str(state / ".cache" / "torch"),
        "DETECTFLOW_STATE": str(state),
    }


def read_env_file(path: Path) -> dict[str, str]:
    """`KEY=value` lines; `export`, comments, blank lines and matching quotes are understood, nothing is expanded.

    Raises:
        ConfigError: a line that is none of these, with its number.
    """
    if not path.is_file():
        return {}
    values: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip().removeprefix("export ").strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise ConfigError(f"{path}, line {number}: expected KEY=value, found {line.strip()[:60]!r}")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        values[name.strip()] = value
    return values
