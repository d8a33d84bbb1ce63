"""Stage export: the best weights in the formats that are asked for, each compared with
PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.errors import WorkspaceError
from engine.files import sha256_file
from engine.stages.layout import (
    Attached,
    Layout,
    Progress,
    publish_folder,
    read_json,
    write_json,
)
from engine.stages.progress import step_progress


def run(
    params: Params, root: Path, progress: Progress | None = None, callbacks: Sequence[Attached] = ()
) -> dict[str, Any]:
    """Write `export/` and `reports/export.json`.

    Raises:
        ExportError: a format could not be written, or its output differs from PyTorch's.
    """
    from engine.export import Exporter

    layout = Layout(root)
    weights = sha256_file(layout.best)
    exporter = Exporter(params.export, operating_point(layout, weights))
    for event, function in callbacks:
        exporter.add_callback(event, function, may_fail=True)
    files: dict[str, Any] = {}
    with publish_folder(layout.export) as folder:
        for number, name in enumerate(params.export.formats, 1):
            report = exporter(layout.best, name, folder, data=layout.prepared)
            files[name] = {
                "file": f"export/{report.path.name}",
                "sha256": report.sha256,
                **report.check,
            }
            if progress is not None:
                progress(step_progress("export", number, len(params.export.formats)))
    summary = {"weights_sha256": weights, "files": files}
    return write_json(layout.summary("export"), summary)


def operating_point(layout: Layout, weights: str) -> dict[str, Any] | None:
    """The thresholds and the calibration that stage validate chose for these weights; None: it
    chose none, or has not run, and the files get those that the weights bring, if any.

    Raises:
        WorkspaceError: they are of other weights.
    """
    from engine.metrics.operating_point import KEY

    if not layout.thresholds.is_file():
        return None
    chosen = read_json(layout.thresholds, "validate")
    if chosen.get("weights_sha256") != weights:
        raise WorkspaceError(
            f"{layout.thresholds} is about other weights "
            f"({str(chosen.get('weights_sha256'))[:12]}) than {layout.best} ({weights[:12]}). Run "
            "stage validate again: `detectflow run`."
        )
    return chosen.get(KEY)
