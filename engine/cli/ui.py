"""ui: the MLflow and the Prefect server of this project, on loopback, until Ctrl-C.

Their output lies in `.cache/ui/`; while they run, their addresses are noted there, so that a run finds them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, WorkspaceError
from engine.files import write_text
from engine.tracking.environment import LOOPBACK, MLFLOW_PORT, PREFECT_PORT, prepare_environment, state_root
from engine.tracking.mlflow_store import follow_moved_project
from engine.tracking.secrets import without_user
from engine.tracking.workspace import require_writable
from flows.processes import Child, answers, is_free
from flows.server import noted_address, notes_file

START_TIMEOUT_S = 120.0
LOOK_S = 0.5
PORTS_TRIED = 20


@dataclass(frozen=True)
class Service:
    """One of the two servers, and where it is asked whether it is well."""

    name: str
    port_variable: str
    default_port: int
    health: str  # path


PREFECT = Service("prefect", "PREFECT_SERVER_API_PORT", PREFECT_PORT, "/api/health")
MLFLOW = Service("mlflow", "MLFLOW_PORT", MLFLOW_PORT, "/health")
TITLES = {"prefect": "Prefect", "mlflow": "MLflow"}


def ui(words: Sequence[str]) -> int:
    """`detectflow ui`"""
    if words:
        raise ConfigError(f"ui takes no words, got '{words[0]}'. `detectflow help ui` says what it does")
    root = prepare_environment()
    state = state_root(root)
    require_writable(state)
    team = _team_servers()
    children: dict[str, Child] = {}
    addresses: dict[str, str] = dict(team)
    try:
        for service in (MLFLOW, PREFECT):
            if service.name in team:
                continue
            running = noted_address(state, service.name)
            if running and answers(running + service.health):
                print(f"{TITLES[service.name]} of this project is running already: {running}")
                addresses[service.name] = running
                continue
            port = choose_port(service)
            addresses[service.name] = f"http://{LOOPBACK}:{port}"
            children[service.name] = _start(service, state, port)
        if children:
            print(f"Starting {' and '.join(TITLES[name] for name in children)} ...", flush=True)
        for service in (MLFLOW, PREFECT):
            if service.name in children:
                children[service.name].wait_until_it_answers(addresses[service.name] + service.health, START_TIMEOUT_S)
        write_text(notes_file(state), json.dumps(addresses))
        _show(addresses, root)
        return _watch(children)
    except KeyboardInterrupt:
        print("\nEnding the servers ...", flush=True)
        return 0
    finally:
        for child in children.values():
            child.stop()
        if children:
            notes_file(state).unlink(missing_ok=True)


def _team_servers() -> dict[str, str]:
    """Servers that the environment names: they belong to somebody else and are only shown."""
    found = {}
    tracking = os.environ.get("MLFLOW_TRACKING_URI", "")
    if tracking.startswith(("http://", "https://")):
        found["mlflow"] = without_user(tracking.rstrip("/"))
    prefect = os.environ.get("PREFECT_API_URL", "")
    if prefect:
        found["prefect"] = without_user(prefect.rstrip("/").removesuffix("/api"))
    return found


def choose_port(service: Service) -> int:
    """The usual port, or the one its variable names, or else the next free one, saying by whom the usual one is taken.

    Raises:
        ConfigError: the variable is no port. WorkspaceError: the port that the variable names is taken, or all are.
    """
    text = os.environ.get(service.port_variable)
    try:
        wanted = int(text) if text else service.default_port
        if not 0 < wanted < 65536:
            raise ValueError
    except ValueError:
        raise ConfigError(f"{service.port_variable}={text} is no port: a number from 1 to 65535") from None
    if is_free(wanted):
        return wanted
    by = owner_of(wanted)
    if text:
        raise WorkspaceError(f"{service.port_variable}={wanted}: the port is taken{by}. End that, or name another port.")
    for port in range(wanted + 1, wanted + PORTS_TRIED):
        if is_free(port):
            print(f"Port {wanted} is taken{by}; {TITLES[service.name]} goes to {port}.")
            return port
    raise WorkspaceError(f"ports {wanted} to {wanted + PORTS_TRIED - 1} are all taken; set {service.port_variable}")


def owner_of(port: int) -> str:
    """`" by process 123 (mlflow server ...)"`, or nothing where the system does not tell."""
    try:
        import psutil
    except ImportError:
        return ""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                words = psutil.Process(connection.pid).cmdline()
                return f" by process {connection.pid} ({' '.join(Path(word).name for word in words)[:60]})"
    return ""


def _start(service: Service, state: Path, port: int) -> Child:
    log = state / ".cache" / "ui" / f"{service.name}.log"
    title = f"The {TITLES[service.name]} server"
    if service is PREFECT:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port)]
        return Child(title, command, log, {"PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api"})
    # Files as plain paths: a run without a server (the usual one) must find what was logged through one.
    files = str(state / "mlartifacts")
    follow_moved_project(state, os.environ["MLFLOW_TRACKING_URI"])
    command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(port), "--workers", "1",
               "--default-artifact-root", files, "--artifacts-destination", files]  # fmt: skip
    # Not as a word of the command, which everybody on the machine can read: a database's address has its password in it.
    return Child(title, command, log, {"MLFLOW_BACKEND_STORE_URI": os.environ["MLFLOW_TRACKING_URI"]})


def _show(addresses: dict[str, str], root: Path) -> None:
    from engine.config import Params
    from engine.tracking.mlflow_links import experiment_url

    experiment = Params.load(root / "params.yaml").register_.experiment
    print(f"\n  MLflow    {experiment_url(experiment, addresses['mlflow'], root)}")
    print(f"  Prefect   {addresses['prefect']}\n\nCtrl-C ends both.", flush=True)


def _watch(children: dict[str, Child]) -> int:
    """Wait for Ctrl-C. WorkspaceError when one of them ends by itself."""
    if not children:
        return 0
    while True:
        for name, child in children.items():
            if not child.is_alive:
                raise WorkspaceError(
                    f"{TITLES[name]} ended by itself with exit code {child.process.returncode}.{child.last_words()}"
                )
        time.sleep(LOOK_S)
