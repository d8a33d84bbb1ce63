"""The deployments of prefect.yaml served from this process: no work pool, no worker, runs are its
children.

The same definitions as `detectflow deploy` registers, so there is no second list. What works in a
fresh clone is left out: serving has no step that clones.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from engine.errors import ConfigError
from flows.automations import make_automations
from flows.deploy import DEFINITIONS, NEEDS_REPOSITORY, choose, definitions

logger = logging.getLogger("detectflow")


def serve_deployments(root: Path, wanted: Sequence[str] = (), limit: int | None = None) -> None:
    """Register deployments by name, by default all that can be served, and run what is due until
    Ctrl-C.

    limit: runs at a time in this process, each a process of its own; none by default.

    Raises:
        ConfigError: an unknown name, or one that works in a clone.
    """
    os.chdir(root)  # entrypoints are seen from here, by this process and by the runs
    known = definitions(root)
    for each in known:
        if each["name"] in wanted and NEEDS_REPOSITORY in each.get("tags", ()):
            raise ConfigError(
                f"deployment '{each['name']}' works in a fresh clone and cannot be served: "
                "`detectflow worker` can"
            )
    names, _ = choose(root, wanted, repository=None)
    chosen = [each for each in known if each["name"] in names]
    deployments = [as_served(each) for each in chosen]
    for deployment in deployments:
        _tell_taken_over(f"{deployment.flow_name}/{deployment.name}")
        _take_from_pool(deployment.apply())
    make_automations(names)
    logger.info("serving %s", ", ".join(f"{each.flow_name}/{each.name}" for each in deployments))
    serve(*deployments, limit=limit, print_starting_message=False)


def as_served(definition: dict[str, Any]) -> RunnerDeployment:
    """One deployment of prefect.yaml without its pool and its pull steps."""
    limit = definition.get("concurrency_limit")
    return _flow(definition).to_deployment(
        name=definition["name"],
        description=definition.get("description"),
        tags=definition.get("tags"),
        parameters=definition.get("parameters"),
        schedules=[_schedule(definition, each) for each in definition.get("schedules") or ()]
        or None,
        concurrency_limit=ConcurrencyLimitConfig(**limit) if isinstance(limit, dict) else limit,
    )


def _flow(definition: dict[str, Any]) -> Any:
    file, _, name = definition["entrypoint"].partition(":")
    try:
        return getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(
            f"{DEFINITIONS}: deployment '{definition['name']}': entrypoint "
            f"{definition['entrypoint']}: {error}"
        ) from None


def _schedule(definition: dict[str, Any], given: Any) -> dict[str, Any]:
    """One entry of `schedules`, which names `cron`, `interval` (seconds) or `rrule`, as Prefect's
    files do.
    """
    kinds = {"cron": CronSchedule, "interval": IntervalSchedule, "rrule": RRuleSchedule}
    kind = next((key for key in kinds if isinstance(given, dict) and given.get(key)), None)
    place = f"{DEFINITIONS}: deployment '{definition['name']}'"
    if kind is None:
        raise ConfigError(f"{place}: a schedule needs one of {', '.join(kinds)}, got {given}")
    fields = {
        key: given[key]
        for key in (kind, "timezone", "anchor_date", "day_or")
        if given.get(key) is not None
    }
    try:
        return {"schedule": kinds[kind](**fields), "active": given.get("active", True)}
    except ValidationError as error:
        raise ConfigError(f"{place}: schedule {given}: {error.errors()[0]['msg']}") from None


def _take_from_pool(deployment_id: Any) -> None:
    """What `detectflow deploy` registered before is in the way: the pool, whose workers would run
    it too, and its place.
    """
    with get_client(sync_client=True) as client:
        client.update_deployment(
            deployment_id, DeploymentUpdate(path=".", work_pool_name=None, pull_steps=None)
        )


def _tell_taken_over(name: str) -> None:
    """A server has one deployment of a name: say so where it was one for workers."""
    with get_client(sync_client=True) as client:
        try:
            pool = client.read_deployment_by_name(name).work_pool_name
        except ObjectNotFound:
            return
    if pool:
        logger.warning(
            "%s was run by workers of the pool '%s'; now it runs here. `make deploy` gives it "
            "back.",
            name,
            pool,
        )
