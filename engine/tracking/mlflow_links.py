"""Addresses within the MLflow UI, and cheap questions to its database. Never imports MLflow (3 s):
used by the CLI.

A SQLite file is read directly, a server is asked over REST with a short time limit. Answers are
courtesies: where the question cannot be answered, a general address, or "yes, still there", is
given.
"""

from __future__ import annotations

import contextlib
import sqlite3
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.errors import ConfigError
from engine.files import read_object
from engine.project.environment import LOOPBACK, MLFLOW_PORT, state_root
from engine.project.redaction import mlflow_login, without_user
from engine.tracking.mlflow_client import tracking_uri
from engine.tracking.model_name import registered_name

ASK_TIMEOUT_S = 3.0
TRAINING = "workflowType=machine_learning"  # else the UI opens as one for language models
LOCAL = f"http://{LOOPBACK}:{MLFLOW_PORT}"


def ui_base(root: Path) -> str:
    """Where the UI is: the server that is used, or the one `detectflow ui` starts."""
    uri = tracking_uri(state_root(root))
    return without_user(uri.rstrip("/")) if uri.startswith("http") else LOCAL


def experiment_url(name: str, base: str = LOCAL, root: Path | None = None) -> str:
    """The runs table of an experiment."""
    found = experiment_id(name, root)
    if found is None:
        return f"{base}/#/experiments?{TRAINING}"
    return f"{base}/#/experiments/{found}/runs?{TRAINING}"


def run_url(experiment: str, run_id: str, base: str = LOCAL) -> str:
    """One run; `experiment` is its id."""
    return f"{base}/#/experiments/{experiment}/runs/{run_id}?{TRAINING}"


def version_url(model: str, version: int | str, base: str = LOCAL) -> str:
    """One version of a registered model."""
    return f"{base}/#/models/{urllib.parse.quote(model, safe='')}/versions/{version}?{TRAINING}"


def experiment_id(name: str, root: Path | None = None) -> str | None:
    """The id of an experiment, None where there is none or nobody answers."""
    uri = tracking_uri(state_root(root or Path.cwd()))
    if uri.startswith("http"):
        answer = _get(uri, "experiments/get-by-name", experiment_name=name)
        return answer["experiment"]["experiment_id"] if answer and "experiment" in answer else None
    rows = _query(uri, "SELECT experiment_id FROM experiments WHERE name = ?", [name])
    return str(rows[0][0]) if rows else None


def registered(root: Path, params: Params) -> bool:
    """Whether the version that `reports/registration.json` names is still in the registry.

    False: stage register has to run although DVC says that it is up to date, as after `mlflow.db`
    was deleted. A server that does not answer is believed to have it.
    """
    found = read_object(root / "reports" / "registration.json")
    try:
        name, version, weights = (str(found[k]) for k in ("model", "version", "weights_sha256"))
    except KeyError:
        return False
    try:
        if name != registered_name(params, root):
            return False
    except ConfigError:  # the prepared data have gone
        return False
    uri = tracking_uri(state_root(root))
    if uri.startswith("http"):
        answer = _get(uri, "model-versions/get", name=name, version=version)
        if answer is None:
            return True
        tags = {
            tag.get("key"): tag.get("value")
            for tag in answer.get("model_version", {}).get("tags", [])
        }
        return tags.get("weights_sha256") == weights
    query = (
        "SELECT value FROM model_version_tags WHERE name = ? AND version = ? AND key = "
        "'weights_sha256'"
    )
    rows = _query(uri, query, [name, int(version)])
    return rows is None or bool(rows) and rows[0][0] == weights


@dataclass(frozen=True)
class ModelState:
    """A registered model as the registry has it at this moment."""

    aliases: Mapping[str, str]  # alias -> version
    tags: Mapping[str, str]  # of the model itself


def model_state(root: Path, name: str) -> ModelState | None:
    """Aliases and tags of a registered model, empty where there is no such model; None where nobody
    answers.
    """
    uri = tracking_uri(state_root(root))
    if uri.startswith("http"):
        return _state_over_rest(uri, name)
    aliases = _query(
        uri, "SELECT alias, version FROM registered_model_aliases WHERE name = ?", [name]
    )
    tags = _query(uri, "SELECT key, value FROM registered_model_tags WHERE name = ?", [name])
    if aliases is None or tags is None:
        return None
    return ModelState(
        {alias: str(version) for alias, version in aliases},
        {key: value or "" for key, value in tags},
    )


def _state_over_rest(uri: str, name: str) -> ModelState | None:
    answer = _get(uri, "registered-models/get", name=name)
    if answer is None:
        return None
    model = answer.get("registered_model", {})
    return ModelState(
        {each["alias"]: str(each["version"]) for each in model.get("aliases", ())},
        {tag.get("key", ""): tag.get("value", "") for tag in model.get("tags", ())},
    )


def _query(uri: str, query: str, values: Sequence[Any]) -> list[tuple] | None:
    """Rows of a SQLite tracker: none where the file or its tables are missing. None: another kind
    of database, or locked.
    """
    if not uri.startswith("sqlite:///"):
        return None
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.is_file():
        return []
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=ASK_TIMEOUT_S)
        ) as db:
            return db.execute(query, values).fetchall()
    except sqlite3.OperationalError as error:
        return [] if "no such table" in str(error) else None
    except sqlite3.DatabaseError:
        return None


def _get(uri: str, what: str, **query: str) -> dict[str, Any] | None:
    """MLflow's answer over REST; {} where it says that there is no such thing, None where it does
    not answer.
    """
    import httpx  # 0.2 s, and most projects have no server

    address, login = mlflow_login(uri)
    address = f"{address.rstrip('/')}/api/2.0/mlflow/{what}"
    try:
        answer = httpx.get(
            address, params=query, headers=login, timeout=ASK_TIMEOUT_S, follow_redirects=True
        )
        if answer.status_code == 404:
            return {}
        return answer.raise_for_status().json()
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        return None
