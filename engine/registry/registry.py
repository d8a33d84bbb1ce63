"""The MLflow registry: a detector becomes a version, and aliases say which one to use. Unlike
tracking it waits for the
server, and fails with a message where there is none: this is what stage register is for.

Aliases: `challenger` is the version presented last, `champion` the one to use in production (who
that is decides `engine.comparison`), `previous` the champion before it.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.config.sections import check_model_name
from engine.errors import ConfigError, WorkspaceError
from engine.project.environment import state_root
from engine.project.lock_holders import LOCKED, describe_lock
from engine.project.redaction import hide
from engine.registry.candidate import (
    DEFAULTS,
    DIGEST_TAG,
    FORMAT_TAG,
    ONNX,
    WEIGHTS,
    Candidate,
    Registration,
)
from engine.registry.history import entries
from engine.registry.image_list import IMAGE_LIST
from engine.registry.version_description import MODEL_DESCRIPTION, describe_version, show_history
from engine.tracking.journal import Journal, journal_home
from engine.tracking.mlflow_client import (
    Store,
    is_of_store,
    open_store,
    patient,
    reason,
    tracking_uri,
)
from engine.tracking.mlflow_links import run_url, ui_base
from engine.tracking.mlflow_recorder import DESCRIPTION, Recorder
from engine.tracking.mlflow_recorder import WEIGHTS as WEIGHTS_TAG
from engine.tracking.run_description import describe as describe_run
from engine.tracking.sender import sender_of
from engine.tracking.stage_run import StageRun
from engine.tracking.stage_runs import attachment

# Of the registered model, besides MLflow.
REQUIREMENTS = {
    ONNX: ("onnxruntime", "numpy", "opencv-python-headless"),
    WEIGHTS: ("detectflow", "torch", "numpy", "opencv-python-headless"),
}
# beside a version's model: SHA-256 of each image it was trained on, a line each
TRAINING_IMAGES = "training_images.txt"
REPORT = "report"  # folder among the artifacts, with the page and the model card of a version
CODE = {
    ONNX: Path(__file__).with_name("pyfunc_model.py"),
    WEIGHTS: Path(__file__).with_name("pyfunc_weights.py"),
}


def register(candidate: Candidate, params: Params, root: Path, track: bool = True) -> Registration:
    """Make the candidate a version, unless these weights in this very file are one. Aliases stay.

    track: whether a run is made for weights that have none; without it the version may be without a
    run.

    Raises:
        ConfigError: a name that MLflow does not take. WorkspaceError: the registry cannot be
            reached or refuses.
    """
    try:
        check_model_name(candidate.name)
    except ValueError as error:
        raise ConfigError(f"params.yaml: register.model = {error}") from None
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        experiment = store.experiment(params.register_.experiment)
    sender = sender_of(state)
    sender.start()  # what earlier stages recorded, if it is still waiting
    sender.drain()  # or these weights would seem to have no run
    with described_errors(state), patient():
        run_id = _run_of(store, candidate.measured.weights_sha256, params, root, track)
        if run_id is not None:
            experiment = store.client.get_run(run_id).info.experiment_id
        version = _find(store, candidate)
        if version is None:
            version = _create(store, candidate, experiment, run_id)
        else:
            _set_tags(store, candidate, version)
    return Registration(version, run_id, experiment)


def describe(candidate: Candidate, done: Registration, aliases: Sequence[str], root: Path) -> None:
    """Write on the pages of the version, of its model and of its run what it is and what was
    decided about it. Raises as `register` does.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        links = _links(root, done.experiment_id, done.run_id)
        for key, value in links.items():
            store.client.set_model_version_tag(candidate.name, done.version, key, value)
        history = entries(store, candidate.name)
        text = describe_version(candidate, history, done.version, links)
        store.client.update_model_version(candidate.name, done.version, text)
        show_history(store, candidate.name, history)
        if done.run_id is not None:
            named = f" ({', '.join(aliases)})" if aliases else ""
            registered = f"{candidate.name} version {done.version}{named}"
            _tell_run(store.client, done.run_id, candidate, registered)


