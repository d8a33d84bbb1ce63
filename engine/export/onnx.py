"""ONNX through torch.export (the dynamo exporter): a free batch size, metadata, and nothing of the
machine it was made on.

The exporter writes a stack trace with absolute paths to every node and is talkative; both are taken
away here. The file's bytes depend on the weights, the settings and the versions of torch and
onnxscript, on nothing else.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from engine.errors import ExportError
from engine.export.job import ExportJob
from engine.files import write_bytes

INPUT, OUTPUT = "images", "output"
TALKERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")


def write_onnx(job: ExportJob, path: Path) -> None:
    """Write `path`. ExportError when the model cannot be expressed or the checker refuses it."""
    import onnx

    # With a batch of one torch.export would take "one" for a property of the model.
    example = torch.zeros(max(job.batch, 2) if job.dynamic else job.batch, 3, *job.size)
    shapes = ({0: torch.export.Dim("batch")},) if job.dynamic else None
    said = io.StringIO()
    try:
        with quiet(said):
            program = torch.onnx.export(
                job.module,
                (example,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                opset_version=job.opset,
                external_data=False,
                verbose=False,
            )
            proto = program.model_proto
    except Exception as error:  # the exporter raises a dozen private types
        raise ExportError(
            f"onnx: the model cannot be exported: {first_reason(error)}. Layers of your own must "
            "be made of torch operations; try another opset."
        ) from error
    made_for = next(
        entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")
    )
    if job.opset is not None and made_for != job.opset:
        raise ExportError(
            f"onnx: opset {job.opset} cannot be made, the exporter gives {made_for}: use "
            f"opset={made_for}."
        )
    tidy(proto)
    onnx.helper.set_model_props(proto, dict(sorted({**job.meta, "opset": str(made_for)}.items())))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"onnx: the file would not be valid ONNX: {error}") from None
    write_bytes(path, proto.SerializeToString(deterministic=True))


def first_reason(error: BaseException) -> str:
    """What began it all, in one line: the exporters wrap an error in several of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def tidy(proto: Any) -> None:
    """Remove notes about the machine and the Python source from a ModelProto, in place."""
    proto.producer_version = proto.producer_version.split("+")[0]
    proto.doc_string = ""
    del proto.metadata_props[:]
    _tidy_graph(proto.graph)
    for function in proto.functions:
        _forget(function)
        for node in function.node:
            _tidy_node(node)


def _tidy_graph(graph: Any) -> None:
    _forget(graph)
    del graph.value_info[
        :
    ]  # shapes in between, which every reader infers; kept they would keep their notes
    for each in (*graph.input, *graph.output, *graph.initializer):
        _forget(each)
    for node in graph.node:
        _tidy_node(node)


def _tidy_node(node: Any) -> None:
    _forget(node)
    for attribute in node.attribute:
        attribute.doc_string = ""
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            _tidy_graph(graph)


def _forget(message: Any) -> None:
    message.doc_string = ""
    del message.metadata_props[:]


@contextlib.contextmanager
def quiet(said: io.StringIO) -> Iterator[None]:
    """Take prints, warnings and log lines of the exporter into `said`."""
    loggers = [logging.getLogger(name) for name in TALKERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
