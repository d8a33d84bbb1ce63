"""One pipeline at a time on a GPU: two workspaces of one machine would else divide its memory, and
one of them run out of it.

A lock as the workspace's, named by the GPU itself and not by its number, which CUDA_VISIBLE_DEVICES
can change. It holds for
all who use the same folder: by default one user's processes, whichever Prefect server they report
to, and `dvc repro` too.
"""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from engine.config import Params
from engine.project.workspace_lock import named_lock

FOLDER_VARIABLE = "DETECTFLOW_GPU_LOCKS"  # a folder that several users may write, or `off`


@contextlib.contextmanager
def gpu_of_stage(stage: str, params: Params, root: Path) -> Iterator[None]:
    """Around a stage: hold the GPU that it will compute on; nothing where it computes on the CPU.

    Raises:
        ConfigError: the device is not known, or not there.
    """
    asked = {"train": params.train.device, "validate": params.validate_.device}.get(stage)
    gpu = gpu_id(asked) if asked and lock_folder() else None
    with gpu_lock(gpu, f"stage {stage} of {root}") if gpu else contextlib.nullcontext():
        yield


def gpu_id(asked: str) -> str | None:
    """The hardware's own id of the GPU that `device=asked` stands for, None for a CPU."""
    import torch

    from engine.core.distributed import select_device

    device = select_device(asked)
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}" if device.type == "cuda" else None


@contextlib.contextmanager
def gpu_lock(gpu: str, command: str, timeout_s: float | None = None) -> Iterator[None]:
    """Hold the GPU with this id, waiting for whoever has it; WorkspaceError names them after
    `timeout_s`.
    """
    folder = lock_folder()
    if folder is None:
        yield
        return
    with named_lock(
        folder / gpu, f"the GPU {gpu}", platform.node(), command, timeout_s=timeout_s, for_all=True
    ):
        yield


def lock_folder() -> Path | None:
    """Where the locks of this machine's GPUs lie; None: switched off."""
    named = os.environ.get(FOLDER_VARIABLE, "")
    if named.lower() in {"off", "0", "no", "false"}:
        return None
    return Path(named) if named else Path(tempfile.gettempdir()) / f"detectflow-gpus-{os.getuid()}"