@contextlib.contextmanager
def described_errors(state: Path) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        if (error.name or "").startswith("engine"):
            raise
        raise WorkspaceError(
            f"stage register needs MLflow ({error}): pip install mlflow, then run again."
        ) from error
    except Exception as error:
        if not is_of_store(error):  # our own, which say what to do, and faults in code
            raise
        uri = tracking_uri(state)
        if LOCKED in str(error) and uri.startswith("sqlite:///"):
            advice = describe_lock(Path(uri.removeprefix("sqlite:///")))
        else:
            advice = (
                "See that the server runs, or unset MLFLOW_TRACKING_URI to use the project's own "
                "mlflow.db, and run again."
            )
        raise WorkspaceError(
            f"MLflow registry request failed ({hide(uri)}): {type(error).__name__}: "
            f"{reason(error)}. Earlier results are saved. {advice}"
        ) from error


def _run_of(
    store: Store, weights_sha256: str, params: Params, root: Path, track: bool
) -> str | None:
    """The run of these weights. Where there is none and `track` is on, one is made from the reports
    at hand.
    """
    found = store.find_run(WEIGHTS_TAG, weights_sha256)
    if found is not None or not track:
        return found.info.run_id if found else None
    run = StageRun("register", params, root)
    run.journal = journal = Journal.create(journal_home(run.state), "register")
    try:
        recorder = Recorder(store, journal)
        recorder.perform([attachment(run, weights_sha256)])
        recorder.perform([{"do": "end", "status": "FINISHED", "at": int(time.time() * 1000)}])
        return recorder.run_id
    finally:
        journal.remove()


def _find(store: Store, candidate: Candidate) -> str | None:
    """The newest version with these weights in this very file."""
    query = (
        f"name = '{candidate.name}' and tags.weights_sha256 = '{candidate.measured.weights_sha256}'"
    )
    versions = [
        v
        for v in store.client.search_model_versions(query)
        if v.tags.get(DIGEST_TAG) == candidate.onnx_sha256
    ]
    return max((str(v.version) for v in versions), key=int, default=None)


