"""A real Prefect server for tests, as a process of its own."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.processes import LOOPBACK, Child, free_port
from flows.server import server_command

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
    log: Path, env: Mapping[str, str], services: bool = True, port: int | None = None
) -> tuple[Child, str]:
    """(the process, the address of its API) once it answers, started as `detectflow ui` does it but
    for its pages; `env` is added to ours.
    """
    port = port or free_port()
    url = f"http://{LOOPBACK}:{port}/api"
    own = {"PREFECT_API_URL": url, "PREFECT_SERVER_UI_ENABLED": "false"}
    if not services:
        own["PREFECT__SERVER_WEBSERVER_ONLY"] = "1"
    child = Child("The Prefect server", server_command(port), log, {**env, **own})
    try:
        child.wait_until_it_answers(f"{url}/health", 120)
    except BaseException:
        child.stop()
        raise
    return child, url
