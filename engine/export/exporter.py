"""From a weight file to a file in another format that is known to say the same: load, fuse, write,
check, publish.

A file gets its name only after it has said the same as PyTorch (`engine.export.parity`); until then
it lies in a hidden folder that goes away with it. Same weights, same bytes. What is special about a
format stands in its own file in `engine.model_formats`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.config import ExportConfig
from engine.core.events import EXPORT_EVENTS, Callback, Callbacks
from engine.detect.model_io import load_model
from engine.detect.runtime import Runtime, load_runtime, runtime_of
from engine.errors import ExportError, WorkspaceError
from engine.export.metadata import file_meta
from engine.export.parity import check_parity
from engine.export.parity_images import batches
from engine.files import sha256_file
from engine.model_formats.base import ExportJob
from engine.model_formats.table import find_format


@dataclass(frozen=True)
class ExportReport:
    """One file that was written and says the same as PyTorch."""

    path: Path
    format: str
    sha256: str
    # flat and plain: images, their origin, the largest differences, detections
    check: dict[str, Any]


class Exporter:
    """`Exporter(settings)(weights, "onnx", folder, data)` -> ExportReport.

    Events: on_export_start (`exporter.job` is the fused model), on_export_end (`exporter.report`);
    once per file.
    """

    def __init__(
        self,
        settings: ExportConfig | None = None,
        operating_point: Mapping[str, Any] | None = None,
    ):
        """operating_point: thresholds and calibration for the files, in place of those of the
        weights.
        """
        self.settings = settings if settings is not None else ExportConfig()
        self.operating_point = operating_point
        self.callbacks = Callbacks(EXPORT_EVENTS)
        self.job: ExportJob | None = None
        self.report: ExportReport | None = None

    def add_callback(self, event: str, callback: Callback, may_fail: bool = False) -> None:
        """Call `callback(exporter)` at `event`."""
        self.callbacks.add(event, callback, may_fail)

    def set_callback(self, event: str, callback: Callback) -> None:
        """Replace the callbacks of `event`."""
        self.callbacks.set(event, callback)

    def __call__(
        self, weights: str | Path, format: str, folder: str | Path, data: str | Path | None = None
    ) -> ExportReport:
        """Write `folder/<name of the weights><suffix>`, compared on images of `data`, else on
        generated ones.

        Raises:
            ConfigError: an unknown format, an input size the strides forbid.
            CheckpointError: weights that are missing, damaged, or of another program.
            WorkspaceError: the folder cannot be written. DataError: `data` cannot be read.
            ExportError: the model cannot be expressed in the format, or the file differs from
                PyTorch.
        """
        weights, folder = Path(weights), Path(folder)
        chosen = find_format(format)
        target = folder / f"{weights.stem}{chosen.suffix}"
        if target.absolute() == weights.absolute():
            raise ExportError(
                f"{weights} is in this format already, and an export does not overwrite its "
                "source; choose another folder."
            )
        self.job, self.report = None, None
        self.job, reference = self.prepare(weights, chosen.name)
        self.callbacks.run("on_export_start", self)
        with staging(folder) as stage:
            fresh = stage / target.name
            chosen.write(self.job, fresh)
            check = self.check(fresh, reference, data)
            os.replace(fresh, target)
        self.report = ExportReport(target, format, sha256_file(target), check)
        self.callbacks.run("on_export_end", self)
        return self.report

    def prepare(self, weights: Path, format: str) -> tuple[ExportJob, Runtime]:
        """What the formats are given, and the network as trained to compare with. ExportError where
        networks like this one cannot be written in the format.
        """
        loaded = load_model(weights, "cpu")
        if reason := loaded.family.can_export(loaded.spec, format):
            raise ExportError(
                f"{weights}: a {loaded.meta['model']} cannot be exported to {format}: {reason}"
            )
        reference = runtime_of(loaded, torch.device("cpu"))
        size = reference.input_size(self.settings.imgsz)
        batch = None if self.settings.dynamic else self.settings.batch
        meta = file_meta(
            loaded.meta,
            loaded.names,
            size,
            reference.stride,
            batch,
            sha256_file(weights),
            reference.needs_nms,
            self.operating_point,
        )
        job = ExportJob(
            module=loaded.family.export_module(loaded.module, size),
            raw_state=loaded.state,
            size=size,
            batch=self.settings.batch,
            dynamic=self.settings.dynamic,
            opset=self.settings.opset,
            meta=meta,
        )
        return job, reference

    def check(self, file: Path, reference: Runtime, data: str | Path | None) -> dict[str, Any]:
        """The metrics of the comparison; ExportError where a difference is too large."""
        exported = load_runtime(file, "cpu")
        size = exported.input_size(self.job.size)
        images = batches(data, self.settings.check_images, size)
        parity = check_parity(reference, exported, images, file.name)
        origin = "generated images" if data is None else "images of the dataset"
        return {"origin": origin, **parity.metrics()}


def export(
    weights: str | Path,
    format: str,
    folder: str | Path,
    settings: ExportConfig | None = None,
    data: str | Path | None = None,
) -> ExportReport:
    """`Exporter` in one call."""
    return Exporter(settings)(weights, format, folder, data)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder within `folder`, on the same file system, that is gone afterwards whatever
    happens.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stage = tempfile.TemporaryDirectory(
            prefix=".export-", dir=folder, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise WorkspaceError(
            f"{folder}: cannot be written ({error.strerror or error}). Check who owns it and "
            "whether it is a folder, or choose another one."
        ) from error
    with stage as path:
        yield Path(path)
