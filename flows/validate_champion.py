"""Flow validate-champion: the registered champion on the dataset as it is today, for a schedule of
its own.
"""

from __future__ import annotations

import logging
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from engine.config import Params
from engine.project.environment import prepare_environment
from engine.project.workspace_lock import workspace_lock
from engine.stages.revalidate import Remeasured, measure
from engine.tracking.model_name import registered_name
from flows import overrides as params_file
from flows.automations import CHAMPION_WORSE, emit
from flows.logs import engine_logs, plain_failures
from flows.pipeline import TASKS, data_digest, emit_data_changed

logger = logging.getLogger("detectflow")
plain_failures()


@flow(name="validate-champion", flow_run_name="validate {alias}", persist_result=False)
def validate_champion(
    root: str | None = None, alias: str = "champion", tolerance: float = 0.02
) -> Remeasured:
    """Prepare the data of today, measure the registered model on them, and say when it has become
    worse.

    Args:
        root: the workspace; by default the project around the working directory.
        alias: which version: champion, challenger, previous.
        tolerance: by how much the deciding metric may be below the one it was promoted with, before
            an event says so.
    """
    folder = prepare_environment(root)
    with engine_logs(), workspace_lock(folder, "validate-champion"):
        params = params_file.checked(folder, {})
        digest = data_digest(folder)
        TASKS["prepare"](str(folder))
        emit_data_changed(folder, digest)
        found = measured(str(folder), f"{registered_name(params, folder)}@{alias}")
        create_markdown_artifact(
            as_markdown(found, alias),
            key="champion-today",
            description="the champion on today's data",
        )
        create_table_artifact(
            [dict(row) for row in found.per_class],
            key="champion-per-class",
            description="metrics by class",
        )
        if (
            found.now is not None
            and found.before is not None
            and found.now < found.before - tolerance
        ):
            emit(
                CHAMPION_WORSE,
                f"model.{found.model}",
                text=sentence(found),
                now=found.now,
                before=found.before,
            )
            logger.warning("%s", sentence(found))
        else:
            logger.info("%s", sentence(found))
    return found


@task(name="measure", task_run_name="measure", cache_policy=NO_CACHE, persist_result=False)
def measured(root: str, reference: str) -> Remeasured:
    folder = Path(root)
    return measure(Params.load(folder / "params.yaml"), folder, reference)


def sentence(found: Remeasured) -> str:
    """ "detector version 3: metrics/mAP50-95 0.612 on test today, 0.640 when it was promoted (on
    other images)".
    """
    now = "not measurable" if found.now is None else f"{found.now:.4f}"
    today = f"{found.model} version {found.version}: {found.metric} {now} on {found.split} today"
    if found.before is None:
        return today
    return (
        f"{today}, {found.before:.4f} when it was promoted (on "
        f"{'the same' if found.same_images else 'other'} images)"
    )


def as_markdown(found: Remeasured, alias: str) -> str:
    rows = "\n".join(
        f"| {key.removeprefix('metrics/')} | {value:.4f} |" for key, value in found.metrics.items()
    )
    return (
        f"**{sentence(found)}**\n\n| metric ({found.split}) | {alias} "
        f"|\n|---|---|\n{rows}\n\nMLflow run `{found.run_id}`"
    )
