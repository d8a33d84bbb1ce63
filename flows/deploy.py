"""Deployments of this project on a Prefect server: registered from prefect.yaml, with a work pool
and automations.

`deploy` may be called as often as one likes: what is there is brought up to date. Needs a server
that stays (a temporary one would forget everything): PREFECT_API_URL, or the one that `detectflow
ui` runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, WorkspaceError, nearest
from engine.project.environment import state_root
from engine.settings.base import load_yaml
from engine.tracking.run_metadata import git
from flows.server import check_answers, check_prefect, find_running

DEFINITIONS = "prefect.yaml"
WORKSPACE, REPOSITORY, BRANCH = "DETECTFLOW_WORKSPACE", "DETECTFLOW_REPOSITORY", "DETECTFLOW_BRANCH"
NEEDS_REPOSITORY = "clone"  # tag of the deployments that work in a fresh clone


def use_server(root: Path) -> str:
    """The API address of a server that stays; set for prefect's import.

    Raises:
        WorkspaceError: there is none, or its login or version is wrong.
    """
    url = os.environ.get("PREFECT_API_URL") or find_running(state_root(root))
    if not url:
        raise WorkspaceError(
            "deployments need a Prefect server that stays. Start one with `make ui` in another "
            "terminal, or name your team's: PREFECT_API_URL=http://host:4200/api (also in .env)."
        )
    check_answers(url)
    check_prefect(url)
    os.environ["PREFECT_API_URL"] = url
    return url


def definitions(root: Path) -> list[dict[str, Any]]:
    """The deployments of prefect.yaml, as they stand there. ConfigError: not a list of named ones
    with an entrypoint each.
    """
    file = root / DEFINITIONS
    found = load_yaml(file).get("deployments") or []
    if not found:
        raise ConfigError(f"{file}: no deployments in it")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise ConfigError(
            f"{file}: `deployments` must be a list, each entry with name, entrypoint and work_pool"
        )
    for number, each in enumerate(found, 1):
        missing = next(
            (key for key in ("name", "entrypoint") if not isinstance(each.get(key), str)), None
        )
        if missing:
            raise ConfigError(
                f"{file}: deployment {number} ({each.get('name', 'without name')}) has no {missing}"
            )
        if "schedule" in each:
            raise ConfigError(
                f"{file}: deployment '{each['name']}': `schedule` is not read; write a list, "
                "`schedules`"
            )
    return found


def _pool(definition: dict[str, Any]) -> str:
    pool = definition.get("work_pool")
    if not isinstance(pool, dict) or not pool.get("name"):
        raise ConfigError(
            f"{DEFINITIONS}: deployment '{definition['name']}' has no work_pool with a name"
        )
    return pool["name"]


def choose(
    root: Path, wanted: Sequence[str], repository: str | None
) -> tuple[list[str], list[str]]:
    """(names to register, names left out because no repository is known).

    Raises:
        ConfigError: an unknown name, or one that needs a repository.
    """
    known = {
        each["name"]: NEEDS_REPOSITORY in (each.get("tags") or ()) for each in definitions(root)
    }
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"{DEFINITIONS} has no deployment '{name}'.{nearest(name, known)} There are: "
                f"{', '.join(known)}"
            )
        if known[name] and not repository:
            raise ConfigError(
                f"deployment '{name}' works in a fresh clone and needs to know of what: this "
                f"project has no git remote 'origin'. Set {REPOSITORY} to the repository's address "
                "and run it again."
            )
    names = list(wanted) or list(known)
    left_out = [name for name in names if known[name] and not repository]
    return [name for name in names if name not in left_out], left_out


def deploy(root: Path, wanted: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Register deployments by name, by default all; (registered, left out for want of a
    repository).

    Raises:
        ConfigError, WorkspaceError: see `use_server`, `choose`; Prefect refused, with its message.
    """
    use_server(root)
    repository = os.environ.get(REPOSITORY) or git(root, "remote", "get-url", "origin")
    names, left_out = choose(root, wanted, repository)
    environment = {
        WORKSPACE: str(root),
        REPOSITORY: repository or "",
        BRANCH: os.environ.get(BRANCH) or git(root, "branch", "--show-current") or "main",
    }
    pools = {_pool(each) for each in definitions(root) if each["name"] in names}
    from flows.automations import make_automations, make_pool

    for pool in sorted(pools):
        make_pool(pool)
    options = [word for name in names for word in ("--name", name)]
    command = [
        sys.executable,
        "-m",
        "prefect",
        "--no-prompt",
        "deploy",
        "--prefect-file",
        DEFINITIONS,
        *options,
    ]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, **environment}, text=True, capture_output=True
    )
    if done.returncode:
        last_lines = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        raise WorkspaceError(f"Prefect did not take the deployments:\n  {last_lines}")
    make_automations(names)
    return names, left_out
