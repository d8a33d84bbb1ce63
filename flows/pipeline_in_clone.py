"""The pipeline in a clone that is gone afterwards: data come by `dvc pull`, results go back by `dvc
push` and git.

For workers without a shared disk. The registry and the tracker are the team's
(MLFLOW_TRACKING_URI); files go to the DVC remote, parameters, lock and reports as one commit on a
branch of their own, to be reviewed and merged.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run as current_run

from engine.errors import WorkspaceError
from engine.project.environment import find_root, prepare_environment
from engine.project.redaction import hide
from flows.interrupts import cancelled_by_interrupt
from flows.logs import engine_logs
from flows.pipeline import pipeline
from flows.summary import Summary

logger = logging.getLogger("detectflow")

REMOTE_RETRIES = {"retries": 3, "retry_delay_seconds": [5, 30, 120]}
# What a remote that is out of reach says; everything else would say the same again.
NETWORK_SIGNS = (
    "timed out",
    "timeout",
    "connection",
    "temporarily",
    "could not resolve",
    "unreachable",
    "reset by peer",
    "connect call failed",
    "could not connect",
    "name or service not known",
    "name resolution",
    "no route to host",
    "failed to connect",
    "couldn't connect",
    "slow down",
    "slowdown",
    "service unavailable",
)
# What one says that is there and does not want us: it says so every time, whatever else stands
# beside it.
REFUSAL_SIGNS = (
    "permission denied",
    "access denied",
    "accessdenied",
    "forbidden",
    "authentication failed",
    "credentials",
    "invalidaccesskeyid",
    "invalid access key",
    "signaturedoesnotmatch",
    "could not read username",
)
NOISE = ("having any troubles?", "please make sure you have", "and the repository exists")
TRAILER = "DetectFlow-Branch"  # line of a commit message: the branch that this flow made it for
THERE = "refs/detectflow/there"  # what the remote's branch was when we looked
HOW_REMOTES = " (docs/data/remotes.md shows how)"


class RemoteUnreachable(WorkspaceError):
    """A remote that may answer later."""


def may_answer_later(_task: Any, _run: Any, state: Any) -> bool:
    """Whether another try may help."""
    return isinstance(state.data, RemoteUnreachable)


@cancelled_by_interrupt
@flow(name="pipeline-in-clone", persist_result=False)
def pipeline_in_clone(
    dataset: str | None = None,
    start: str | None = None,
    overrides: dict[str, Any] | None = None,
    branch: str | None = None,
) -> Summary:
    """The pipeline in the clone of the working directory.

    Args:
        dataset, start, overrides: as in the flow `pipeline`.
        branch: where the results are committed, by default results/<name of the run>. One that is
            there already is replaced only if this flow made it.

    Raises:
        WorkspaceError: no DVC remote (the weights would be lost with the clone), a branch that
            somebody else made, a remote that does not answer or refuses.
    """
    root = prepare_environment(find_root())
    require_remote(root)
    branch = branch or f"results/{current_run.name or 'run'}"
    with engine_logs():
        check_branch(str(root), branch)  # before hours of training
        pull(str(root))
    summary = pipeline(str(root), overrides=overrides, dataset=dataset, start=start)
    with engine_logs():
        push(str(root))
        publish(str(root), branch, summary.name)
    return summary


def require_remote(root: Path) -> None:
    """WorkspaceError unless a default DVC remote is configured."""
    if not output_of(root, [sys.executable, "-m", "dvc", "config", "core.remote"]).strip():
        raise WorkspaceError(
            "this repository has no default DVC remote, so the weights would be gone with the "
            "clone. `dvc remote add --default NAME ADDRESS`, commit .dvc/config, and run again."
        )


@task(
    name="check branch",
    task_run_name="check branch",
    cache_policy=NO_CACHE,
    retry_condition_fn=may_answer_later,
    **REMOTE_RETRIES,
)
def check_branch(root: str, branch: str) -> None:
    """Refuse a branch that this flow may not write."""
    replaceable(Path(root), branch)


def replaceable(root: Path, branch: str) -> str:
    """The commit that the remote's branch is at, which this flow made; empty where there is none.

    Raises:
        WorkspaceError: no name of a branch, or the newest commit there is somebody else's.
    """
    checked = subprocess.run(
        ["git", "check-ref-format", "--branch", branch], cwd=root, capture_output=True
    )
    if checked.returncode or branch.startswith("-"):
        raise WorkspaceError(f"branch={branch}: no name that git takes for a branch")
    found = output_of(root, ["git", "ls-remote", "origin", f"refs/heads/{branch}"]).split()
    if not found:
        return ""
    output_of(
        root,
        ["git", "fetch", "--quiet", "--no-tags", "origin", f"+refs/heads/{branch}:{THERE}"],
    )
    form = f"--format=%H%n%(trailers:key={TRAILER},valueonly)"
    commit, *made_for = output_of(root, ["git", "log", "-1", form, THERE]).split()
    if made_for != [branch]:
        raise WorkspaceError(
            f"branch '{branch}' is on the remote already, and its newest commit ({commit[:12]}) is "
            "not of an earlier run of this flow for this branch: replacing it would destroy "
            "somebody's work. Take another name, or leave it out: the results then go to "
            "results/<name of the run>, to be merged where they belong."
        )
    return commit


@task(
    name="pull",
    task_run_name="pull",
    cache_policy=NO_CACHE,
    retry_condition_fn=may_answer_later,
    **REMOTE_RETRIES,
)
def pull(root: str) -> None:
    """Bring what dvc.lock names; what the remote does not have is made again by its stage."""
    said = output_of(
        Path(root), [sys.executable, "-m", "dvc", "pull", "--allow-missing", "--run-cache"]
    )
    logger.info("dvc pull: %s", last_line(said) or "nothing to bring")


@task(
    name="push",
    task_run_name="push",
    cache_policy=NO_CACHE,
    retry_condition_fn=may_answer_later,
    **REMOTE_RETRIES,
)
def push(root: str) -> None:
    """Send data, weights and exports to the remote."""
    said = output_of(Path(root), [sys.executable, "-m", "dvc", "push", "--run-cache"])
    logger.info("dvc push: %s", last_line(said) or "nothing to send")


@task(
    name="publish",
    task_run_name="publish",
    cache_policy=NO_CACHE,
    retry_condition_fn=may_answer_later,
    **REMOTE_RETRIES,
)
def publish(root: str, branch: str, what: str) -> str | None:
    """Commit parameters, lock and reports on `branch` and push it; the commit, or None when nothing
    has changed. Raises as `replaceable` does: the branch may have come while the run went on.
    """
    folder = Path(root)
    there = replaceable(folder, branch)
    output_of(folder, ["git", "checkout", "--quiet", "-B", branch])
    output_of(folder, ["git", "add", "--all"])
    if output_of(folder, ["git", "status", "--porcelain"]).strip():
        message = f"Results: {what}\n\n{TRAILER}: {branch}"
        output_of(folder, ["git", *identity(folder), "commit", "--quiet", "-m", message])
    elif not output_of(
        folder, ["git", "log", "--oneline", "HEAD", "--not", "--remotes"]
    ).strip():  # else: an earlier try's
        logger.info("nothing has changed: no commit")
        return None
    # The lease is what we looked at, not what a fresh clone happens to know; empty: no such branch.
    lease = f"--force-with-lease=refs/heads/{branch}:{there}"
    output_of(folder, ["git", "push", "--quiet", lease, "origin", f"HEAD:refs/heads/{branch}"])
    commit = output_of(folder, ["git", "rev-parse", "--short", "HEAD"]).strip()
    logger.info("results are commit %s on branch %s", commit, branch)
    return commit


def identity(root: Path) -> list[str]:
    """git's options for a worker that has no name of its own."""
    known = (
        subprocess.run(["git", "config", "user.email"], cwd=root, capture_output=True).returncode
        == 0
    )
    return (
        []
        if known
        else ["-c", "user.name=DetectFlow worker", "-c", "user.email=detectflow@localhost"]
    )