def _create(store: Store, candidate: Candidate, experiment: str, run_id: str | None) -> str:
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    client = store.client
    try:
        client.create_registered_model(
            candidate.name, description=MODEL_DESCRIPTION.replace("NAME", candidate.name)
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = _tags(candidate)
    model = client.create_logged_model(
        experiment,
        candidate.name,
        run_id,
        tags,
        {k: str(v) for k, v in candidate.facts.items()},
        "detector",
    )
    with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
        folder = Path(scratch) / "model"
        save_pyfunc(candidate, folder, model_id=model.model_id, run_id=run_id)
        client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    if run_id is not None:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        _link_metrics(client, candidate, run_id, model.model_id)
    version = client.create_model_version(
        candidate.name,
        source=f"models:/{model.model_id}",
        run_id=run_id,
        tags=tags | ({"run_id": run_id} if run_id else {}),
        model_id=model.model_id,
    )
    return str(version.version)


def save_pyfunc(
    candidate: Candidate, folder: Path, model_id: str | None = None, run_id: str | None = None
) -> None:
    """Write the MLflow model folder: our `pyfunc_model.py` and the ONNX file, or
    `pyfunc_weights.py`, the weights and the user's modules; signature, input example, pinned
    requirements.
    """
    import mlflow
    import pandas
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    kinds = {"class": "long", "name": "string", "score": "double", "xyxy": Array("double")}
    detection = Object([Property(name, kind) for name, kind in kinds.items()])
    signature = ModelSignature(
        Schema([ColSpec("string", "image")]),
        Schema([ColSpec(Array(detection), "detections")]),
        ParamSchema(
            [
                ParamSpec(name, "long" if isinstance(DEFAULTS[name], int) else "double", value)
                for name, value in candidate.thresholds.items()
            ]
            + [
                ParamSpec("classes", "long", [], shape=(-1,)),  # MLflow knows no None here
                ParamSpec("imgsz", "long", None),  # else MLflow drops it without a word
            ]
        ),
    )
    example = (
        pandas.DataFrame({"image": [base64.b64encode(candidate.example).decode()]})
        if candidate.example
        else None
    )
    packages = dict.fromkeys((*REQUIREMENTS[candidate.format], *candidate.packages))
    # Without the local part, which says for which machine a version was built (2.11.0+cpu).
    versions = {each: metadata.version(each).partition("+")[0] for each in packages}
    with _travelling(candidate.code) as code:
        mlflow.pyfunc.save_model(
            str(folder),
            mlflow_model=Model(
                artifact_path="model",
                run_id=run_id,
                model_id=model_id,
                metadata=dict(candidate.facts),
            ),
            python_model=str(CODE[candidate.format]),
            artifacts={candidate.format: str(candidate.file)},
            code_paths=code or None,
            pip_requirements=[f"{package}=={version}" for package, version in versions.items()],
            signature=signature,
            input_example=example,
        )
    if candidate.training_images:
        images = "".join(f"{sha256}\n" for sha256 in sorted(candidate.training_images))
        (folder / TRAINING_IMAGES).write_text(images, encoding="ascii")
    if candidate.image_list:
        (folder / IMAGE_LIST).write_text(candidate.image_list, encoding="ascii", newline="")


@contextlib.contextmanager
def _travelling(code: Mapping[str, Path]) -> Iterator[list[str]]:
    """The user's modules in a folder of their own, as MLflow copies them: its entries."""
    with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
        for place, file in code.items():
            copy = Path(scratch, place)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        yield [str(entry) for entry in sorted(Path(scratch).iterdir())]


def _tags(candidate: Candidate) -> dict[str, str]:
    measured, point = candidate.measured, candidate.operating_point
    return {
        **{name: f"{value:.4f}" for name, value in candidate.metrics.items()},
        **candidate.tags,
        "metric": measured.metric,
        "value": "" if measured.value is None else repr(measured.value),
        "split": measured.split,
        "split_digest": measured.data_digest,
        "class_hash": measured.class_hash,
        "weights_sha256": measured.weights_sha256,
        DIGEST_TAG: candidate.onnx_sha256,
        FORMAT_TAG: candidate.format,
        **{
            f"threshold.{name}": "of each class" if value is None else str(value)
            for name, value in candidate.thresholds.items()
        },
        **({"threshold.goal": str(point.goal)} if point is not None else {}),
        "threshold.conf_of_best_F1": ""
        if candidate.best_conf is None
        else f"{candidate.best_conf:.4f}",
    }


def _set_tags(store: Store, candidate: Candidate, version: str) -> None:
    """The same weights may have been measured on other images since."""
    present = store.client.get_model_version(candidate.name, version).tags
    for key, value in _tags(candidate).items():
        if present.get(key) != value:
            store.client.set_model_version_tag(candidate.name, version, key, value)


def aliases_of(store: Store, name: str) -> dict[str, str]:
    """alias -> version of a registered model."""
    return {
        alias: str(version)
        for alias, version in store.client.get_registered_model(name).aliases.items()
    }


def _link_metrics(client: Any, candidate: Candidate, run_id: str, model_id: str) -> None:
    """The deciding metrics belong to the model too, so that its page shows them."""
    from mlflow.entities import Metric

    history = [
        each for key in candidate.metrics for each in client.get_metric_history(run_id, key)[-1:]
    ]
    linked = [
        Metric(m.key, m.value, m.timestamp, m.step, model_id=model_id, run_id=run_id)
        for m in history
    ]
    if linked:
        client.log_batch(run_id, metrics=linked, synchronous=True)


def _tell_run(client: Any, run_id: str, candidate: Candidate, registered: str) -> None:
    """The run of the weights says as what they are registered."""
    client.set_tag(run_id, "registered", registered)
    client.set_tag(run_id, DIGEST_TAG, candidate.onnx_sha256)
    for file in candidate.files:
        if file.is_file():  # under a name that the UI shows as text
            client.log_text(run_id, file.read_text(encoding="utf-8"), f"code/{file.name}.yaml")
    data = client.get_run(run_id).data
    client.set_tag(run_id, DESCRIPTION, describe_run(data.params, data.metrics, data.tags))


def _links(root: Path, experiment: str, run_id: str | None) -> dict[str, str]:
    """Where the training's run and its reports can be viewed, as full addresses."""
    if run_id is None:
        return {}
    base = ui_base(root)
    return {
        "run_url": run_url(experiment, run_id, base),
        "report_url": run_url(experiment, f"{run_id}/artifacts", base),
        "page_url": run_url(experiment, f"{run_id}/artifacts/{REPORT}/index.html", base),
        "card_url": run_url(experiment, f"{run_id}/artifacts/{REPORT}/model_card.md", base),
    }
