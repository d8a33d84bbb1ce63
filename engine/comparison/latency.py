"""How long two exported files take for an image, measured in turns on this machine: what else runs
there slows both.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.comparison.models import Model
from engine.data.images import read_image
from engine.data.transforms import letterbox
from engine.detect.runtime import Runtime, load_runtime
from engine.difference import LEVEL, Difference
from engine.types import ImageRecord

IMAGES = 8  # of a round; each model sees them at its own input size
ROUNDS = 15  # at most, of both models, the order changing from one to the next
LEAST_ROUNDS = 5
BUDGET_S = 20.0


def compare_latency(
    champion: Model, candidate: Model, records: Sequence[ImageRecord], device: str
) -> Difference | None:
    """Milliseconds an image of the two networks (no decoding of the image, no NMS), one image at a
    time; the interval is Student's t over rounds. None where one of them is a file of predictions.
    """
    if champion.predictions or candidate.predictions or not records:
        return None
    chosen = records[:: max(1, len(records) // IMAGES)][:IMAGES]
    pixels = [read_image(record.file) for record in chosen]
    pair = [load_runtime(model.file, device) for model in (champion, candidate)]
    inputs = [[_input(image, runtime) for image in pixels] for runtime in pair]
    for runtime, images in zip(pair, inputs):  # the first calls set up threads and memory
        _ms(runtime, images)
    rounds: list[tuple[float, float]] = []
    started = time.monotonic()
    while len(rounds) < ROUNDS and (
        len(rounds) < LEAST_ROUNDS or time.monotonic() - started < BUDGET_S
    ):
        order = (0, 1) if len(rounds) % 2 else (1, 0)
        taken = {which: _ms(pair[which], inputs[which]) for which in order}
        rounds.append((taken[0], taken[1]))
    a, b = np.array(rounds).T
    low, high = _interval(b - a)
    return Difference(
        "ms", "", 0, len(chosen), float(a.mean()), float(b.mean()), low, high, groups=len(rounds)
    )


def _input(image: np.ndarray, runtime: Runtime) -> Tensor:
    boxed = letterbox(image, runtime.input_size(None))[0]
    return torch.from_numpy(boxed.copy()).permute(2, 0, 1)[None].float() / 255


def _ms(runtime: Runtime, images: Sequence[Tensor]) -> float:
    started = time.perf_counter()
    for image in images:
        runtime(image)
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return 1000 * (time.perf_counter() - started) / len(images)


def _interval(differences: np.ndarray) -> tuple[float, float]:
    from scipy.stats import t

    count = len(differences)
    half = float(t.ppf((1 + LEVEL) / 2, count - 1) * differences.std(ddof=1) / np.sqrt(count))
    mean = float(differences.mean())
    return mean - half, mean + half
