"""One callable for every weight file: .pt, .safetensors, .onnx, .torchscript -> raw output (B, 4 +
nc, A).

The raw output is that of the exported model: xywh in input pixels and sigmoid scores, before NMS.
What a file says of itself (class names, input size, digests) is in `meta`, the same keys whatever
the format. No image handling here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.boxes import xywh_to_xyxy
from engine.detect.model_io import LoadedModel, check_class_hash
from engine.errors import CheckpointError, ConfigError
from engine.models.registry import CandidateModule
from engine.types import Size

RawFunction = Callable[[Tensor], Tensor]  # (B, 3, H, W) float RGB in [0, 1] -> (B, 4 + nc, A) float


Candidates = tuple[Tensor, Tensor]


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

    @property
    def needs_nms(self) -> bool:
        """Whether the candidates still hold several boxes of one object."""
        return bool(self.meta.get("needs_nms", True))

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
        strides forbid it.
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
        if min(size) < self.stride or any(side % self.stride for side in size):
            up = [max(self.stride, -(-side // self.stride) * self.stride) for side in size]
            raise ConfigError(
                f"imgsz {size[0]}x{size[1]} is no multiple of the stride {self.stride}: try {up}."
            )
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


def split_raw(raw: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 4 + nc, A) -> boxes (B, A, 4) xyxy input pixels, scores (B, A, nc): what
    `engine.models.yolov8.decode.nms` takes.
    """
    raw = raw.transpose(1, 2)
    return xywh_to_xyxy(raw[..., :4]), raw[..., 4:]


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
    load = LOADERS.get(path.suffix.lower())
    if load is None:
        raise CheckpointError(
            f"{path}: cannot run a '{path.suffix}' file; known are {', '.join(LOADERS)}."
        )
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such file. Train a model first, or give model=PATH of a weight file."
        )
    return load(path, choose_device(device))


def _load_module(path: Path, device: torch.device) -> Runtime:
    from engine.detect.model_io import load_model

    return runtime_of(load_model(path, device), device)


def runtime_of(loaded: LoadedModel, device: torch.device) -> Runtime:
    """A network at hand as a `Runtime`; it computes as trained, nothing is fused."""
    function = CandidateModule(loaded.family, loaded.module).to(device).eval()
    stride = int(loaded.meta["stride"])
    return Runtime(
        function, loaded.names, loaded.imgsz, device, stride=stride, meta=dict(loaded.meta)
    )


def _load_onnx(path: Path, device: torch.device) -> Runtime:
    import onnxruntime

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
    meta = read_text_meta(session.get_modelmeta().custom_metadata_map, path)
    batch, _, *size = session.get_inputs()[0].shape
    name = session.get_inputs()[0].name
    half = "float16" in session.get_inputs()[0].type

    def function(images: Tensor) -> Tensor:
        array = images.cpu().numpy()
        return split_raw(
            torch.from_numpy(
                session.run(None, {name: array.astype("float16") if half else array})[0]
            )
        )

    return Runtime(
        function,
        tuple(meta["names"]),
        _size(meta["imgsz"]),
        torch.device("cpu"),
        fixed_batch=batch if isinstance(batch, int) else None,
        fixed_size=tuple(size) if all(isinstance(side, int) for side in size) else None,
        stride=int(meta["stride"]),
        meta=meta,
    )


def _load_torchscript(path: Path, device: torch.device) -> Runtime:
    extra = {META_FILE: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # torch asks to prefer torch.export; old services have no choice
            module = torch.jit.load(str(path), map_location=device, _extra_files=extra).eval()
        text = extra[META_FILE]
        known = json.loads(text)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not a usable TorchScript file of this project: {error}"
        ) from None
    meta = read_text_meta(known, path)
    batch = meta["batch"] if isinstance(meta.get("batch"), int) else None
    size = _size(meta["imgsz"])
    return Runtime(
        module,
        tuple(meta["names"]),
        size,
        device,
        batch,
        fixed_size=size,
        stride=int(meta["stride"]),
        meta=meta,
    )


META_FILE = "detectflow.json"  # within a TorchScript archive

LOADERS: dict[str, Callable[[Path, torch.device], Runtime]] = {
    ".pt": _load_module,
    ".safetensors": _load_module,
    ".onnx": _load_onnx,
    ".torchscript": _load_torchscript,
}


def read_text_meta(texts: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Metadata of an exported file (text values, JSON where they are lists or numbers) as plain
    data.
    """
    missing = [key for key in ("names", "imgsz", "stride") if key not in texts]
    if missing:
        raise CheckpointError(
            f"{path}: lacks the metadata {', '.join(missing)}: not exported by this project. "
            "Export it with: detectflow export model=weights/best.pt"
        )
    meta: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            meta[key] = json.loads(text) if key in JSON_KEYS else text
        except ValueError:
            raise CheckpointError(
                f"{path}: its metadata '{key}' is damaged: {text[:60]!r}. Export it again."
            ) from None
    check_class_hash(meta, path)
    return meta


JSON_KEYS = frozenset({"names", "imgsz", "stride", "batch", "architecture", "opset"})


def _size(imgsz: Any) -> Size:
    return (
        (int(imgsz), int(imgsz))
        if isinstance(imgsz, (int, float))
        else (int(imgsz[0]), int(imgsz[1]))
    )
