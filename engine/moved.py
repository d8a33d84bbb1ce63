"""Where modules are now that had another name in earlier versions: code of the user's own that
imports an old name is told the new one. Nothing here keeps an old name working.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Old package -> where its modules are, and those of them that have another name or place too.
MOVED: dict[str, tuple[str, dict[str, str]]] = {
    "engine.kernel": (
        "engine.core",
        {
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
    "engine.parts": (
        "engine.models.yolov8",
        {"decode": "engine.models.yolov8.decode (nms: engine.models.nms)"},
    ),
    "engine.parts.model": ("engine.models.yolov8", {}),
    "engine.parts.plots": (
        "engine.plots",
        {"history": "engine.plots.results", "lettering": "engine.plots.fonts"},
    ),
    "engine.parts.metrics": (
        "engine.metrics",
        {"sample": "engine.metrics.image_matches", "table": "engine.metrics.match_table"},
    ),
    "engine.parts.data": (
        "engine.datasets",
        {
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
    "engine.parts.data.formats": (
        "engine.datasets.formats",
        {"splits": "engine.datasets.formats.given_splits"},
    ),
    "engine.tuning": ("engine.hpo", {}),
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
    "engine.tracking.training": "engine.tracking.training_run",
    "engine.tracking.workspace": "engine.project.workspace_lock",
}


def new_name(module: str) -> str | None:
    """The present name of a module of earlier versions; None: it had no other."""
    if module in MOVED:
        return MOVED[module][0]
    package, _, name = module.rpartition(".")
    if package in MOVED:
        place, others = MOVED[package]
        return others.get(name, f"{place}.{name}")
    return MOVED_ALONE.get(module)


class MovedFinder(MetaPathFinder, Loader):
    """Asked last, for what no other finder has. An old package is an empty module, so that it is
    asked for what the import names in it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in MOVED:
            return ModuleSpec(fullname, self, is_package=True)
        new = new_name(fullname)
        if new is None:
            return None
        raise ModuleNotFoundError(f"{fullname} is {new} now: import it from there")

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is in it."""


def report_moved_modules() -> None:
    """From now on an import of an old name says the new one."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
