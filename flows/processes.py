"""Servers as child processes: own session, output into a file, ended together with whoever started them.

An own session keeps a Ctrl-C on the terminal from the child, so that the parent can still report to it and then ends it
in order; the death signal keeps a `kill -9` of the parent from leaving it behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import WorkspaceError

LOOPBACK = "127.0.0.1"
PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1


class Child:
    """One server process and the file with what it said."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ):
        """Start `command` in the folder `cwd`, by default here; `name` is how messages call it."""
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform.startswith("linux") else None,
            )

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def wait_until_it_answers(self, url: str, timeout_s: float) -> None:
        """Return once `url` answers.

        Raises:
            WorkspaceError: the child ended, or said nothing for `timeout_s`; with the last lines of its output.
        """
        deadline = time.monotonic() + timeout_s
        while not answers(url):
            if not self.is_alive:
                raise WorkspaceError(f"{self.name} ended at start with exit code {self.process.returncode}.{self.last_words()}")
            if time.monotonic() > deadline:
                raise WorkspaceError(f"{self.name} did not answer at {url} within {timeout_s:.0f} s.{self.last_words()}")
            time.sleep(POLL_S)

    def last_words(self, lines: int = 8) -> str:
        """The end of its output, made to be appended to a message."""
        with contextlib.suppress(OSError):
            text = self.log.read_text(encoding="utf-8", errors="replace").strip()
            if text:
                tail = "\n  ".join(text.splitlines()[-lines:])
                return f" It said last ({self.log}):\n  {tail}"
        return f" It said nothing ({self.log})."

    def stop(self) -> None:
        """End it and what it started: asked first, forced after ten seconds."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signum)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT_S)
                break


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a web server answers at `url` with success."""
    try:
        with _direct.open(url, timeout=timeout_s) as response:
            return 200 <= response.status < 300
    except (OSError, ValueError, urllib.error.URLError):
        return False


def refuses(url: str, login: Mapping[str, str], timeout_s: float = 2.0) -> bool:
    """Whether a web server answers at `url` that these headers do not let anybody in."""
    try:
        _direct.open(urllib.request.Request(url, headers=dict(login)), timeout=timeout_s).close()
    except urllib.error.HTTPError as error:
        return error.code in {401, 403}
    except (OSError, ValueError):
        pass
    return False


def read_text(url: str, timeout_s: float = 2.0, login: Mapping[str, str] | None = None) -> str | None:
    """The body at `url`, or None when nothing answers. login: headers that say who asks."""
    try:
        with _direct.open(urllib.request.Request(url, headers=dict(login or {})), timeout=timeout_s) as response:
            return response.read(1 << 16).decode("utf-8", "replace")
    except (OSError, ValueError, urllib.error.URLError):
        return None


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
