"""Stage train: the prepared dataset becomes `weights/` and `reports/train/`.

The run itself, with everything needed to resume it, lies in `runs/ckpt/<fingerprint>/` (not a stage
output: DVC would delete it). The fingerprint covers parameters, data and code, so an interrupted
training goes on only where it would have come to the same weights. The folder is removed once the
result is recorded.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.code.closure import combined, differences
from engine.config import DetectionTrainConfig, Params
from engine.core.results import read_results, write_results
from engine.files import write_text
from engine.models.hub.origins import KEY as ORIGINS
from engine.stages.code import listed, read_code, read_weights_meta, stage_code
from engine.stages.layout import (
    Attached,
    Layout,
    Progress,
    metric_value,
    publish_folder,
    read_json,
    relative,
    write_json,
)
from engine.stages.progress import epoch_progress
from engine.stages.start_weights import start_digests

logger = logging.getLogger("detectflow")

PUBLISHED = "published"  # marks a run folder whose result has been handed over
INPUTS = "inputs.json"  # in the run folder: what the training was begun with


def run(
    params: Params, root: Path, progress: Progress | None = None, callbacks: Sequence[Attached] = ()
) -> dict[str, Any]:
    """Train, or go on training, and publish the best weights.

    Raises:
        ConfigError: the file to start from is missing, or is the output of a stage.
        EngineError: what stops a training; its checkpoints stay and the next run resumes from them.
    """
    from engine.detect.choose import make_trainer

    layout = Layout(root)
    start = start_digests(params.train, root)
    inputs = inputs_of(params, layout, start)
    warn_of_changed_code(inputs, layout)
    folder = layout.resumable / fingerprint(inputs)
    settings = run_settings(params.train, layout, folder)
    trainer = make_trainer(settings)  # a wrong name leaves no folder
    write_json(folder / INPUTS, inputs)
    if progress is not None:
        trainer.add_callback(
            "on_fit_epoch_end", lambda t: progress(epoch_progress(t)), may_fail=True
        )
    for event, function in callbacks:
        trainer.add_callback(event, function, may_fail=True)
    with contextlib.chdir(root):  # params.yaml names files as they are seen from the workspace
        result = trainer.train()
    return publish(result, params, layout, start)


def inputs_of(params: Params, layout: Layout, start: Mapping[str, str]) -> dict[str, Any]:
    """What the weights depend on: data, content of the files it starts from, and the code with its
    settings, without those that only decide where and how fast.
    """
    return {
        "data": read_json(layout.prepared / "dataset.json", "prepare").get("digest"),
        "start": dict(start),
        "code": stage_code("train", params, layout.root),
    }


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """The name of a training's folder, 16 hex digits: the same inputs go on where they were."""
    return combined(inputs)


def warn_of_changed_code(inputs: Mapping[str, Any], layout: Layout) -> None:
    """Say so where an unfinished training was begun with the same settings and data, and with other
    code: this one starts anew, and that one is kept.
    """
    if (layout.resumable / fingerprint(inputs) / "weights" / "last.pt").is_file():
        return  # goes on
    for file in sorted(layout.resumable.glob(f"*/{INPUTS}"), key=lambda f: -f.stat().st_mtime):
        folder = file.parent
        before = read_code(file)
        if (
            before is None
            or (folder / PUBLISHED).exists()
            or not (folder / "weights" / "last.pt").is_file()
            or {k: before.get(k) for k in ("data", "start")}
            != {k: inputs[k] for k in ("data", "start")}
            or (before.get("code") or {}).get("settings") != inputs["code"]["settings"]
        ):
            continue
        place = relative(folder, layout.root)
        logger.warning(
            "An unfinished training with these settings and data is in %s, but its code has "
            "changed since: %s. Training starts anew; the old run is kept. To go on with it "
            "instead, outside the pipeline: "
            "`detectflow train project=%s name=%s resume=true`.",
            place,
            listed(differences(before["code"], inputs["code"])),
            relative(folder.parent, layout.root),
            folder.name,
        )
        return


