"""deploy, worker, serve, prefect: the pipeline as deployments of a Prefect server that stays, and
who runs them here.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.config import parse_overrides
from engine.errors import ConfigError, nearest
from engine.project.environment import prepare_environment
from engine.project.server_login import share_login
from engine.project.workspace_lock import require_writable

POOL = "detectflow"
WITHOUT_SERVER = {
    "server",
    "config",
    "profile",
    "version",
    "--version",
    "-v",
}  # arguments of `prefect` that ask none


def deploy(argv: Sequence[str]) -> int:
    """`detectflow deploy [NAME ...]`"""
    root = prepare_environment()
    from flows import deploy as deployments

    server = deployments.use_server(root)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("detectflow").setLevel(logging.INFO)
    names, left_out = deployments.deploy(root, argv)
    print(f"Registered at {server.removesuffix('/api')}: {', '.join(names)}")
    if left_out:
        print(
            f"Left out, as no git remote 'origin' and no {deployments.REPOSITORY} says what to "
            f"clone: {', '.join(left_out)}"
        )
    print("Start a worker with `make worker`, and a run from the UI or, for example:")
    print(
        """  detectflow prefect deployment run pipeline/train -p overrides='{"train.epochs": 5}'"""
    )
    return 0


def worker(argv: Sequence[str]) -> int:
    """`detectflow worker [--pool NAME] [--limit N] ...`: what follows goes to `prefect worker
    start`.
    """
    if argv and not argv[0].startswith("-"):
        raise ConfigError(
            f"worker takes options of `prefect worker start`, got '{argv[0]}'. `detectflow help "
            "worker`"
        )
    root = prepare_environment()
    require_writable(root)
    from flows.deploy import use_server

    use_server(root)
    _check_pool(argv)
    _own_programs_first()
    pool = [] if any(arg.split("=")[0] in {"--pool", "-p"} for arg in argv) else ["--pool", POOL]
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        *pool,
        "--type",
        "process",
        *argv,
    ]
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a script's `&` leaves it ignored, and Prefect ends by it
    sys.stdout.flush()
    os.chdir(root)
    os.execv(sys.executable, command)


def prefect(argv: Sequence[str]) -> int:
    """`detectflow prefect ...`: Prefect's own command, with this project's server and settings."""
    root = prepare_environment()
    if argv and argv[0] not in WITHOUT_SERVER:
        from flows.deploy import use_server

        use_server(root)
    share_login()  # `server start` has the login that clients here send
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "prefect", *argv])


def serve(argv: Sequence[str]) -> int:
    """`detectflow serve [NAME ...] [limit=N]`"""
    given = parse_overrides([arg for arg in argv if "=" in arg])
    limit = given.pop("limit", None)
    if given:
        raise ConfigError(
            "serve takes names of deployments and limit=N, got "
            f"'{next(iter(given))}'.{nearest(next(iter(given)), ['limit'])}"
        )
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise ConfigError(f"serve: limit={limit}: a number of runs from 1 on")
    root = prepare_environment()
    require_writable(root)
    from flows.deploy import use_server

    server = use_server(root)
    _own_programs_first()
    from flows.deploy import choose
    from flows.serve import serve_deployments

    choose(root, names := [arg for arg in argv if "=" not in arg], repository="any")

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("detectflow").setLevel(logging.INFO)
    print(f"At {server.removesuffix('/api')}, until Ctrl-C:", flush=True)
    serve_deployments(root, names, limit)
    return 0


def _own_programs_first() -> None:
    """git steps, `prefect` and `dvc` of the runs are those of this project's environment."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def _check_pool(argv: Sequence[str]) -> None:
    """ConfigError for a pool that the server does not have: `prefect worker start` would make it,
    and wait for ever.
    """
    wanted = next((after for arg, after in zip(argv, argv[1:]) if arg in {"--pool", "-p"}), None)
    wanted = wanted or next(
        (arg.partition("=")[2] for arg in argv if arg.startswith("--pool=")), POOL
    )
    from flows.automations import known_pools

    pools = known_pools()
    if wanted not in pools:
        there = f"There are: {', '.join(pools)}. " if pools else "There is none yet. "
        raise ConfigError(
            f"the Prefect server has no work pool '{wanted}'.{nearest(wanted, pools)} "
            f"{there}`detectflow deploy` makes those of prefect.yaml; another is made with "
            "`detectflow prefect work-pool create --type process NAME`."
        )
