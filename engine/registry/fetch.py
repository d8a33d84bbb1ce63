"""A registered detector brought to this machine, and metrics of it written back. The registry
decides what is meant.

`detector@champion` names what production runs now, `detector/3` one version for ever. Files are
kept under `.cache/models/<SHA-256>/`, checked by their digest each time, so that a fetched model is
used without the server's files.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, WorkspaceError, nearest
from engine.files import atomic_write, sha256_file
from engine.model_formats.table import find_format, is_model_file
from engine.project.environment import NoProject, prepare_environment, state_root
from engine.registry.candidate import DIGEST_TAG, FORMAT_TAG, ONNX
from engine.registry.history import entries, evidence_stem
from engine.registry.image_list import IMAGE_LIST
from engine.registry.registry import TRAINING_IMAGES, aliases_of, described_errors
from engine.tracking.mlflow_client import Store, open_store, patient

REFERENCE = re.compile(r"(?:models:/)?(?P<name>[^/:@]+)(?:@(?P<alias>[^/:@]+)|/(?P<version>\d+))")
CACHE = Path(".cache/models")
DESCRIPTIONS = {".yaml", ".yml", ".json"}
WEIGHTS_ARTIFACT = "checkpoints/best.pt"  # of a training's run
PURPOSE = "detectflow.purpose"  # tag of runs that are no trainings


@dataclass(frozen=True)
class Fetched:
    """A version of a registered model, its file at hand."""

    name: str
    version: str
    file: Path  # ONNX, or the weights where `register.format` says so
    tags: Mapping[str, str]
    run_id: str | None
    trained_on: frozenset[str] | None = None  # SHA-256 of training images; None: not recorded

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


def is_reference(text: str, root: Path = Path()) -> bool:
    """Whether `text` names a registered model: "models:/detector@champion", "detector@champion",
    "detector/3". A file or folder of that name, seen from `root`, comes first.
    """
    if text.startswith("models:/"):
        return True
    path = root / text
    is_file = path.suffix.lower() in DESCRIPTIONS or is_model_file(path) or path.exists()
    return bool(REFERENCE.fullmatch(text)) and not is_file


def file_of(model: str, weights: bool = False, root: Path | None = None) -> str:
    """`model` where it names a file or a kind of network; of a model in this project's registry the
    file on this machine.

    weights: what training starts from, instead of the file that production loads. root: the
    project; None: the one around the working directory.

    Raises:
        ConfigError: no such model, alias or version; outside a project. WorkspaceError: the
            registry cannot be reached, or has not the file.
    """
    if not is_reference(model, root or Path()):
        return model
    try:
        root = prepare_environment(root)
    except NoProject as error:
        raise ConfigError(
            f"'{model}' is no file, and registered models have no registry here: {error}"
        ) from None
    return str(fetch_weights(model, root) if weights else fetch(model, root).file)


def fetch(reference: str, root: Path) -> Fetched:
    """The version that `reference` names now, with its file.

    Raises:
        ConfigError: no reference, no such model, alias or version. WorkspaceError: the registry
            cannot be reached, or its file is not the one that was registered.
    """
    match = _named(reference)
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        version = version_named(store, match["name"], match["alias"], match["version"])
        file = _file(store, version, state / CACHE)
    return Fetched(
        version.name,
        str(version.version),
        file,
        dict(version.tags),
        version.run_id or None,
        _read_images(file.with_name(TRAINING_IMAGES)),
    )


def is_fetched(file: Path, root: Path) -> bool:
    """Whether a file came from the registry: it is kept by digest, and may be fetched again."""
    return file.is_relative_to(state_root(root) / CACHE)


def fetch_weights(reference: str, root: Path) -> Path:
    """The PyTorch weights of the version that `reference` names now: those of its training's run.

    Raises:
        ConfigError: see `fetch`. WorkspaceError: the registry cannot be reached, or the weights
            were not kept there (`tracking.checkpoints: none`).
    """
    match = _named(reference)
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        version = version_named(store, match["name"], match["alias"], match["version"])
        wanted = version.tags.get("weights_sha256", "")
        kept = state / CACHE / (wanted or "unknown") / f"{version.name}-{version.version}.pt"
        if wanted and not (kept.is_file() and sha256_file(kept) == wanted):
            _weights(store, version, wanted, root, kept)
    if not wanted or not kept.is_file():
        raise WorkspaceError(
            f"{version.name} version {version.version}: its weights are neither in its MLflow run "
            f"nor in {root}/weights (SHA-256 {wanted[:12] or 'not recorded'}). With "
            "tracking.checkpoints: best in params.yaml MLflow keeps them; `dvc pull` at the commit "
            "of its training brings those back."
        )
    return kept


def _weights(store: Store, version: Any, wanted: str, root: Path, kept: Path) -> None:
    """The file whose digest is `wanted`, from the workspace or the version's run, as `kept`."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
        source = root / "weights" / "best.pt"
        if not (source.is_file() and sha256_file(source) == wanted):
            uri = f"runs:/{version.run_id}/{WEIGHTS_ARTIFACT}"
            try:
                found = download_artifacts(uri, dst_path=scratch, tracking_uri=store.uri)
            except (MlflowException, OSError):  # not kept, or cleaned up
                return
            source = Path(found)
            if sha256_file(source) != wanted:  # of a later training in the same run
                return
        with open(source, "rb") as content, atomic_write(kept) as target:
            shutil.copyfileobj(content, target)


