"""Flow batch-predict: all images of a folder or a list, in shards that run side by side; what is
done stays done.
"""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ThreadPoolTaskRunner

from engine.config import Params, PredictConfig
from engine.errors import ConfigError, DataError
from engine.markdown import plain, table
from engine.project.environment import prepare_environment
from engine.registry.fetch import fetch, is_reference
from engine.stages.batch_predict import Shard, collect, list_images, plan, predict_shard
from engine.tracking.model_name import registered_name
from flows.interrupts import cancelled_by_interrupt
from flows.logs import engine_logs, plain_failures

logger = logging.getLogger("detectflow")
plain_failures()

SHOWN_SKIPPED = 20


@cancelled_by_interrupt
@flow(name="batch-predict", flow_run_name="predict {source}", persist_result=False)
def batch_predict(
    source: str,
    out: str = "runs/batch",
    model: str | None = None,
    settings: dict[str, Any] | None = None,
    shard_size: int = 256,
    side_by_side: int = 2,
    root: str | None = None,
) -> dict[str, Any]:
    """Find objects in every image and write `predictions.jsonl` and `summary.json`.

    Args:
        source: a folder, with its subfolders; a .txt list of paths; a .jsonl manifest.
        out: where results go. Shards that are there are not made again, so an interrupted run goes
            on.
        model: a weight file, or a registered model such as detector@champion, which is the default.
        settings: of the predictor, for example {"conf": 0.4, "tile": 640}.
        shard_size: images per shard. side_by_side: shards at a time.
        root: the workspace, from which relative paths are seen; by default the project around the
            working directory.

    Raises:
        DataError, ConfigError, WorkspaceError: no images, an unknown setting or model. Images that
            cannot be read are listed in the summary; the run fails when there is no other.
    """
    folder = prepare_environment(root)
    with engine_logs():
        chosen = checked(settings or {})
        if shard_size < 1 or side_by_side < 1:
            raise ConfigError(
                f"shard_size={shard_size}, side_by_side={side_by_side}: both must be at least 1"
            )
        weights = weights_of(model, folder)
        place = folder / out
        shards = plan(list_images(folder / source), weights, chosen, place, shard_size)
        runner = predict_all.with_options(
            task_runner=ThreadPoolTaskRunner(max_workers=side_by_side)
        )
        rows = runner([asdict(shard) for shard in shards], str(weights), chosen)
        summary = collect(shards, place)
        show(summary, rows, place.relative_to(folder) if place.is_relative_to(folder) else place)
        if not summary["images"]:
            raise DataError(
                f"{source}: not one of {len(summary['skipped'])} images could be read; see "
                f"{place / 'summary.json'}"
            )
    return {**summary, "skipped": len(summary["skipped"]), "out": str(place)}


@flow(name="shards", persist_result=False)
def predict_all(
    shards: list[dict[str, Any]], weights: str, settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Each shard a task of its own."""
    futures = [one_shard.submit(shard, weights, settings) for shard in shards]
    return [future.result() for future in futures]


@task(
    name="shard", task_run_name="shard {shard[number]}", cache_policy=NO_CACHE, persist_result=False
)
def one_shard(shard: dict[str, Any], weights: str, settings: dict[str, Any]) -> dict[str, Any]:
    row = predict_shard(Shard(**shard), Path(weights), settings)
    logger.info(
        "shard %d: %d images, %d boxes, %d skipped (%s)",
        *(row[k] for k in ("shard", "images", "boxes", "skipped", "status")),
    )
    return row


def checked(settings: dict[str, Any]) -> dict[str, Any]:
    """The given settings, after a check that the predictor takes them."""
    PredictConfig.build(settings, where="settings")
    taken = {
        "model",
        "source",
        "project",
        "name",
        "save",
        "save_json",
        "stream",
        "verbose",
    } & settings.keys()
    if taken:
        raise ConfigError(
            f"settings: {', '.join(sorted(taken))} belong to the flow's own parameters here"
        )
    return settings


def weights_of(model: str | None, root: Path) -> Path:
    """The weight file that `model` names."""
    if model is None:
        model = f"{registered_name(Params.load(root / 'params.yaml'), root)}@champion"
    if is_reference(model, root):
        found = fetch(model, root)
        logger.info("model: %s", found)
        return found.file
    path = root / model
    if not path.is_file():
        raise ConfigError(
            f"model={model}: no such file seen from {root}, and no registered model (those are "
            "NAME@ALIAS)"
        )
    return path


def show(summary: dict[str, Any], rows: list[dict[str, Any]], out: Path) -> None:
    kept = sum(row["status"] == "kept" for row in rows)
    parts = [
        f"**{summary['images']} images, {summary['boxes']} objects** in {len(rows)} shards "
        f"({kept} were there): `{out}`"
    ]
    parts.append(table(("class", "objects"), list(summary["classes"].items())))
    if summary["skipped"]:
        lines = [
            f"- {plain(row['source'])}: {plain(row['error'])}"
            for row in summary["skipped"][:SHOWN_SKIPPED]
        ]
        parts.append(f"{len(summary['skipped'])} could not be read:\n" + "\n".join(lines))
    create_markdown_artifact("\n\n".join(parts), key="predictions", description="what was found")
