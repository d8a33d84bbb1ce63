"""A real Prefect server for tests, as a process of its own."""

import sys
from collections.abc import Mapping
from pathlib import Path

from flows.processes import LOOPBACK, Child, free_port


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
