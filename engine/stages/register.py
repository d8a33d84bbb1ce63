"""Stage register: the exported ONNX, or the weights where `register.format` says so, becomes a
version in the MLflow registry, and champion if the gates say so after both were measured.

The same weights in the same file are registered once; running the stage again without new evidence
changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import Params
from engine.errors import ConfigError, EngineError, WorkspaceError, nearest
from engine.files import publish_folder, sha256_file
from engine.models.hub.origins import KEY as ORIGINS
from engine.models.hub.origins import all_in_words
from engine.stages.layout import (
    Attached,
    Layout,
    Progress,
    read_json,
    read_report,
    read_table,
    write_json,
)
from engine.stages.progress import step_progress
from engine.types import SPLITS

if TYPE_CHECKING:
    from engine.comparison.decision import Outcome

log = logging.getLogger("detectflow")

EXAMPLE_BYTES = 200_000  # a larger image is made smaller for the example
SUFFIXES = {".jpg", ".jpeg", ".png"}


def run(
    params: Params, root: Path, progress: Progress | None = None, callbacks: Sequence[Attached] = ()
) -> dict[str, Any]:
    """Register, compare with the champion, decide, and write `reports/registration.json`, the
    evidence as `decision.json`, what is gained and lost into `compare/`, the report as `index.html`
    and `model_card.md`.

    Raises:
        ConfigError: the file was not exported, or there is no such metric or gate.
        WorkspaceError: reports and weights do not belong together; the registry cannot be reached.
        DataError: nothing to compare on.
    """
    from engine.comparison.decision import settle
    from engine.gates import read_gates
    from engine.registry.registry import describe, register
    from engine.stages.runner import tracker_of

    layout = Layout(root)
    read_gates(params.register_.gate)  # before anything is written
    candidate = make_candidate(params, layout)
    done = register(candidate, params, root, track=tracker_of(params) is not None)
    outcome = settle(candidate.name, done.version, params, root, by=decider(root))
    describe(candidate, done, outcome.aliases, root)
    if progress is not None:
        progress(step_progress("register", 1, 1))
    summary = {
        "model": candidate.name,
        "version": int(done.version),
        "aliases": list(outcome.aliases),
        "decision": "champion" if outcome.champion == done.version else "challenger",
        "verdict": outcome.verdict.value if outcome.verdict else None,
        "reason": outcome.reason,
        "advice": list(outcome.advice),
        "metric": candidate.measured.metric,
        "value": candidate.measured.value,
        "champion_version": int(outcome.before) if outcome.before else None,
        "weights_sha256": candidate.measured.weights_sha256,
        "onnx_sha256": candidate.onnx_sha256,
        "latency": _latency(candidate.file),
        "run_id": done.run_id,
        "experiment_id": done.experiment_id,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    evidence = {"asked_now": outcome.comparison is not None, **(outcome.values or {})}
    write_json(layout.reports / "decision.json", evidence)
    write_json(layout.summary("register"), summary)
    _compare(outcome, candidate.name, layout)
    _report(candidate.name, done.version, layout)
    return summary


def _latency(file: Path) -> dict[str, Any] | None:
    from engine.export.latency import measure_latency

    try:
        return measure_latency(file)
    except EngineError as error:  # it was run by the comparison; this is for readers only
        log.warning("the latency of %s could not be measured: %s", file, error)
        return None


def _compare(outcome: Outcome, name: str, layout: Layout) -> None:
    """`reports/compare`, from the measurements that were made for the decision; of a decision that
    stands, as it was kept with its evidence. What fails is told, as with the report.
    """
    from engine.registry.version_files import bring_pair, keep_pair
    from engine.report.pair import PAIR_FILE, write_pair
    from engine.report.publish import attempted

    def make() -> bool:
        with publish_folder(layout.compare) as folder:
            if outcome.comparison is not None:
                return bool(write_pair(outcome.comparison, folder))
            if outcome.values:
                bring_pair(name, outcome.version, folder, layout.root)
            if not (folder / PAIR_FILE).is_file():
                write_json(folder / PAIR_FILE, {})
        return False

    def without(reason: str) -> bool:
        write_json(layout.compare / PAIR_FILE, {})  # dvc.yaml promises the folder
        return False

    again = "its section is left out. `detectflow compare` makes the same of any two models"
    if attempted("comparison by class and image", make, without, again):
        try:
            keep_pair(name, outcome.version, layout.compare, layout.root)
        except WorkspaceError as error:
            log.warning("what %s/%s gained is not in MLflow: %s", name, outcome.version, error)


def _report(name: str, version: str, layout: Layout) -> None:
    """The page and the model card, here and in MLflow. The registration is done and does not depend
    on them: what fails is told.
    """
    from engine.registry.version_files import attach
    from engine.report.publish import write_report

    files = write_report(layout.root, layout.reports)
    try:
        attach(name, version, files, layout.root)
    except WorkspaceError as error:
        log.warning("the report of %s version %s is not in MLflow: %s", name, version, error)


def decider(root: Path) -> str:
    """Who the history says has decided: the gates, and who had them asked."""
    from engine.registry.moves import person

    return f"stage register, run by {person(root)}"


def make_candidate(params: Params, layout: Layout) -> Any:
    """What the reports of the stages before say of the exported model, checked to be about the same
    weights.
    """
    from engine.comparison.evidence import METRICS
    from engine.data.manifest import read_manifest
    from engine.detect.operating_point import point_in
    from engine.model_formats.metadata import decode_meta
    from engine.model_formats.table import header_of
    from engine.registry.candidate import WEIGHTS, Candidate, Measured
    from engine.registry.image_list import as_text, images_of
    from engine.tracking import run_metadata
    from engine.tracking.model_name import registered_name

    trained, validated = read_report(layout, "train"), read_report(layout, "validate")
    exported = read_json(layout.summary("export"), "export")
    weights = trained["weights_sha256"]
    for stage, report in (("validate", validated), ("export", exported)):
        if report.get("weights_sha256") != weights:
            raise WorkspaceError(
                f"{layout.summary(stage)} is about other weights "
                f"({str(report.get('weights_sha256'))[:12]}) than those of the last training "
                f"({weights[:12]}). Run stage {stage} again: `detectflow run`."
            )
    kind = params.register_.format
    written = exported.get("files", {}).get(kind)
    if written is None:
        formats = ", ".join(params.export.formats)
        raise ConfigError(
            f"the registered model is the {kind} file (register.format), and params.yaml has "
            f"export.formats: [{formats}]. Add {kind} there and run again."
        )
    path = layout.root / written["file"]
    digest = _checked(path, written["sha256"])
    meta = decode_meta(header_of(path), path)
    metric, split = params.register_.metric, str(validated.get("split", "test"))
    if metric not in METRICS:
        raise ConfigError(
            f"params.yaml: register.metric = '{metric}' cannot decide.{nearest(metric, METRICS)} "
            f"There are: {', '.join(METRICS)}"
        )
    dataset = run_metadata.dataset_metadata(layout.root)
    measured = Measured(
        metric=metric,
        value=validated[metric],  # None where the split holds nothing to find
        split=split,
        data_digest=run_metadata.split_digest(layout.root, split),
        class_hash=_class_hash(path, meta, str(dataset.get("class_hash", "")), layout),
        weights_sha256=weights,
    )
    records = {split: read_manifest(layout.prepared / f"{split}.jsonl") for split in SPLITS}
    names = tuple(map(str, dataset.get("names") or ()))
    origins = all_in_words(meta.get(ORIGINS) or ())
    about = {
        "dataset": dataset.get("name", ""),
        "model": trained.get("model", params.train.model),
        "input": "x".join(map(str, params.train.input_size)),
        "classes": ", ".join(names),
        "data_digest": trained.get("data_digest") or dataset.get("digest", ""),
        "weights_sha256": weights,
        "onnx_sha256": digest,
        **({"published_weights": origins} if origins else {}),
    }
    return Candidate(
        name=registered_name(params, layout.root),
        file=path,
        onnx_sha256=digest,
        format=kind,
        **(_what_it_needs(layout) if kind == WEIGHTS else {}),
        measured=measured,
        metrics=run_metadata.metrics_of(
            {k: v for k, v in validated.items() if k.startswith("metrics/")}, split
        ),
        facts=about,
        tags={"data_digest": str(about["data_digest"]), "dataset": str(about["dataset"])}
        | ({"published_weights": origins} if origins else {})
        | run_metadata.dvc_tags(layout.root),
        example=_example(layout, split, params.train.input_size),
        per_class=read_table(layout.reports / "validate" / "per_class.csv"),
        best_conf=validated.get("metrics/confidence"),
        names=meta["names"],
        operating_point=point_in(meta, len(meta["names"]), path),
        training_images=[record.sha256 for record in records["train"]],
        image_list=as_text(images_of(chain.from_iterable(records.values()), names)),
        files=(layout.root / "dvc.lock",),
    )


def _what_it_needs(layout: Layout) -> dict[str, Any]:
    """Code that builds the network where its weights are served: libraries, and the user's modules
    by their path among imports; as stage `code` found it for the export.
    """
    from engine.stages.own_code import find_own

    found = read_json(layout.code("export"), "code")
    code = {}
    for module in found.get("own") or {}:
        if file := find_own(module, layout.root):
            parts = module.split(".")
            is_package = file.name == "__init__.py" and file.parent.name == parts[-1]
            end = "/__init__.py" if is_package else ".py"
            code["/".join(parts) + end] = file
    return {"packages": tuple(found.get("packages") or ()), "code": code}


def _class_hash(file: Path, meta: Mapping[str, Any], of_data: str, layout: Layout) -> str:
    """What the model's numbers mean, as its own file says, where that is what the data say too."""
    if "needs_nms" not in meta:  # its outputs are others than the registered model reads
        raise WorkspaceError(
            f"{file}: exported by an older version. Run stage export again: `detectflow run`."
        )
    of_model = str(meta.get("class_hash", ""))
    if of_model and of_data and of_model != of_data:
        raise WorkspaceError(
            f"{file}: its classes have hash {of_model}, those of {layout.prepared} have {of_data}: "
            "the data were prepared again since it was trained. Run all stages: `detectflow run`."
        )
    return of_model or of_data


def _checked(path: Path, sha256: str) -> str:
    found = sha256_file(path) if path.is_file() else None
    if found != sha256:
        what = "is not there" if found is None else "is not the file that stage export made"
        raise WorkspaceError(f"{path} {what}. Run stage export again: `detectflow run`.")
    return sha256


def _example(layout: Layout, split: str, size: tuple[int, int]) -> bytes:
    """One encoded image of the split, as it is where it is small; a grey one where the data are not
    at hand.
    """
    import cv2
    import numpy as np

    from engine.data.images import read_image
    from engine.data.transforms import GREY, letterbox

    files = [
        p
        for p in sorted((layout.prepared / "images" / split).glob("*"))
        if p.suffix.lower() in SUFFIXES
    ]
    for file in files:
        if file.stat().st_size <= EXAMPLE_BYTES:
            return file.read_bytes()
    image = (
        letterbox(read_image(files[0]), size)[0] if files else np.full((*size, 3), GREY, np.uint8)
    )
    return cv2.imencode(".jpg", image)[1].tobytes()
