"""deploy and worker: the pipeline as deployments of a Prefect server that stays, and the process that runs them here."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.errors import ConfigError
from engine.tracking.environment import prepare_environment

POOL = "detectflow"


def deploy(words: Sequence[str]) -> int:
    """`detectflow deploy [NAME ...]`"""
    root = prepare_environment()
    from flows import deploy as deployments

    server = deployments.use_server(root)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("detectflow").setLevel(logging.INFO)
    names, left_out = deployments.deploy(root, words)
    print(f"Registered at {server.removesuffix('/api')}: {', '.join(names)}")
    if left_out:
        print(f"Left out, as no git remote 'origin' and no {deployments.REPOSITORY} says what to clone: {', '.join(left_out)}")
    print("Start a worker with `make worker`, and a run from the UI or, for example:")
    print("""  prefect deployment run pipeline/train -p overrides='{"train.epochs": 5}'""")
    return 0


def worker(words: Sequence[str]) -> int:
    """`detectflow worker [--pool NAME] [--limit N] ...`: what follows goes to `prefect worker start`."""
    if words and not words[0].startswith("-"):
        raise ConfigError(f"worker takes options of `prefect worker start`, got '{words[0]}'. `detectflow help worker`")
    root = prepare_environment()
    from flows.deploy import use_server

    use_server(root)
    environment_bin = str(Path(sys.executable).parent)
    os.environ["PATH"] = f"{environment_bin}{os.pathsep}{os.environ.get('PATH', '')}"  # git steps and dvc of this project
    pool = [] if "--pool" in words or "-p" in words else ["--pool", POOL]
    command = [sys.executable, "-m", "prefect", "worker", "start", *pool, "--type", "process", *words]
    sys.stdout.flush()
    os.chdir(root)
    os.execv(sys.executable, command)
