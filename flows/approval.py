"""A run that lacks only a person's yes: it is suspended until somebody answers in Prefect, and then
begins anew, where DVC skips what is done.

Suspended, a run has no process: its worker may end, and any worker goes on with it. Prefect keeps
what was asked by a key of ours, which names the version and the evidence, so that an answer belongs
to the version it was given for whatever has been trained since. Runs of no deployment, and those
within another run, cannot be suspended; there the version waits for `detectflow approve`.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from engine.config import Params
from engine.gates import read_gates
from engine.gates.approval import Approval
from engine.registry.history import waiting
from engine.registry.moves import approve, decline, history_of
from flows.decision import Standing, decision_markdown, standing_of

logger = logging.getLogger("detectflow")

# Prefect takes letters, digits and dashes: the model's name is written in hexadecimal digits.
KEY = re.compile(r"approve-(?P<version>\d+)-(?P<evidence>\w*)-(?P<name>[0-9a-f]+)")
SOMEBODY = "somebody in Prefect"  # who did not say who
DESCRIPTION_CHARACTERS = 20_000


class Answer(RunInput):
    """What the form asks."""

    approve: bool = Field(description="Make this version the champion?")
    why: str = Field("", description="For those who read the history.")
    by: str = Field("", description="Your name, for the history.")


def key_of(model: str, version: str, evidence: str) -> str:
    return f"approve-{version}-{evidence}-{model.encode().hex()}"


def enter_answers(root: Path) -> None:
    """Enter in the history what this run was answered while it was suspended. An answer is entered
    once: a version that waits for nobody any more stays as it is.

    Raises:
        WorkspaceError: the registry cannot be reached; the run can be started again.
    """
    for key in sorted(_asked()):
        match = KEY.fullmatch(key)
        if match is None:
            continue
        # It has been suspended with this key before, so this returns what was answered.
        answer: Any = suspend_flow_run(wait_for_input=Answer, key=key)
        name, version = bytes.fromhex(match["name"]).decode(), match["version"]
        if waiting(history_of(name, root)[0], version) is None:
            logger.info(
                "%s/%s waits for nobody any more; the answer changes nothing", name, version
            )
            continue
        say = approve if answer.approve else decline
        done = say(f"{name}/{version}", answer.why, root, by=answer.by.strip() or SOMEBODY)
        what = "approved" if answer.approve else "not approved"
        logger.info("%s/%s: %s by %s", name, version, what, done.entry.by)
        _say_left_behind(root, f"{name}/{version}", answer.approve)


def _say_left_behind(root: Path, reference: str, is_approved: bool) -> None:
    found = standing_of(root)
    if is_approved and found is not None and reference != f"{found.model}/{found.version}":
        logger.warning(
            "%s is approved, but this workspace has gone on to version %s: `detectflow promote %s` "
            "makes it champion",
            reference,
            found.version,
            reference,
        )


def ask_for_approval(found: Standing, params: Params, root: Path, since: str) -> None:
    """Suspend this run, if only a yes is missing after a decision that it has made itself; then
    this does not return. Else say how the version is approved.

    since: when this run began, ISO 8601, UTC.

    Raises:
        prefect.exceptions.Pause: the run is suspended; its process ends.
    """
    asked = found.waiting
    if asked is None:
        return
    key = key_of(found.model, found.version, asked.evidence)
    if not (_can_be_suspended() and _wants_to(params)) or key in _asked() or asked.at < since:
        logger.warning(
            "%s version %s waits for a person: `detectflow approve %s/%s`",
            found.model,
            found.version,
            found.model,
            found.version,
        )
        return
    text = decision_markdown(found, root)[:DESCRIPTION_CHARACTERS]
    suspend_flow_run(wait_for_input=Answer.with_initial_data(description=text), key=key)


def _asked() -> set[str]:
    """The keys by which this run has been suspended before."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return set(run.empirical_policy.pause_keys or ()) if run is not None else set()


def _can_be_suspended() -> bool:
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run is not None and run.deployment_id is not None and run.parent_task_run_id is None


def _wants_to(params: Params) -> bool:
    gates = read_gates(params.register_.gate) or ()
    return next((gate.suspend for gate in gates if isinstance(gate, Approval)), True)


def creator() -> str:
    """Who made this run of a deployment, as far as Prefect knows: a user, a schedule, an
    automation; else empty.
    """
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    by = run.created_by if run is not None and run.deployment_id is not None else None
    if by is None or not (by.display_value or by.type):
        return ""
    kind = (by.type or "").lower()
    if not by.display_value:
        return f"Prefect's {kind}"
    return by.display_value if kind == "user" else f"Prefect's {kind} '{by.display_value}'"
