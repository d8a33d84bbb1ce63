"""One callable for every model file: images in, boxes and scores of the candidates out.

A file is opened by its suffix, through `engine.model_formats.table`. What it says of itself (class
names, input size, digests) is in `meta`, the same keys whatever the format. No image handling and
no NMS here. Letters: B images, N candidates of one image, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.detect.model_io import LoadedModel, check_class_hash, is_weight_file, load_model
from engine.detect.operating_point import point_in
from engine.errors import CheckpointError, ConfigError
from engine.metrics.operating_point import OperatingPoint
from engine.model_formats.metadata import decode_meta
from engine.model_formats.table import check_suffix, format_of
from engine.models.registry import CandidateModule, Candidates, check_input_size
from engine.types import Size


@dataclass(frozen=True)
class Runtime:
    """A loaded detector. Calling it takes images (B, 3, H, W) float RGB in [0, 1] and gives boxes
    (B, N, 4) xyxy in pixels of the input and scores (B, N, C) in [0, 1], both float32.
    """

    function: Callable[[Tensor], Candidates]
    names: tuple[str, ...]
    imgsz: Size  # (h, w) it was trained for
    device: torch.device
    fixed_batch: int | None = None  # the file takes exactly this many images at a time
    fixed_size: Size | None = None  # the file takes exactly this (h, w)
    stride: int = 32  # input sides must be multiples of this
    meta: Mapping[str, Any] = field(default_factory=dict)
    size_check: Callable[[Size], None] | None = None  # of the network; None: the stride alone says
    # from which scores on detections of each class are reported; None: the file does not say
    operating_point: OperatingPoint | None = None

    @property
    def needs_nms(self) -> bool:
        """Whether the candidates still hold several boxes of one object."""
        return bool(self.meta.get("needs_nms", True))

    @property
    def selects(self) -> bool:
        """Whether the candidates are a selection by the network: their number and order follow the
        image, and rounding.
        """
        return bool(self.meta.get("selects", not self.needs_nms))

    def __call__(self, images: Tensor) -> Candidates:
        with torch.inference_mode():
            images = images.to(self.device)
            if self.fixed_batch is None or len(images) == self.fixed_batch:
                boxes, scores = self.function(images)
            else:
                boxes, scores = self._in_portions(images, self.fixed_batch)
            return boxes.float(), scores.float()

    def _in_portions(self, images: Tensor, size: int) -> Candidates:
        boxes, scores = [], []
        for portion in images.split(size):  # no image at all is one portion of none
            padding = images.new_zeros(size - len(portion), *images.shape[1:])
            found = self.function(torch.cat((portion, padding)))
            boxes.append(found[0][: len(portion)])
            scores.append(found[1][: len(portion)])
        return torch.cat(boxes), torch.cat(scores)

    def input_size(self, wanted: int | tuple[int, int] | None) -> Size:
        """(h, w) to letterbox to: `wanted`, else as trained. ConfigError when the file or the
        network forbid it.
        """
        size = self.fixed_size or self.imgsz
        if wanted is not None:
            size = (wanted, wanted) if isinstance(wanted, int) else (int(wanted[0]), int(wanted[1]))
        if self.fixed_size is not None and size != self.fixed_size:
            raise ConfigError(
                f"imgsz {size[0]}x{size[1]} does not fit: this exported file takes "
                f"{self.fixed_size[0]}x{self.fixed_size[1]} only. Leave imgsz out, or export again "
                f"with imgsz={size[0]}."
            )
        if self.size_check is not None:
            self.size_check(size)
        else:
            check_input_size(size, self.stride, self.stride)
        return size


class RuntimeModule(nn.Module):
    """A `Runtime` where a module is asked for: the validator's model. It has no weights to move or
    to train.
    """

    def __init__(self, runtime: Runtime):
        super().__init__()
        self.runtime = runtime

    def forward(self, images: Tensor) -> Candidates:
        return self.runtime(images)


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU or the CPU; ConfigError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device '{name}' is unknown: use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device '{name}' is not there: {torch.cuda.device_count()} GPUs seen. Use device=cpu."
        )
    return device


def load_runtime(path: str | Path, device: str = "auto") -> Runtime:
    """The detector in a file, by its suffix. CheckpointError says what is wrong with a file that
    cannot be used.
    """
    path = Path(path)
    check_suffix(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file. Train a model first, or give model=PATH of a weight file."
        )
    chosen = choose_device(device)
    if is_weight_file(str(path)):
        return runtime_of_file(load_model(path, chosen), chosen, path)
    opened = format_of(path).load(path, chosen)
    meta = decode_meta(opened.meta, path, required=("names", "imgsz", "stride"))
    check_class_hash(meta, path)
    h, w = meta["imgsz"]
    return Runtime(
        opened.function,
        tuple(meta["names"]),
        (int(h), int(w)),
        opened.device,
        opened.fixed_batch,
        opened.fixed_size,
        int(meta["stride"]),
        meta,
        operating_point=point_in(meta, len(meta["names"]), path),
    )


def runtime_of_file(loaded: LoadedModel, device: torch.device, path: Path) -> Runtime:
    """The network that was read from the weight file `path`, with the thresholds that it brings."""
    point = point_in(loaded.meta, len(loaded.names), path)
    return replace(runtime_of(loaded, device), operating_point=point)


def runtime_of(loaded: LoadedModel, device: torch.device) -> Runtime:
    """A network at hand as a `Runtime`; it computes as trained, nothing is fused."""
    function = CandidateModule(loaded.family, loaded.module, len(loaded.names)).to(device).eval()
    return Runtime(
        function,
        loaded.names,
        loaded.imgsz,
        device,
        stride=int(loaded.meta["stride"]),
        meta=dict(loaded.meta),
        size_check=loaded.check_size,
    )