def run_settings(
    config: DetectionTrainConfig, layout: Layout, folder: Path
) -> DetectionTrainConfig:
    """The stage's settings with its own paths; resumes where the folder holds a checkpoint."""
    resume = (folder / "args.yaml").is_file() and (folder / "weights" / "last.pt").is_file()
    if folder.exists() and not resume:
        shutil.rmtree(folder)
    paths = {"data": str(layout.prepared), "project": str(folder.parent), "name": folder.name}
    if resume:
        _follow_moved_project(folder / "args.yaml", str(layout.prepared))
    return config.with_overrides(
        {**paths, "exist_ok": True, "resume": resume}, where="params.yaml: train"
    )


def _follow_moved_project(args: Path, prepared: str) -> None:
    """The fingerprint vouches for the data; only its address may be another after the project was
    moved.
    """
    saved = DetectionTrainConfig.load(args)
    if saved.data != prepared:
        write_text(args, json.dumps({**saved.model_dump(mode="json"), "data": prepared}))


def publish(
    result: Any, params: Params, layout: Layout, start: Mapping[str, str]
) -> dict[str, Any]:
    """Put best weights, metrics and plots where DVC expects them; without times, so that equal
    runs hash alike.
    """
    dataset = read_json(layout.prepared / "dataset.json", "prepare")
    metrics = {
        key: metric_value(value)
        for key, value in result.metrics.items()
        if key.startswith(("metrics/", "val/"))
    }
    origins = (read_weights_meta(result.best) or {}).get(ORIGINS)
    summary = {"best_epoch": result.best_epoch, "epochs": result.epochs, **metrics}
    origin = {
        "model": params.train.model,
        "weights_sha256": result.best_sha256,
        "data_digest": result.data_digest or dataset.get("digest"),
        "start": dict(start),
        **({"origins": origins} if origins else {}),
    }
    with publish_folder(layout.weights) as folder:
        shutil.copyfile(result.best, folder / "best.pt")
        write_json(
            folder / "best.json",
            {"sha256": result.best_sha256, "epoch": result.best_epoch, "metrics": metrics},
        )
    with publish_folder(layout.reports / "train") as folder:
        rows = [
            {k: v for k, v in row.items() if k != "time_s"}
            for row in read_results(result.save_dir / "results.csv")
        ]
        write_results(folder / "results.csv", rows)
        write_curves(folder / "curves", rows)
        for plot in sorted(p for p in result.save_dir.iterdir() if p.suffix in {".png", ".jpg"}):
            shutil.copyfile(plot, folder / plot.name)
        for table in ("per_class.csv",):
            if (result.save_dir / table).is_file():
                shutil.copyfile(result.save_dir / table, folder / table)
        write_json(folder / "metrics.json", summary)
        write_json(folder / "origin.json", origin)
    write_text(result.save_dir / PUBLISHED, "")
    return {**origin, **summary}


def write_curves(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """What `dvc plots` draws: of each term of the loss a file with the columns epoch, train and
    val, of each metric one with epoch and value. dvc.yaml names these columns; those of results.csv
    differ from network to network. What an epoch does not have is nan: an empty cell would be
    drawn as 0.
    """
    curves: dict[tuple[str, str], dict[str, str]] = {}  # (folder, name) -> column -> key of a row
    for key in dict.fromkeys(key for row in rows for key in row):
        group, _, name = key.rpartition("/")
        if group in ("train", "val"):
            curves.setdefault(("losses", name), {})[group] = key
        elif key != "epoch" and group != "lr":
            curves["metrics", key.removeprefix("metrics/")] = {"value": key}
    for (kind, name), keys in curves.items():
        columns = ("train", "val") if kind == "losses" else ("value",)
        table = [
            {"epoch": row["epoch"]}
            | {column: _or_nan(row.get(keys.get(column, ""))) for column in columns}
            for row in rows
        ]
        file = re.sub(r"[^\w.-]", "_", name)
        write_results(folder / kind / f"{file}.csv", table)


def _or_nan(value: Any) -> Any:
    return math.nan if value is None else value


def remove_published(root: Path) -> None:
    """Remove the folders of trainings whose result has been handed over and recorded."""
    for marker in Layout(root).resumable.glob(f"*/{PUBLISHED}"):
        shutil.rmtree(marker.parent, ignore_errors=True)
