"""The events about a registered model that Prefect gets: promoted, held, rejected, rolled back.

A flow sends them with its own run beside them (`automations.emit`); a command has no run, and posts
them to the server itself, without importing prefect, which costs seconds. Either way nothing that
was decided depends on it.
"""

from __future__ import annotations

import datetime
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import EngineError
from engine.project.environment import state_root
from engine.project.redaction import hide, prefect_login
from engine.registry.history import APPROVAL, DECISIONS, Entry, What
from flows.processes import post
from flows.server import noted_address

logger = logging.getLogger("detectflow")

PROMOTED, HELD, REJECTED, ROLLED_BACK = (
    f"detectflow.model.{what}" for what in ("promoted", "held", "rejected", "rolled-back")
)
EVENT = {
    What.PROMOTED: PROMOTED,
    What.HELD: HELD,
    What.REJECTED: REJECTED,
    What.ROLLED_BACK: ROLLED_BACK,
}
TIMEOUT_S = 2.0  # of a command's post: nobody waits longer for the sake of a message


def event_of(model: str, entry: Entry, aliases: Mapping[str, str]) -> dict[str, Any] | None:
    """The event of an entry of the history, as values; None for what no event is made of.

    aliases: of the model, as the registry says now.
    """
    name = EVENT.get(entry.what)
    if name is None:
        return None
    versions = {"model-version": entry.version, "version-before": entry.before}
    return {
        "event": name,
        "resource": {
            "prefect.resource.id": f"detectflow.model.{model}",
            "prefect.resource.name": model,
        },
        "related": [
            {
                "prefect.resource.id": f"detectflow.model.{model}.{version}",
                "prefect.resource.name": f"{model}/{version}",
                "prefect.resource.role": role,
            }
            for role, version in versions.items()
            if version
        ],
        "payload": {
            "text": text_of(model, entry),
            "model": model,
            "version": entry.version,
            "before": entry.before,  # the champion until then
            "champion": aliases.get("champion", ""),  # now
            "why": entry.why,
            "by": entry.by,
            "decided": "by the gates" if entry.what in DECISIONS and entry.evidence else "by hand",
            "waits_for_approval": entry.waits_for == APPROVAL,
        },
    }


def text_of(model: str, entry: Entry) -> str:
    """For a chat: `detector version 3 promoted, instead of version 2: why`."""
    said = f": {entry.why}" if entry.why else ""
    if entry.what in {What.HELD, What.REJECTED}:
        asks = entry.waits_for == APPROVAL
        how = f" (detectflow approve {model}/{entry.version})" if asks else ""
        return f"{model} version {entry.version}{said}{how}"
    instead = f", instead of version {entry.before}" if entry.before else ""
    again = "champion again" if entry.what == What.ROLLED_BACK else "promoted"
    return f"{model} version {entry.version} {again}{instead}{said}"


def post_event(model: str, entry: Entry, aliases: Mapping[str, str], root: Path) -> bool:
    """Tell the Prefect server that PREFECT_API_URL names, or that `detectflow ui` runs, of a move
    that was made; whether it was told. A server that is not there, or refuses, is only said.
    """
    event = event_of(model, entry, aliases)
    noted = noted_address(state_root(root), "prefect")
    api = os.environ.get("PREFECT_API_URL") or (f"{noted}/api" if noted else None)
    if event is None or api is None:
        return False
    key = os.environ.get("PREFECT_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else prefect_login()
    now = datetime.datetime.now(datetime.UTC).isoformat()
    body = [{**event, "id": str(uuid.uuid4()), "occurred": now}]
    try:
        post(f"{api.rstrip('/')}/events", body, TIMEOUT_S, headers)
    except EngineError as error:
        if os.environ.get("PREFECT_API_URL"):  # else the UI was closed, and is not expected
            logger.warning("Prefect at %s was not told: %s", hide(api), error)
        return False
    return True