def output_of(root: Path, command: Sequence[str]) -> str:
    """What a command prints.

    Raises:
        RemoteUnreachable: it failed for want of a network. WorkspaceError: it failed; both with its
            last lines.
    """
    done = subprocess.run(
        command,
        cwd=root,
        text=True,
        capture_output=True,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
    )
    if done.returncode == 0:
        return done.stdout
    raise failure(root, command, (done.stderr or done.stdout).strip())


def failure(root: Path, command: Sequence[str], said: str) -> WorkspaceError:
    """The error of a command that failed: its last lines, the remotes it may have asked, and what
    to do.
    """
    ours = command[0] == sys.executable
    name = " ".join(["dvc", *command[3:]] if ours else command)
    lines = [
        line.strip()
        for line in said.splitlines()
        if line.strip() and not line.strip().lower().startswith(NOISE)
    ]
    message = " ".join(line.removeprefix("ERROR: ") for line in lines[-3:])
    refused = any(sign in said.lower() for sign in REFUSAL_SIGNS)
    unreachable = not refused and any(sign in said.lower() for sign in NETWORK_SIGNS)
    advice = ""
    if refused or unreachable:
        asking = (
            [sys.executable, "-m", "dvc", "remote", "list"] if ours else ["git", "remote", "-v"]
        )
        known = subprocess.run(asking, cwd=root, text=True, capture_output=True).stdout
        places = "; ".join(dict.fromkeys(" ".join(line.split()[:2]) for line in known.splitlines()))
        what = (
            "The remote refuses this user: give the worker its key or credentials"
            if refused
            else "Check its address and that its machine answers"
        )
        advice = (
            f" Remotes: {places or 'none'}. {what}{HOW_REMOTES if ours else ''}, then run again."
        )
    return (RemoteUnreachable if unreachable else WorkspaceError)(
        hide(f"`{name}` failed in {root}: {message}.{advice}")
    )


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
