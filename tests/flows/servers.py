"""A real Prefect server for tests, as a process of its own."""

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.processes import LOOPBACK, Child, free_port

PATIENCE_S = 240.0


def ask_prefect(url: str, body: Any = None, method: str | None = None) -> Any:
    """The server's answer. Asked again while its SQLite is busy (503), as Prefect's own client does.

    Raises:
        urllib.error.HTTPError: it refuses, or is busy for ever.
    """
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(1)


def start_prefect(
    log: Path, env: Mapping[str, str], *options: str, port: int | None = None
) -> tuple[Child, str]:
    """(the process, the address of its API) once it answers; `env` is added to ours."""
    port = port or free_port()
    url = f"http://{LOOPBACK}:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui", *options]
    command += ["--host", LOOPBACK, "--port", str(port)]
    child = Child("The Prefect server", command, log, {**env, "PREFECT_API_URL": url})
    try:
        child.wait_until_it_answers(f"{url}/health", 120)
    except BaseException:
        child.stop()
        raise
    return child, url
