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
from flows.interrupts import cancelled_by_interrupt, or_cancelled, value_of
from flows.logs import engine_logs, plain_failures
from flows.pipeline import TASKS, data_digest, emit_data_changed

logger = logging.getLogger("detectflow")
plain_failures()


@cancelled_by_interrupt
@flow(name="validate-champion", flow_run_name="validate {alias}", persist_result=False)
def validate_champion(
    root: str | None = None, alias: str = "champion", tolerance: float = 0.02
) -> Remeasured:
    """Prepare the data of today, measure the registered model on them, and say when it has become
    worse.

    Args:
        root: the workspace; by default the project around the working directory.
        alias: which version: champion, challenger, previous.
        tolerance: by how much the deciding metric may be below the one it was decided with, on the
            same images or on all of today's, before an event says so.
    """
    folder = prepare_environment(root)
    with engine_logs(), workspace_lock(folder, "validate-champion"):
        params = params_file.checked(folder, {})
        digest = data_digest(folder)
        value_of(TASKS["prepare"](str(folder)))
        emit_data_changed(folder, digest)
        reference = f"{registered_name(params, folder)}@{alias}"
        found = value_of(measured(str(folder), reference))
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
        worse = found.worse_by(tolerance)
        if worse:
            emit(
                CHAMPION_WORSE,
                f"model.{found.model}",
                text=f"{sentence(found)}. Worse: {'; '.join(worse)}",
                now=found.now,
                before=found.before,
                same_images=found.same_images,
                worse=worse,
            )
            logger.warning("%s. Worse: %s", sentence(found), "; ".join(worse))
        else:
            logger.info("%s", sentence(found))
    return found


@task(name="measure", task_run_name="measure", cache_policy=NO_CACHE, persist_result=False)
@or_cancelled
def measured(root: str, reference: str) -> Remeasured:
    folder = Path(root)
    return measure(Params.load(folder / "params.yaml"), folder, reference)


def sentence(found: Remeasured) -> str:
    """ "detector version 3: metrics/mAP50-95 0.6120 on test today (40 images, 95 % interval 0.550
    to 0.671), 0.6400 on the 34 images it was decided on; on the 30 of them that are still there
    0.6500 now, 0.6500 then".
    """
    now = "not measurable" if found.now is None else f"{found.now:.4f}"
    interval = (
        f", 95 % interval {found.interval[0]:.3f} to {found.interval[1]:.3f}"
        if found.interval
        else ""
    )
    today = (
        f"{found.model} version {found.version}: {found.metric} {now} on {found.split} today "
        f"({found.images} images{interval})"
    )
    if found.before is None:
        return f"{today}; what it had before is not recorded"
    earlier = found.earlier
    if earlier.images is None:
        kind = "the same" if found.same_images else "other"
        return f"{today}, {found.before:.4f} when it was registered (on {kind} images)"
    if found.same_images:
        return f"{today}, {found.before:.4f} when it was decided on (the same images)"
    before = f"{today}, {found.before:.4f} on the {earlier.images} images it was decided on"
    if not earlier.same:
        return f"{before}, none of which is among today's"
    on_same = (
        f"{earlier.now_on_same:.4f} now, {earlier.on_same:.4f} then"
        if earlier.now_on_same is not None and earlier.on_same is not None
        else "nothing to find"
    )
    return f"{before}; on the {earlier.same} of them that are still there {on_same}"


def as_markdown(found: Remeasured, alias: str) -> str:
    rows = "\n".join(
        f"| {key.removeprefix('metrics/')} | {value:.4f} |" for key, value in found.metrics.items()
    )
    unknown = (
        f"\n\nNot counted, because it does not know them: {', '.join(found.unknown_classes)}."
        if found.unknown_classes
        else ""
    )
    return (
        f"**{sentence(found)}**{unknown}\n\n| metric ({found.split}) | {alias} "
        f"|\n|---|---|\n{rows}\n\nMLflow run `{found.run_id}`"
    )
