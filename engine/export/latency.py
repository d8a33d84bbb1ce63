"""How long an exported file takes for an image on this machine: for people, it decides nothing."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.detect.runtime import load_runtime
from engine.files import sha256_file

WARM_UP, RUNS = 3, 30
MOST_S = 5.0  # a large network gets fewer runs


def measure_latency(file: Path, device: str = "cpu") -> dict[str, Any]:
    """The network alone, one image at a time: median and 90th percentile in milliseconds.

    Images are noise: a network without a selection of its own takes as long for any.

    Raises:
        CheckpointError: a file that cannot be run.
    """
    runtime = load_runtime(file, device)
    h, w = runtime.fixed_size or runtime.imgsz
    image = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(0))
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < WARM_UP + RUNS and (
        time.perf_counter() - began < MOST_S or len(taken) <= WARM_UP
    ):
        start = time.perf_counter()
        runtime(image)
        taken.append(1000 * (time.perf_counter() - start))
    median, p90 = np.percentile(taken[WARM_UP:], [50, 90])
    return {
        "sha256": sha256_file(file),
        "median_ms": round(float(median), 2),
        "p90_ms": round(float(p90), 2),
        "runs": len(taken) - WARM_UP,
        "input": f"{w}x{h}",
        "machine": f"{platform.machine()}, {runtime.device}, {os.cpu_count()} CPUs",
    }
