"""A registered detector brought to this machine, and metrics of it written back. The registry
decides what is meant.

`detector@champion` names what production runs now, `detector/3` one version for ever. Files are
kept under `.cache/models/<SHA-256>/`, checked by their digest each time, so that a fetched model is
used without the server's files.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, WorkspaceError, nearest
from engine.files import sha256_file
from engine.project.environment import state_root
from engine.registry.registry import TRAINING_IMAGES, aliases_of, described_errors
from engine.tracking.mlflow_client import Store, open_store, patient

REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/:@]+)(?:@(?P<alias>[^/:@]+)|/(?P<version>\d+))")
PURPOSE = "detectflow.purpose"  # tag of runs that are no trainings


@dataclass(frozen=True)
class Fetched:
    """A version of a registered model, its ONNX file at hand."""

    name: str
    version: str
    onnx: Path
    tags: Mapping[str, str]
    run_id: str | None
    trained_on: frozenset[str] | None = None  # SHA-256 of training images; None: not recorded

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


def is_reference(text: str) -> bool:
    """Whether `text` names a registered model: "models:/detector@champion", "detector@champion"."""
    return text.startswith("models:/") or ("@" in text and bool(REFERENCE.fullmatch(text)))


def fetch(reference: str, root: Path) -> Fetched:
    """The version that `reference` names now, with its ONNX file.

    Raises:
        ConfigError: no reference, no such model, alias or version. WorkspaceError: the registry
            cannot be reached, or its file is not the one that was registered.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(
            f"'{reference}' names no registered model: NAME@ALIAS or NAME/VERSION, for example "
            "detector@champion"
        )
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        version = version_named(store, match["name"], match["alias"], match["version"])
        onnx = _file(store, version, state / ".cache" / "models")
    return Fetched(
        version.name,
        str(version.version),
        onnx,
        dict(version.tags),
        version.run_id or None,
        _read_images(onnx.with_name(TRAINING_IMAGES)),
    )


def version_of_run(run_id: str, root: Path) -> str:
    """`detector/3`: the version that an MLflow run's weights became.

    Raises:
        ConfigError: none did. WorkspaceError: the registry cannot be reached.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        found = store.client.search_model_versions(f"run_id = '{run_id}'")
    if not found:
        raise ConfigError(
            f"no registered version comes from the run {run_id}. `detectflow run` registers one."
        )
    newest = max(found, key=lambda version: int(version.version))
    return f"{newest.name}/{newest.version}"


def version_named(store: Store, name: str, alias: str | None, number: str | None) -> Any:
    client = store.client
    models = [each.name for each in client.search_registered_models()]
    if name not in models:
        known = (
            f" There are: {', '.join(models)}"
            if models
            else " The registry is empty: `detectflow run` fills it."
        )
        raise ConfigError(f"no registered model '{name}'.{nearest(name, models)}{known}")
    if alias is not None:
        aliases = aliases_of(store, name)
        if alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none"
            raise ConfigError(
                f"model '{name}' has no alias '{alias}'.{nearest(alias, aliases)} Its aliases: "
                f"{known}"
            )
        number = aliases[alias]
    versions = {str(each.version) for each in client.search_model_versions(f"name = '{name}'")}
    if number not in versions:
        raise ConfigError(
            f"model '{name}' has no version {number}. Its versions: "
            f"{', '.join(sorted(versions, key=int))}"
        )
    return client.get_model_version(name, number)


def _read_images(file: Path) -> frozenset[str] | None:
    try:
        return frozenset(file.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError):
        return None  # a version from before they were recorded


def _file(store: Store, version: Any, cache: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    wanted = version.tags.get("onnx_sha256", "")
    kept = cache / wanted / "model.onnx"
    if wanted and kept.is_file() and sha256_file(kept) == wanted:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        folder = Path(
            download_artifacts(
                artifact_uri=version.source, dst_path=scratch, tracking_uri=store.uri
            )
        )
        found = sorted(folder.rglob("*.onnx"))
        digests = {sha256_file(path): path for path in found}
        if wanted not in digests:
            raise WorkspaceError(
                f"{version.name} version {version.version}: the registry's file is not the one "
                f"that was registered (expected SHA-256 {wanted[:12] or 'none'}, found "
                f"{', '.join(d[:12] for d in digests) or 'no ONNX file'}). Do not use it; register "
                "the model again."
            )
        kept.parent.mkdir(exist_ok=True)
        for images in folder.rglob(TRAINING_IMAGES):
            shutil.move(images, kept.with_name(TRAINING_IMAGES))
        shutil.move(digests[wanted], kept)
    return kept


def record_validation(
    model: Fetched,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    experiment: str,
    files: Path,
    root: Path,
) -> str:
    """A run with the metrics of a registered model on other images; its id. The version's tags
    `today.*` say the same.
    """
    from mlflow.entities import Metric, RunTag

    state = state_root(root)
    now_ms = int(time.time() * 1000)
    with described_errors(state), patient():
        store = open_store(state)
        about = {**tags, PURPOSE: "validation", "model": model.name, "model_version": model.version}
        if model.run_id:
            # so that the table shows it below the training
            about["mlflow.parentRunId"] = model.run_id
        run = store.client.create_run(
            store.experiment(experiment),
            start_time=now_ms,
            run_name=f"validate {model.name} v{model.version}",
            tags=about,
        )
        run_id = run.info.run_id
        values = [Metric(key, value, now_ms, 0) for key, value in metrics.items()]
        store.client.log_batch(
            run_id, metrics=values, tags=[RunTag("stage.validate", "done")], synchronous=True
        )
        store.client.log_artifacts(run_id, str(files), "validate")
        store.client.set_terminated(run_id, "FINISHED")
        for key, value in {**metrics, **tags, "run_id": run_id}.items():
            text = f"{value:.6f}" if isinstance(value, float) else str(value)
            store.client.set_model_version_tag(
                model.name, model.version, f"today.{key.replace('/', '.')}", text
            )
    return run_id
