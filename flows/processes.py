"""Servers as child processes: own session, output into a file, ended together with whoever started
them.

An own session keeps a Ctrl-C on the terminal from the child, so that the parent can still report to
it and then ends it in order; the death signal keeps a `kill -9` of the parent from leaving it
behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import certifi
import httpx

from engine.errors import WorkspaceError

LOOPBACK = "127.0.0.1"
PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_S = 10.0
POLL_S = 0.1
UNANSWERED = (httpx.HTTPError, httpx.InvalidURL, OSError)


class Child:
    """One server process and the file with what it said."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
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
            WorkspaceError: the child ended, or said nothing for `timeout_s`; with the last lines of
                its output.
        """
        deadline = time.monotonic() + timeout_s
        while not answers(url):
            if not self.is_alive:
                raise WorkspaceError(
                    f"{self.name} ended at start with exit code "
                    f"{self.process.returncode}.{self.last_lines()}"
                )
            if time.monotonic() > deadline:
                raise WorkspaceError(
                    f"{self.name} did not answer at {url} within {timeout_s:.0f} "
                    f"s.{self.last_lines()}"
                )
            time.sleep(POLL_S)

    def last_lines(self, lines: int = 8) -> str:
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
    answer = ask(url, timeout_s)
    return answer is not None and answer.is_success


def why_silent(url: str, timeout_s: float = 2.0) -> str | None:
    """None where a web server answers at `url` with success; else the reason."""
    try:
        answer = _get(url, timeout_s)
    except UNANSWERED as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return f"its certificate is not trusted here ({error}), see docs/deploy.md, TLS"
        return str(error) or type(error).__name__
    return None if answer.is_success else f"HTTP {answer.status_code} {answer.reason_phrase}"


def ask(
    url: str, timeout_s: float = 2.0, login: Mapping[str, str] | None = None
) -> httpx.Response | None:
    """The answer at `url`, or None where there is none. login: headers that say who asks."""
    try:
        return _get(url, timeout_s, login)
    except UNANSWERED:
        return None


def post(url: str, body: Any, timeout_s: float, login: Mapping[str, str] | None = None) -> None:
    """Send `body` as JSON.

    Raises:
        WorkspaceError: nobody took it within `timeout_s`, or it was refused.
    """
    try:
        answer = httpx.post(
            url,
            json=body,
            headers=login,
            timeout=timeout_s,
            trust_env=not is_local(url),
            verify=_trusting() if url.startswith("https:") else False,
        )
    except UNANSWERED as error:
        raise WorkspaceError(str(error) or type(error).__name__) from None
    if not answer.is_success:
        raise WorkspaceError(f"HTTP {answer.status_code} {answer.reason_phrase}")


def is_local(url: str) -> bool:
    """Whether `url` is on this machine."""
    return urllib.parse.urlsplit(url).hostname in {LOOPBACK, "localhost", "::1"}


def _get(url: str, timeout_s: float, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """The answer of a web server, trusting the certificates that Prefect's client trusts; loopback
    never goes by a proxy.
    """
    return httpx.get(
        url,
        headers=headers,
        timeout=timeout_s,
        follow_redirects=True,
        trust_env=not is_local(url),
        verify=_trusting() if url.startswith("https:") else False,  # else it costs 10 ms
    )


def _trusting() -> ssl.SSLContext | bool:
    insecure = os.environ.get("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "").lower()
    if insecure in {"1", "true", "yes", "on"}:
        return False  # the user's own word to Prefect
    # Not the system's: Prefect and MLflow do not look there either.
    return ssl.create_default_context(
        cafile=os.environ.get("PREFECT_API_SSL_CERT_FILE") or certifi.where()
    )


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
