"""A Dask cluster for the tasks of a flow: the one at an address, or worker processes here for as
long as the flow runs.

A remote cluster is asked first whether it can do the work at all: that its workers are there, see
the same files, have the same software and reach the Prefect server. All of that would else end in
errors that are hard to read, or in silence.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from prefect.task_runners import TaskRunner

from engine.datasets import formats
from engine.errors import ConfigError
from flows.processes import answers

CONNECT_TIMEOUT = "5s"
HOW_TO_START = "`dask scheduler` starts one, `dask worker {address} --nthreads 1` its workers"
IMAGE_PACKAGES = (
    "pillow",
    "opencv-python-headless",
    "numpy",
)  # what decoded pixels and their hashes depend on


def dask_runner(scheduler: str | None, workers: int, section: str = "") -> TaskRunner[Any]:
    """The task runner of the cluster at `scheduler`, or of `workers` processes here, each with one
    thread.

    section: what stands before `runner` and `scheduler` where the user sets them, for example
    "flows.prepare.".

    Raises:
        ConfigError: Dask is not installed, no scheduler answers, or it has no workers.
    """
    try:
        import distributed
        from prefect_dask import DaskTaskRunner
    except ImportError:
        raise ConfigError(
            f"{section}runner=dask needs prefect-dask: pip install 'detectflow[cluster]'"
        ) from None
    logging.getLogger("distributed").setLevel(logging.WARNING)  # else a line for every connection
    if not scheduler:
        return DaskTaskRunner(
            cluster_kwargs={
                "n_workers": workers,
                "threads_per_worker": 1,
                "dashboard_address": "127.0.0.1:0",
                # in the project, not wherever the command was called
                "local_directory": str(Path(os.environ["DETECTFLOW_STATE"]) / ".cache" / "dask"),
            }
        )
    how = HOW_TO_START.format(address=scheduler)
    try:
        with distributed.Client(scheduler, timeout=CONNECT_TIMEOUT, set_as_default=False) as client:
            there = client.nthreads()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{section}scheduler={scheduler}: no Dask scheduler answers there ({error}); {how}"
        ) from None
    if not there:
        raise ConfigError(
            f"{section}scheduler={scheduler}: this Dask scheduler has no workers; {how}"
        )
    return DaskTaskRunner(address=scheduler)


def check_workers(scheduler: str, root: Path, section: str = "") -> None:
    """ConfigError unless every worker of the cluster sees the folder `root` and a Prefect server,
    and has our software.
    """
    import distributed

    url = os.environ.get("PREFECT_API_URL", "")
    here = about(str(root), url)
    with distributed.Client(scheduler, timeout=CONNECT_TIMEOUT, set_as_default=False) as client:
        found = client.run(about, str(root), url, on_error="return")
    for address, there in found.items():
        where = f"{section}scheduler={scheduler}: its worker {address}"
        if not isinstance(there, dict):
            raise ConfigError(
                f"{where} cannot run this project's code ({there!r}): install the same version of "
                "it there"
            )
        where += f" on {there['host']}"
        other = [
            f"{name} {there['software'].get(name)}, here {version}"
            for name, version in here["software"].items()
            if there["software"].get(name) != version
        ]
        if other:
            raise ConfigError(
                f"{where} has other software, so its results may differ: {'; '.join(other)}"
            )
        if not there["sees"]:
            raise ConfigError(
                f"{where} does not see {root}: all machines need the project and the dataset in "
                "the same folders"
            )
        if url and not there["reaches"]:
            raise ConfigError(
                f"{where} does not reach the Prefect server at {url}. Start one that all machines "
                "reach and name it in PREFECT_API_URL"
            )


def about(root: str, url: str) -> dict[str, Any]:
    """What a process on a worker knows and sees."""
    versions = {}
    for package in IMAGE_PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    data = Path(formats.__file__).parents[1]
    code = hashlib.sha256(
        b"".join(file.read_bytes() for file in sorted(data.rglob("*.py")))
    ).hexdigest()[:12]
    return {
        "host": platform.node(),
        "software": {
            **versions,
            "python": platform.python_version(),
            "code of engine/datasets": code,
        },
        "sees": Path(root, "params.yaml").is_file(),
        "reaches": bool(url) and answers(f"{url}/health"),
    }
