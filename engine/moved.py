"""Where modules are now that had another name in earlier versions: code of the user's own that
imports an old name is told the new one. Nothing here keeps an old name working.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple


class Package(NamedTuple):
    """What became of a package that is gone."""

    place: str  # where its modules are
    modules: str = ""  # those that kept their names
    renamed: Mapping[str, str] = {}  # those of another name or place
    names: str = ""  # what its __init__ held, which `place` still holds
    renamed_names: Mapping[str, str] = {}  # of these, what has another name


MOVED: dict[str, Package] = {
    "engine.kernel": Package(
        "engine.core",
        modules=(
            "checkpoint distributed ema events optim predictor progress randomness "
            "results run_directory run_lock schedule task trainer validator"
        ),
        renamed={
            "building": "engine.core.setup",
            "device": "engine.core.distributed",
            "failure": "engine.core.peer_failure",
            "judge": "engine.core.early_stopping",
            "lookup": "engine.plugins",
            "memory": "engine.core.autobatch",
            "planning": "engine.core.setup",
            "precision": "engine.core.amp",
            "state": "engine.core.train_state",
        },
    ),
    "engine.parts": Package(
        "engine.models.yolov8",
        modules="assign loss",
        renamed={"decode": "engine.models.yolov8.decode (nms: engine.models.nms)"},
    ),
    "engine.parts.model": Package(
        "engine.models.yolov8",
        modules="backbones blocks fuse network spec",
        names="SCALES DetectionModel ModelSpec Preds build_model find_spec load_pretrained",
    ),
    "engine.parts.plots": Package(
        "engine.plots",
        modules="confusion curves images labels style",
        renamed={"history": "engine.plots.results", "lettering": "engine.plots.fonts"},
        names="draw_detections plot_confusion plot_curves plot_images plot_labels plot_results",
        renamed_names={"write_picture": "engine.plots.write_image"},
    ),
    "engine.parts.metrics": Package(
        "engine.metrics",
        modules="coco collector confusion curves",
        renamed={"sample": "engine.metrics.image_matches", "table": "engine.metrics.match_table"},
        names="Curves DetectionMetrics DetectionScores MatchTable coco_ap",
    ),
    "engine.parts.data": Package(
        "engine.datasets",
        modules=(
            "classes convert description download generated groups label_errors "
            "outliers prepare source splits stratify workers"
        ),
        renamed={
            "cache": "engine.data.cache",
            "check_report": "engine.datasets.reports.check_report",
            "checks": "engine.datasets.findings",
            "compare": "engine.datasets.version_diff",
            "diff_report": "engine.datasets.reports.diff_report",
            "dataset": "engine.data.dataset",
            "digits": "engine.datasets.demo_digits",
            "duplicates": "engine.datasets.near_duplicates",
            "examine": "engine.datasets.scan",
            "fingerprint": "engine.datasets.source_digest",
            "images": "engine.data.images (looking at files: engine.datasets.image_scan)",
            "intake": "engine.datasets.label_checks",
            "loader": "engine.data.loader",
            "looks": "engine.datasets.image_scan",
            "page": "engine.datasets.reports.html_page",
            "prepared": "engine.data.manifest (open_dataset: engine.datasets.open)",
            "transforms": "engine.data.transforms",
        },
    ),
    "engine.parts.data.formats": Package(
        "engine.datasets.formats",
        modules=(
            "base coco cvat folder json_stream labelstudio shapes voc writers "
            "xml_tree yolo yolo_yaml"
        ),
        renamed={"splits": "engine.datasets.formats.given_splits"},
        names="detect_format open_reader",
        renamed_names={"FORMATS": "engine.datasets.formats.KINDS"},
    ),
    "engine.tuning": Package(
        "engine.hpo",
        modules="report space study sweep trial",
    ),
}
# Modules of packages that are still there.
MOVED_ALONE = {
    "engine.config.tracking": "engine.config.sections",
    "engine.config.base": "engine.settings.base",
    "engine.config.yaml_io": "engine.settings.yaml_io",
    "engine.config.kinds": "engine.settings.base",
    "engine.config.lines": "engine.settings.yaml_io",
    "engine.config.yaml_text": "engine.settings.yaml_io",
    "engine.detect.pictures": "engine.detect.batch_plots",
    "engine.detect.transfer": "engine.models.transfer",
    "engine.export.agreement": "engine.export.parity",
    "engine.export.job": "engine.model_formats.base",
    "engine.export.onnx": "engine.model_formats.onnx",
    "engine.export.pictures": "engine.export.parity_images",
    "engine.export.safetensors": "engine.model_formats.safetensors",
    "engine.stages.champion": "engine.stages.revalidate",
    "engine.stages.common": "engine.stages.layout",
    "engine.stages.epoch_pictures": "engine.detect.epoch_images",
    "engine.stages.parent": "engine.project.parent_process",
    "engine.stages.predict": "engine.stages.batch_predict",
    "engine.stages.start": "engine.stages.start_weights",
    "engine.tracking.checkpoints": "engine.tracking.checkpoint_uploads",
    "engine.tracking.classes": "engine.tracking.class_metrics",
    "engine.tracking.code_state": "engine.versioning.git_diff",
    "engine.tracking.devices": "engine.project.gpu_lock",
    "engine.tracking.dvc": "engine.versioning.dvc_repo",
    "engine.tracking.env_file": "engine.project.env_file",
    "engine.tracking.environment": "engine.project.environment",
    "engine.tracking.facts": "engine.tracking.run_metadata",
    "engine.tracking.fetch": "engine.registry.fetch",
    "engine.tracking.inputs": "engine.versioning.stage_inputs",
    "engine.tracking.machine": "engine.tracking.system_metrics",
    "engine.tracking.mlflow_run": "engine.tracking.mlflow_recorder",
    "engine.tracking.mlflow_store": "engine.tracking.mlflow_client",
    "engine.tracking.open_files": "engine.project.lock_holders",
    "engine.tracking.pictures": "engine.tracking.epoch_images",
    "engine.registry.gates": "engine.gates",
    "engine.tracking.promotion": "engine.gates",
    "engine.tracking.pyfunc": "engine.registry.pyfunc_model",
    "engine.tracking.registry": "engine.registry.registry",
    "engine.tracking.report": "engine.tracking.run_description",
    "engine.tracking.revisions": "engine.versioning.revisions",
    "engine.tracking.secrets": "engine.project.redaction",
    "engine.tracking.stages": "engine.tracking.stage_runs",
    "engine.tracking.sweeps": "engine.tracking.hpo_runs",
    "engine.tracking.trace": "engine.lineage.graph",
    "engine.tracking.trace_evidence": "engine.lineage.evidence",
    "engine.tracking.trace_files": "engine.lineage.from_files",
    "engine.tracking.trace_history": "engine.lineage.from_dvc",
    "engine.tracking.trace_registry": "engine.lineage.from_mlflow",
    "engine.tracking.trace_text": "engine.lineage.render",
    "engine.tracking.trace_workspace": "engine.lineage.from_workspace",
    "engine.tracking.training": "engine.tracking.training_run",
    "engine.tracking.workspace": "engine.project.workspace_lock",
}


# Modules that nothing took the place of, and what to do instead.
GONE = {
    "engine.export.torchscript": (
        "torch calls TorchScript deprecated: export to onnx, "
        "`detectflow export model=weights/best.pt format=onnx`"
    ),
    "engine.tracking.masking": (
        "secrets in a diff are no longer masked: by default no diff is uploaded, and "
        "tracking.code: diff uploads it as it is"
    ),
    "engine.tracking.moved": (
        "MLflow's database is no longer edited when a project is moved: docs/howto/mlflow.md says "
        "what to do"
    ),
}


def moved_to(name: str) -> str | None:
    """What became of a module, or a name of a package, of earlier versions, as a sentence without
    its full stop; None: there was none of that name, or nothing is known of it.
    """
    if name in GONE:
        return f"{name} is gone: {GONE[name]}"
    if name in MOVED_ALONE:
        return _is_now(name, MOVED_ALONE[name])
    package, _, last = name.rpartition(".")
    if package not in MOVED:
        return None
    place, modules, renamed, names, renamed_names = MOVED[package]
    if last in (others := {**renamed, **renamed_names}):
        return _is_now(name, others[last])
    if last in modules.split() or last in names.split():
        return _is_now(name, f"{place}.{last}")
    return f"{package} is {place} now, and '{last}' was no module of it: look for it in {place}"


def _is_now(old: str, new: str) -> str:
    return f"{old} is {new} now: import it from there"


class MovedFinder(MetaPathFinder, Loader):
    """Asked last, for what no other finder has. An old package is an empty module, so that it is
    asked for what the import names in it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in MOVED:
            return ModuleSpec(fullname, self, is_package=True)
        said = moved_to(fullname)
        if said is None:
            return None
        raise ModuleNotFoundError(said)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is in it."""


def report_moved_modules() -> None:
    """From now on an import of an old name says the new one."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