def read_artifact(store: Store, run_id: str, path: str) -> Any:
    """The content of a run's JSON artifact; None where it is not there, or no JSON."""
    with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
        file = _artifact(store, run_id, path, scratch)
        try:
            return None if file is None else json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def decision_files(model: Fetched, suffix: str, folder: Path, root: Path) -> list[Path]:
    """What was kept of each decision about a version, with this suffix, brought into `folder`: the
    newest first. Those that are not there any more are left out.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        decided = [
            each
            for each in reversed(entries(store, model.name))
            if each.version == model.version and each.evidence and model.run_id
        ]
        paths = [f"{evidence_stem(each)}{suffix}" for each in decided]
        found = (_artifact(store, str(model.run_id), path, str(folder)) for path in paths)
        return [file for file in found if file is not None]


def _artifact(store: Store, run_id: str, path: str, folder: str) -> Path | None:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = f"runs:/{run_id}/{path}"
    try:
        return Path(download_artifacts(uri, dst_path=folder, tracking_uri=store.uri))
    except (MlflowException, OSError):
        return None


def _named(reference: str) -> re.Match[str]:
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise ConfigError(
            f"'{reference}' names no registered model: NAME@ALIAS or NAME/VERSION, for example "
            "detector@champion"
        )
    return match


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


def registered_models(store: Store) -> list[str]:
    """The names of all models in the registry."""
    names: list[str] = []
    token: str | None = ""
    while token is not None:
        page = store.client.search_registered_models(page_token=token or None)
        names += [each.name for each in page]
        token = page.token or None
    return names


def version_named(store: Store, name: str, alias: str | None, number: str | None) -> Any:
    client = store.client
    models = registered_models(store)
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

    wanted = version.tags.get(DIGEST_TAG, "")
    kept = cache / wanted / f"model{find_format(version.tags.get(FORMAT_TAG, ONNX)).suffix}"
    if wanted and kept.is_file() and sha256_file(kept) == wanted:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        folder = Path(
            download_artifacts(
                artifact_uri=version.source, dst_path=scratch, tracking_uri=store.uri
            )
        )
        found = sorted(folder.rglob(f"*{kept.suffix}"))
        digests = {sha256_file(path): path for path in found}
        if wanted not in digests:
            there = ", ".join(digest[:12] for digest in digests) or f"no {kept.suffix} file"
            raise WorkspaceError(
                f"{version.name} version {version.version}: the registry's file is not the one "
                f"that was registered (expected SHA-256 {wanted[:12] or 'none'}, found {there}). "
                "Do not use it; register the model again."
            )
        kept.parent.mkdir(exist_ok=True)
        for name in (TRAINING_IMAGES, IMAGE_LIST):
            for images in folder.rglob(name):
                shutil.move(images, kept.with_name(name))
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
