"""Which Prefect server a run reports to: the configured one, the project's own when its UI is up,
else a temporary one.

Must be asked before prefect is imported, because prefect reads its address at import. A temporary
server is the same
program that Prefect starts by itself in its ephemeral mode, but in its own session: there a Ctrl-C
would end the server before the run could report the Ctrl-C to it, and a `kill -9` of the run would
leave it behind for ever.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

from engine.errors import WorkspaceError
from engine.files import read_object
from engine.project.environment import state_root
from engine.project.lock_holders import LOCKED, describe_lock
from engine.project.redaction import hide, prefect_login
from engine.project.server_login import CLIENT, SERVER, new_login, share_login
from engine.tracking.mlflow_links import ui_base
from flows.processes import (
    LOOPBACK,
    Child,
    answers,
    ask,
    free_port,
    is_local,
    why_silent,
)

logger = logging.getLogger("detectflow")

GONE_AFTER_S = 5.0
# the first question to a server that has just started takes seconds on a busy machine
FIRST_ANSWER_S = 10.0
REFUSED = {401, 403}


@dataclass(frozen=True)
class Server:
    """The server of a run. `child` is there when the run brought its own, which has no UI and ends
    with it.
    """

    api_url: str
    child: Child | None = None

    @property
    def is_temporary(self) -> bool:
        return self.child is not None

    def wait(self) -> None:
        """Return when it answers. WorkspaceError when it does not."""
        if self.child is None:
            return
        timeout_s = float(os.environ.get("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", 120))
        try:
            self.child.wait_until_it_answers(f"{self.api_url}/health", timeout_s)
        except WorkspaceError:
            if (
                LOCKED not in self.child.last_lines(lines=100)
                or "PREFECT_SERVER_DATABASE_CONNECTION_URL" in os.environ
            ):
                raise
            advice = describe_lock(Path(os.environ["PREFECT_HOME"]) / "prefect.db")
            raise WorkspaceError(
                f"The temporary Prefect server cannot open its database. {advice}"
            ) from None


def connect(root: Path) -> Server:
    """Find or start the server of the workspace `root`, and set PREFECT_API_URL for prefect's
    import.

    Raises:
        WorkspaceError: PREFECT_API_URL is set, and nothing answers there, or the login or its
            version is wrong; or the login of the project's own server is.
    """
    state = state_root(root)
    configured = os.environ.get("PREFECT_API_URL")
    if configured:
        check_answers(
            configured, "or unset the variable: a run then brings its own temporary server"
        )
        check_prefect(configured)
        return Server(configured)
    running = find_running(state)
    if running is not None:
        check_prefect(running)
        os.environ["PREFECT_API_URL"] = running
        return Server(running)
    server = start_temporary(state)
    os.environ["PREFECT_API_URL"] = server.api_url
    os.environ["DETECTFLOW_TEMPORARY_SERVER"] = server.api_url  # links are not to lead there
    return server


def check_answers(api_url: str, otherwise: str = "") -> None:
    """WorkspaceError where no Prefect server answers at PREFECT_API_URL: why not, and what to write
    in its place.
    """
    why = why_silent(f"{api_url}/health", FIRST_ANSWER_S)
    if why is None:
        return
    written = f"PREFECT_API_URL is {hide(api_url)}, but no Prefect server answers there"
    for meant in (f"{api_url.rstrip('/')}/api", f"http://{api_url}", f"http://{api_url}/api"):
        if answers(f"{meant}/health"):
            raise WorkspaceError(f"{written}: write {hide(meant)}")
    what = (
        "start it (`make ui`)"
        if is_local(api_url)
        else "correct the address (http://HOST:4200/api)"
    )
    raise WorkspaceError(
        f"{written}: {why}. Check that it is up, {', '.join(filter(None, (what, otherwise)))}."
    )


def is_gone() -> bool:
    """Whether the server that this process reports to has stopped answering."""
    url = os.environ.get("PREFECT_API_URL")
    return bool(url) and not answers(f"{url}/health", GONE_AFTER_S)


def check_prefect(api_url: str) -> None:
    """WorkspaceError where the server does not take PREFECT_API_AUTH_STRING (its health is shown to
    anybody, nothing else is), or its Prefect is another than this environment's. A server that does
    not say is let be.
    """
    answer = ask(f"{api_url}/admin/version", FIRST_ANSWER_S, prefect_login())
    if answer is not None and answer.status_code in REFUSED:
        found = (
            "is not the one it expects"
            if os.environ.get("PREFECT_API_AUTH_STRING")
            else "is not set"
        )
        raise WorkspaceError(
            f"the Prefect server at {hide(api_url)} wants a login, and PREFECT_API_AUTH_STRING "
            f"{found}. Set it in .env: PREFECT_API_AUTH_STRING='user:password', the server's own "
            "PREFECT_SERVER_API_AUTH_STRING."
        )

    if answer is not None and answer.is_success and not _same_version(answer):
        own = importlib.metadata.version("prefect")
        raise WorkspaceError(
            f"the Prefect server at {hide(api_url)} is version "
            f"{_version_of(answer)[:40]}, and this environment has Prefect {own}: the first two "
            "numbers must be equal. Start that server from this project's environment (`make "
            "ui`), or bring both to the same version."
        )


def find_running(state: Path) -> str | None:
    """The API address of the project's own running server, as its `ui` command noted it.

    Whatever else answers on Prefect's usual port is another project's, and may end with it: whoever
    means that one sets PREFECT_API_URL.
    """
    url = noted_address(state, "prefect")
    if url is None:
        return None
    answer = ask(f"{url}/api/admin/version", FIRST_ANSWER_S, prefect_login())
    is_ours = answer is not None and (answer.status_code in REFUSED or _same_version(answer))
    return f"{url}/api" if is_ours else None  # the login is for the caller to check


def noted_address(state: Path, name: str) -> str | None:
    """The address that `detectflow ui` noted for its server `name` (prefect, mlflow); perhaps no
    longer alive.
    """
    return read_object(notes_file(state)).get(name)


def mlflow_ui(root: Path) -> str | None:
    """The address of MLflow's UI: the team's server, or the project's own while `detectflow ui`
    runs; else None.
    """
    if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        return ui_base(root)
    url = noted_address(state_root(root), "mlflow")
    return url if url and answers(f"{url}/health") else None


def notes_file(state: Path) -> Path:
    """Where `detectflow ui` notes the addresses of its servers while they run."""
    return state / ".cache" / "ui" / "addresses.json"


def start_temporary(state: Path) -> Server:
    """Start a server for this process alone; it ends when the interpreter does, after prefect's own
    exit handlers.
    """
    port = free_port()
    if not share_login():  # nobody but this process and its children is to talk to it
        os.environ[CLIENT] = os.environ[SERVER] = new_login()
    # As Prefect does for its ephemeral server: no UI, no scheduler that would plan runs nobody is
    # there to start.
    env = {
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT_SERVER_LOGGING_LEVEL": "ERROR",
    }
    command = server_command(port)
    child = Child(
        "The temporary Prefect server", command, state / ".cache" / "prefect-server.log", env
    )
    atexit.register(child.stop)
    return Server(f"http://{LOOPBACK}:{port}/api", child)


def server_command(port: int) -> list[str]:
    """How Prefect's server is started here: behind a check of who asks."""
    return [sys.executable, "-m", "flows.prefect_server", str(port)]


def _same_version(answer: httpx.Response) -> bool:
    """Prefect promises an old client no new server."""
    own = importlib.metadata.version("prefect").split(".")[:2]
    return answer.is_success and _version_of(answer).split(".")[:2] == own


def _version_of(answer: httpx.Response) -> str:
    return answer.text.strip().strip('"')  # a JSON text
