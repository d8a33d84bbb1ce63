"""The login of the project's own Prefect server: one text in `.env`, which its clients read there.

A server on loopback is open to every user of the machine, and to web pages that get past a
browser's rules. Prefect knows one text for all (`PREFECT_SERVER_API_AUTH_STRING`), which a client
sends as basic authentication (`PREFECT_API_AUTH_STRING`); Prefect's own programs read it from
`.env`, too. The servers of a team have their own: see docs/deploy.md.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from pathlib import Path

from engine.errors import WorkspaceError
from engine.files import atomic_write
from engine.locks import locked
from engine.project.env_file import read_env_file

CLIENT, SERVER = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
DATABASE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
USER = "detectflow"
PRIVATE = 0o600
NOTE = """\
# The login of this project's Prefect server (`detectflow ui`), made for it: its page asks for this
# text, once. To change it, write another one here and start server and workers again. Where
# PREFECT_API_URL names another server, its login belongs here, or none.
"""
HOW_TO_ADD = (
    f"Prefect's server has no login: deployments were made before there was one, and a worker that "
    f"runs would be locked out. To add one, end the workers, write {CLIENT}='{USER}:a long text' "
    "into .env (chmod 600 .env), and start server and workers again."
)


def new_login() -> str:
    """`user:text` that nobody guesses; its signs are the same to every reader of `.env`."""
    return f"{USER}:{secrets.token_urlsafe(24)}"


def share_login() -> bool:
    """Set the one of the two variables that is missing to the other; whether there is a login."""
    given = {name: os.environ.get(name) for name in (SERVER, CLIENT)}
    login = given[SERVER] or given[CLIENT]
    for name, value in given.items():
        if login:
            os.environ[name] = value or login
        else:  # an empty one counts as not given; Prefect's server would ask everybody for it
            os.environ.pop(name, None)
    return bool(login)


def login_for_the_server(state: Path) -> str:
    """Set both variables for a server of the project `state` that is about to start, and for its
    clients; a sentence for the user where that is news, else "".

    A project without a login gets one, in `.env`; not where deployments are registered with a
    server that has none: their workers could not go on.

    Raises:
        ConfigError: `.env` cannot be read. WorkspaceError: it cannot be written.
    """
    if share_login():
        return ""
    if os.environ.get(DATABASE) or has_deployments(Path(os.environ["PREFECT_HOME"])):
        return HOW_TO_ADD
    login = _kept_login(state)
    os.environ[CLIENT] = os.environ[SERVER] = login
    return f"Prefect's server has a login now: {CLIENT} in {state / '.env'}, read by all commands."


def has_deployments(home: Path) -> bool:
    """Whether somebody may rely on a server of Prefect's database in `home`: one that cannot be
    asked counts as relied upon.
    """
    file = home / "prefect.db"
    if not file.is_file():
        return False
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
        ) as database:
            table = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'deployment'"
            if database.execute(table).fetchone() is None:
                return False  # a start that ended before its tables were made
            return database.execute("SELECT 1 FROM deployment LIMIT 1").fetchone() is not None
    except sqlite3.Error:
        return True


def _kept_login(state: Path) -> str:
    """The login that `.env` has; where it has none, a new one is written to its end."""
    file = state / ".env"
    with locked(state / ".cache" / ".env.lock"):  # two servers may start at once
        known = read_env_file(file)
        if known.get(CLIENT):
            return known[CLIENT]
        login = new_login()
        try:
            before = file.read_bytes() if file.exists() else b""
        except OSError as error:
            raise WorkspaceError(f"{file}: cannot be read ({error.strerror})") from error
        gap = "" if not before else "\n" if before.endswith(b"\n") else "\n\n"
        with atomic_write(file.resolve(), opener=_open_private) as written:
            written.write(before + f"{gap}{NOTE}{CLIENT}='{login}'\n".encode())
    return login


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE)
