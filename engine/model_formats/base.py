"""What a format of model files is: what it is given to write, and what it gives when it is opened.

Letters: B images, N candidates of one image, C classes. Every file answers images (B, 3, H, W),
float RGB in [0, 1], with boxes (B, N, 4) xyxy in input pixels and scores (B, N, C) in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes seconds to import, and the help text reads this table
    import torch
    from torch import Tensor, nn

Size = tuple[int, int]  # (h, w), as `engine.types.Size`


@dataclass(frozen=True)
class ExportJob:
    """One model to be written in one or more formats."""

    module: nn.Module  # images -> (boxes, scores) as above; eval mode, on the CPU
    raw_state: Mapping[str, Tensor]  # the weights as trained, not fused
    size: Size  # of the input
    batch: int  # of the example, and of the file unless `dynamic`
    dynamic: bool  # the batch size is free
    opset: int | None  # ONNX operator set, None: the exporter's own
    meta: Mapping[str, str]  # see `engine.model_formats.metadata`


@dataclass(frozen=True)
class OpenFile:
    """A file that runs by itself."""

    function: Callable[[Tensor], tuple[Tensor, Tensor]]  # images on `device` -> (boxes, scores)
    meta: Mapping[str, str]
    device: torch.device
    fixed_batch: int | None = None  # it takes exactly this many images at a time
    fixed_size: Size | None = None  # it takes exactly this (h, w)


@dataclass(frozen=True)
class Format:
    """An entry of the table. A file either runs by itself (`load`) or holds the weights as trained
    (`read_weights`), from which training can start too.
    """

    name: str
    suffix: str  # with the dot, in lower case
    about: str  # what it is for, a clause for help and documentation
    write: Callable[[ExportJob, Path], None]  # ExportError where the model cannot be expressed
    read_meta: Callable[[Path], Mapping[str, str]]  # of the header alone; any error: damaged
    load: Callable[[Path, torch.device], OpenFile] | None = None  # CheckpointError: not usable
    # (metadata, state); CheckpointError: not readable
    read_weights: Callable[[Path], tuple[Mapping[str, str], Mapping[str, Tensor]]] | None = None
    # ExportError: the operator set cannot be written here, whatever the network; None: it has none
    check_opset: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        assert (self.load is None) != (self.read_weights is None), self.name
