"""What the Prefect server does by itself in this project: see that a run has died, and act on the
pipeline's own events.

    detectflow: silent run has crashed     on; a power loss leaves no other trace, and keeps the
                                           run's place taken
    detectflow: retrain on new data        off; starts the deployment `train` when a dataset has
                                           changed
    detectflow: tell of a held model       only with DETECTFLOW_WEBHOOK_URL; posts the reason there,
                                           also where it was rejected
    detectflow: tell of a new champion     likewise; promoted, or rolled back

Which of them are on is chosen in the server's UI: an automation that is there already is left as
somebody has set it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from prefect.automations import Automation
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound

from engine.registry.history import Entry
from flows.events import HELD, PROMOTED, REJECTED, ROLLED_BACK, event_of

logger = logging.getLogger("detectflow")

DATASET_CHANGED = "detectflow.dataset.changed"
CHAMPION_WORSE = "detectflow.champion.worse"
SILENT_FOR = timedelta(seconds=90)  # three heartbeats: PREFECT_FLOWS_HEARTBEAT_FREQUENCY is 30 s
HEARTBEAT = "prefect.flow-run.heartbeat"
ENDED = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
WEBHOOK, WEBHOOK_VARIABLE = "detectflow-webhook", "DETECTFLOW_WEBHOOK_URL"


def emit_decision(model: str, entry: Entry, aliases: Mapping[str, str]) -> None:
    """The event of an entry of the history, with the flow run that is under way beside it."""
    values = event_of(model, entry, aliases)
    if values is not None:
        emit_event(**values)


def emit(event: str, resource: str, **payload: Any) -> None:
    """Send an event of ours to the server; `resource` is what it is about, for example
    "dataset.digits".
    """
    emit_event(
        event=event, resource={"prefect.resource.id": f"detectflow.{resource}"}, payload=payload
    )


def emit_dataset_changed(name: str, *, digest: str | None, before: str | None) -> None:
    """The event that starts a training where that automation is switched on; returns when it has
    been sent.

    digest, before: of the dataset as it is and as it was.
    """
    emit(DATASET_CHANGED, f"dataset.{name}", digest=digest, before=before)
    EventsWorker.drain_all()


def make_pool(name: str) -> None:
    """A process work pool of this name, unless there is one."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(
                WorkPoolCreate(
                    name=name, type="process", description="DetectFlow: runs on this machine"
                )
            )


def known_pools() -> list[str]:
    """The work pools of the server."""
    with get_client(sync_client=True) as client:
        return [pool.name for pool in client.read_work_pools()]


def make_automations(deployments: Collection[str]) -> None:
    """The automations above, as far as they can be had; `deployments` are those that are
    registered.
    """
    with get_client(sync_client=True) as client:
        _make(client, silent_run())
        if "train" in deployments:
            _make(client, retrain(client.read_deployment_by_name("pipeline/train").id))
        url = os.environ.get(WEBHOOK_VARIABLE)
        if url:
            webhook = _webhook(url)
            _make(client, held(webhook))
            _make(client, new_champion(webhook))


def silent_run(silent_for: timedelta = SILENT_FOR) -> Automation:
    """A run whose heartbeats end without an end of the run has crashed."""
    return Automation(
        name="detectflow: silent run has crashed",
        description=f"No heartbeat for {silent_for.seconds} s: its process or machine has gone. A "
        "new run goes on from there.",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={HEARTBEAT, *ENDED},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silent_for,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED, message="it went silent: its process or machine has gone"
            )
        ],
    )


def retrain(deployment_id: Any) -> Automation:
    """A changed dataset starts the pipeline: the way from labelling to a new model without a
    hand.
    """
    return Automation(
        name="detectflow: retrain on new data",
        description="Starts the deployment `train` when a dataset has changed. Switch it on where "
        "that is wanted.",
        enabled=False,
        trigger=EventTrigger(
            expect={DATASET_CHANGED}, posture=Posture.Reactive, threshold=1, within=timedelta(0)
        ),
        actions=[RunDeployment(deployment_id=deployment_id)],
    )


def held(webhook_id: Any) -> Automation:
    """Sends a chat or a pager that a new version was not made champion, and why."""
    return _tell(
        "detectflow: tell of a held model",
        "Posts the reason when a new version is held back or rejected.",
        {HELD, REJECTED},
        webhook_id,
    )


def new_champion(webhook_id: Any) -> Automation:
    """Sends the same place that another version is champion, and why."""
    return _tell(
        "detectflow: tell of a new champion",
        "Posts which version is champion now when one is promoted or rolled back to.",
        {PROMOTED, ROLLED_BACK},
        webhook_id,
    )


def _tell(name: str, description: str, events: set[str], webhook_id: Any) -> Automation:
    return Automation(
        name=name,
        description=description,
        trigger=EventTrigger(
            expect=events, posture=Posture.Reactive, threshold=1, within=timedelta(0)
        ),
        actions=[
            CallWebhook(
                block_document_id=webhook_id, payload='{"text": {{ event.payload.text | tojson }}}'
            )
        ],
    )


def _webhook(url: str) -> Any:
    """The id of the block that holds the address; a new address replaces the old one."""
    return Webhook(method="POST", url=url, allow_private_urls=True).save(WEBHOOK, overwrite=True)


def _make(client: SyncPrefectClient, automation: Automation) -> None:
    if client.read_automations_by_name(automation.name):
        return
    automation.create()
    state = "on" if automation.enabled else "off"
    logger.info("automation '%s' made, switched %s", automation.name, state)
