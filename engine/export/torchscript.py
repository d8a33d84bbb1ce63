"""TorchScript by tracing: for C++ and old services. Torch calls it deprecated; new work should take
ONNX.

Torch writes source paths and a process-wide counter into the archive; it is written anew without
them, so that the same weights give the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import torch

from engine.detect.runtime import META_FILE
from engine.errors import ExportError
from engine.export.job import ExportJob
from engine.export.onnx import first_reason, quiet
from engine.files import write_bytes

ROOT = "detector"  # the folder within the archive; torch would take the file's name
EPOCH = (1980, 1, 1, 0, 0, 0)  # the zip format's zero
COUNTER = re.compile(rb"___torch_mangle_\d+")


def write_torchscript(job: ExportJob, path: Path) -> None:
    """Write `path`. ExportError when the model cannot be traced."""
    example = torch.zeros(job.batch, 3, *job.size)
    archive = io.BytesIO()
    try:
        with quiet(io.StringIO()), torch.no_grad():
            traced = torch.jit.freeze(torch.jit.trace(job.module, example, check_trace=False))
            torch.jit.save(
                traced,
                archive,
                _extra_files={META_FILE: json.dumps(dict(job.meta), sort_keys=True)},
            )
    except Exception as error:  # tracing runs any code of the model
        raise ExportError(
            f"torchscript: the model cannot be traced: {first_reason(error)}."
        ) from error
    write_bytes(path, canonical(archive.getvalue()))


def canonical(archive: bytes) -> bytes:
    """The same TorchScript archive without source paths, time, file name and class counters."""
    numbers: dict[bytes, bytes] = {}

    def renumber(match: re.Match[bytes]) -> bytes:
        return numbers.setdefault(match[0], b"___torch_mangle_%d" % len(numbers))

    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new,
    ):
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            if name.endswith(".debug_pkl") or name.startswith(
                ".data/"
            ):  # source positions; an id of all this
                continue
            content = old.read(info)
            if name.endswith((".py", "data.pkl", "constants.pkl")):
                content = COUNTER.sub(renumber, content)
            name = COUNTER.sub(renumber, name.encode()).decode()
            new.writestr(zipfile.ZipInfo(f"{ROOT}/{name}", EPOCH), content)
    return target.getvalue()
