"""ONNX: written through torch.export (the dynamo exporter), run by onnxruntime. Outputs `boxes` and
`scores`, a free batch size, metadata, and nothing of the machine the file was made on.

The exporter writes a stack trace with absolute paths to every node and is talkative; both are taken
away here. The file's bytes depend on the weights, the settings and the versions of torch and
onnxscript, on nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import CheckpointError, ExportError
from engine.files import write_bytes
from engine.model_formats.base import ExportJob, Format, OpenFile
from engine.model_formats.metadata import decode_meta

if TYPE_CHECKING:
    import torch
    from torch import Tensor

INPUT, OUTPUTS = "images", ("boxes", "scores")
TALKERS = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")


def write_onnx(job: ExportJob, path: Path) -> None:
    """Write `path`. ExportError when the model cannot be expressed or the checker refuses it."""
    import onnx
    import torch

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
                output_names=list(OUTPUTS),
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


@functools.cache  # a second for each
def check_opset(opset: int) -> None:
    """ExportError where the exporter installed here does not write `opset`. Asks it with a network
    of one layer, since torch has no list of them.
    """
    import torch

    class OneLayer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 5, 3)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            rows = self.layer(images).flatten(2).transpose(1, 2)  # (B, N, 5)
            return rows[..., :4], rows[..., 4:]

    with torch.random.fork_rng(devices=[]):
        network = OneLayer().eval()
    job = ExportJob(network, {}, size=(8, 8), batch=2, dynamic=True, opset=opset, meta={})
    with tempfile.TemporaryDirectory(prefix="detectflow-") as folder:
        write_onnx(job, Path(folder) / "one_layer.onnx")


def read_onnx_meta(path: Path) -> Mapping[str, str]:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return {entry.key: entry.value for entry in model.metadata_props}


def load_onnx(path: Path, device: torch.device) -> OpenFile:
    """onnxruntime on `device` where it has a provider for it; images are handed over on the CPU.

    Raises:
        CheckpointError: no ONNX file, not of this project, or of an older version.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = torch.get_num_threads()
    available = onnxruntime.get_available_providers()
    on_gpu = device.type == "cuda" and "CUDAExecutionProvider" in available
    gpu = [("CUDAExecutionProvider", {"device_id": device.index or 0})] if on_gpu else []
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[*gpu, "CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's own exception types are private
        raise CheckpointError(f"{path}: not a usable ONNX file: {error}") from None
    meta = session.get_modelmeta().custom_metadata_map
    _check_outputs([output.name for output in session.get_outputs()], meta, path)
    batch, _, *size = session.get_inputs()[0].shape
    name = session.get_inputs()[0].name
    kind = "float16" if "float16" in session.get_inputs()[0].type else "float32"

    def function(images: Tensor) -> tuple[Tensor, Tensor]:
        array = images.cpu().numpy().astype(kind, copy=False)
        boxes, scores = session.run(list(OUTPUTS), {name: array})
        return torch.from_numpy(boxes), torch.from_numpy(scores)

    return OpenFile(
        function,
        meta,
        torch.device("cpu"),
        fixed_batch=batch if isinstance(batch, int) else None,
        fixed_size=tuple(size) if all(isinstance(side, int) for side in size) else None,
    )


def _check_outputs(names: list[str], meta: Mapping[str, str], path: Path) -> None:
    decode_meta(meta, path, required=("names", "imgsz", "stride"))  # first: whether it is ours
    if not {*OUTPUTS} <= {*names}:
        raise CheckpointError(
            f"{path}: exported by an older version (its output is {', '.join(names)}; expected "
            f"{' and '.join(OUTPUTS)}): export again with "
            "`detectflow export model=weights/best.pt format=onnx`"
        )


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


ONNX = Format(
    name="onnx",
    suffix=".onnx",
    about="for onnxruntime and other programs; needs no PyTorch",
    write=write_onnx,
    read_meta=read_onnx_meta,
    load=load_onnx,
    check_opset=check_opset,
)
