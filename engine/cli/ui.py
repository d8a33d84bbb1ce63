"""ui: the MLflow and the Prefect server of this project, on loopback, until Ctrl-C.

Their output lies in `.cache/ui/`; while they run, their addresses are noted there, so that a run
finds them. One that ends by itself is started again on its port and does not end the other, on
which flows and schedules may depend.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError, WorkspaceError
from engine.files import write_text
from engine.project.environment import (
    LOOPBACK,
    MLFLOW_PORT,
    PREFECT_PORT,
    prepare_environment,
    state_root,
)
from engine.project.lock_holders import command_of
from engine.project.redaction import without_user
from engine.project.server_login import CLIENT, login_for_the_server
from engine.project.workspace_lock import require_writable
from flows.processes import Child, answers, is_free
from flows.server import noted_address, notes_file, server_command

START_TIMEOUT_S = 120.0
CHECK_S = 0.5
PORTS_TRIED = 20
PAUSES_S = (
    2.0,
    5.0,
    15.0,
    30.0,
    60.0,
)  # before each new start of a server that ended; one that ends once more is given up
# MLflow's own default takes `10.*` and such, so also a page's name like 10.example.org.
MLFLOW_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
OWN_NAMES = (LOOPBACK, f"{LOOPBACK}:*", "localhost", "localhost:*")
WELL_S = 600.0  # one that ran so long has all its new starts again


@dataclass(frozen=True)
class Service:
    """One of the two servers, and where it is asked whether it is well."""

    name: str
    title: str
    port_variable: str
    default_port: int
    health: str  # path


PREFECT = Service("prefect", "Prefect", "PREFECT_SERVER_API_PORT", PREFECT_PORT, "/api/health")
MLFLOW = Service("mlflow", "MLflow", "MLFLOW_PORT", MLFLOW_PORT, "/health")


def ui(argv: Sequence[str]) -> int:
    """`detectflow ui`"""
    if argv:
        raise ConfigError(
            f"ui takes no arguments, got '{argv[0]}'. `detectflow help ui` says what it does"
        )
    root = prepare_environment()
    state = state_root(root)
    require_writable(state)
    team = _team_servers()
    kept: dict[str, SupervisedServer] = {}
    addresses: dict[str, str] = dict(team)
    try:
        for service in (MLFLOW, PREFECT):
            if service.name in team:
                continue
            running = noted_address(state, service.name)
            if running and answers(running + service.health):
                print(f"{service.title} of this project is running already: {running}")
                addresses[service.name] = running
                continue
            port = choose_port(service)
            if service is PREFECT and (news := login_for_the_server(state)):
                print(news)
            kept[service.name] = server = SupervisedServer(service, state, port)
            addresses[service.name] = server.address
        if kept:
            print(f"Starting {_titles(kept.values())} ...", flush=True)
        for server in kept.values():
            server.wait()
        _note(state, addresses)
        _show(addresses, root)
        return _watch(kept, addresses, state)
    except KeyboardInterrupt:
        print("\nEnding the servers ...", flush=True)
        return 0
    finally:
        for server in kept.values():
            server.end()
        if kept:
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
    """The usual port, or the one its variable names, or else the next free one, saying by whom the
    usual one is taken.

    Raises:
        ConfigError: the variable is no port. WorkspaceError: the port that the variable names is
            taken, or all are.
    """
    text = os.environ.get(service.port_variable)
    try:
        wanted = int(text) if text else service.default_port
        if not 0 < wanted < 65536:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{service.port_variable}={text} is no port: a number from 1 to 65535"
        ) from None
    if is_free(wanted):
        return wanted
    by = owner_of(wanted)
    if text:
        raise WorkspaceError(
            f"{service.port_variable}={wanted}: the port is taken{by}. End that, or name another "
            "port."
        )
    for port in range(wanted + 1, wanted + PORTS_TRIED):
        if is_free(port):
            print(f"Port {wanted} is taken{by}; {service.title} goes to {port}.")
            return port
    raise WorkspaceError(
        f"ports {wanted} to {wanted + PORTS_TRIED - 1} are all taken; set {service.port_variable}"
    )


def owner_of(port: int) -> str:
    """`" by process 123 (mlflow server ...)"`, or nothing where the system does not say."""
    try:
        import psutil
    except ImportError:
        return ""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr.port == port
                and connection.pid
            ):
                return f" by process {connection.pid}{command_of(connection.pid)}"
    return ""


def _start(service: Service, state: Path, port: int) -> Child:
    log = state / ".cache" / "ui" / f"{service.name}.log"
    title = f"The {service.title} server"
    if service is PREFECT:
        own = {"PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api"}
        return Child(title, server_command(port), log, own)
    # Files as plain paths: a run without a server (the usual one) must find what was logged through
    # one.
    files = str(state / "mlartifacts")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        "--workers",
        "1",
        "--default-artifact-root",
        files,
        "--artifacts-destination",
        files,
    ]
    own = {
        # Not as an argument of the command, which everybody on the machine can read: a database's
        # address has its password in it.
        "MLFLOW_BACKEND_STORE_URI": os.environ["MLFLOW_TRACKING_URI"],
        MLFLOW_HOSTS: os.environ.get(MLFLOW_HOSTS) or ",".join(OWN_NAMES),
    }
    return Child(title, command, log, own)


def _show(addresses: dict[str, str], root: Path) -> None:
    from engine.config import Params
    from engine.tracking.mlflow_links import experiment_url

    experiment = Params.load(root / "params.yaml").register_.experiment
    print(f"\n  MLflow    {experiment_url(experiment, addresses['mlflow'], root)}")
    asks = f"  (asks for the text of {CLIENT}, see .env)" if os.environ.get(CLIENT) else ""
    print(f"  Prefect   {addresses['prefect']}{asks}\n\nCtrl-C ends both.", flush=True)


class SupervisedServer:
    """A server of ours: started again where it ends by itself, given up where that does not
    help.
    """

    def __init__(self, service: Service, state: Path, port: int):
        self.service, self.state, self.port = service, state, port
        self.address = f"http://{LOOPBACK}:{port}"
        self.child = _start(service, state, port)
        self.started = time.monotonic()
        self.answers = True  # as `wait` found
        self.starts = 0  # new ones, since it last ran well
        self.due: float | None = None  # the next one
        self.is_given_up = False

    def wait(self) -> None:
        """Return when it answers for the first time. WorkspaceError when it does not."""
        self.child.wait_until_it_answers(self.address + self.service.health, START_TIMEOUT_S)

    def check(self) -> None:
        """Do what is due now, without waiting."""
        now = time.monotonic()
        if self.is_given_up:
            return
        if self.due is not None:
            if now >= self.due:
                self._start_again()
        elif not self.child.is_alive:
            self._has_failed(f"ended by itself with exit code {self.child.process.returncode}")
        elif not self.answers:
            self.answers = answers(self.address + self.service.health)
            if self.answers:
                _say(f"{self.service.title} answers again: {self.address}")
            elif now - self.started > START_TIMEOUT_S:
                self._has_failed(f"did not answer within {START_TIMEOUT_S:.0f} s")

    def end(self) -> None:
        if not self.is_given_up:  # then its process id may be another's by now
            self.child.stop()

    def _has_failed(self, reason: str) -> None:
        said = self.child.last_lines()
        # also what a dead one has left: MLflow's web server is a process of its own, and has the
        # port
        self.child.stop()
        now = time.monotonic()
        if now - self.started >= WELL_S:
            self.starts = 0
        if self.starts == len(PAUSES_S):
            self.is_given_up = True
            _say(f"{self.service.title} {reason}, after {self.starts} restarts: giving up.{said}")
            return
        pause_s = PAUSES_S[self.starts]
        self.starts += 1
        self.due = now + pause_s
        _say(
            f"{self.service.title} {reason}; restart {self.starts} of {len(PAUSES_S)} in "
            f"{pause_s:g} s.{said}"
        )

    def _start_again(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # what had not ended when asked to
            os.killpg(self.child.process.pid, signal.SIGKILL)
        self.due, self.started, self.answers = None, time.monotonic(), False
        try:
            self.child = _start(self.service, self.state, self.port)
        except OSError as error:  # no memory, a full disk
            self._has_failed(f"could not be started ({error})")


def _watch(kept: dict[str, SupervisedServer], addresses: dict[str, str], state: Path) -> int:
    """Keep them running until Ctrl-C. WorkspaceError when all are given up."""
    if not kept:
        return 0
    while True:
        for name, server in kept.items():
            server.check()
            if server.is_given_up and name in addresses:
                del addresses[name]
                with contextlib.suppress(OSError):  # a full disk is no reason to end the other one
                    _note(state, addresses)
        if all(server.is_given_up for server in kept.values()):
            raise WorkspaceError(
                f"{_titles(kept.values())} ended and could not be kept running; why is said above"
            )
        time.sleep(CHECK_S)


def _note(state: Path, addresses: dict[str, str]) -> None:
    write_text(notes_file(state), json.dumps(addresses))


def _titles(kept: Collection[SupervisedServer]) -> str:
    return " and ".join(server.service.title for server in kept)


def _say(text: str) -> None:
    """With the time: it may be read the next morning."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}", flush=True)
