"""The table of formats. A new one is a file of its own and an entry here: configuration, commands,
help, documentation, `YOLO`, validation, prediction and trace find it in this table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from engine.errors import CheckpointError, ConfigError, nearest
from engine.model_formats.base import Format
from engine.model_formats.onnx import ONNX
from engine.model_formats.safetensors import SAFETENSORS

FORMATS: dict[str, Format] = {each.name: each for each in (ONNX, SAFETENSORS)}

CHECKPOINT = ".pt"  # what training writes; no format to export to
REGISTERED = re.compile(r"^models:|@[^./]+$")  # a name such as detector@champion
OTHERS = {  # formats that people know, and how to come to them from what is written here
    "engine": "TensorRT builds it from the ONNX file: trtexec --onnx=FILE --saveEngine=FILE",
    "tensorrt": "TensorRT builds it from the ONNX file: trtexec --onnx=FILE --saveEngine=FILE",
    "openvino": "OpenVINO reads the ONNX file as it is, and `ovc FILE` converts it",
    "ncnn": "pnnx converts the ONNX file",
    "mnn": "MNNConvert converts the ONNX file",
    "rknn": "Rockchip's toolkit reads the ONNX file",
    **dict.fromkeys(
        ("coreml", "saved_model", "pb", "tflite", "edgetpu", "tfjs", "paddle", "imx", "executorch"),
        "It is converted from the ONNX file by the tools of its maker",
    ),
}
REMOVED = ("torchscript",)  # torch calls it deprecated, and such a file can run any code


def find_format(name: str) -> Format:
    """The format of that name. ConfigError names the nearest."""
    if name in REMOVED:
        raise ConfigError(f"{name} is no longer an export format: use onnx.")
    if name.lower() in FORMATS:
        return FORMATS[name.lower()]
    if name.lower() in OTHERS:
        raise ConfigError(
            f"no export format '{name}': write onnx. {OTHERS[name.lower()]}. Formats: "
            f"{', '.join(FORMATS)}"
        )
    if name not in FORMATS:
        raise ConfigError(
            f"no export format '{name}'.{nearest(name, FORMATS)} Formats: {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def format_of(path: Path) -> Format | None:
    """The format of a file by its suffix; None: a checkpoint, or no model file."""
    suffix = path.suffix.lower()
    return next((each for each in FORMATS.values() if each.suffix == suffix), None)


def model_suffixes() -> tuple[str, ...]:
    """Of every file that holds a detector."""
    return CHECKPOINT, *(each.suffix for each in FORMATS.values())


def weight_suffixes() -> tuple[str, ...]:
    """Of files that hold weights as trained: a training can start from them, an export too."""
    return CHECKPOINT, *(each.suffix for each in FORMATS.values() if each.read_weights)


def header_of(path: Path) -> Mapping[str, str]:
    """The metadata in the header of an exported file.

    Raises:
        CheckpointError: no such format, missing or damaged.
    """
    known = format_of(path)
    if known is None:
        raise CheckpointError(f"{path}: no exported model; known are {', '.join(FORMATS)}")
    try:
        return known.read_meta(path)
    except Exception as error:  # whatever a damaged file makes of its library
        raise CheckpointError(
            f"{path}: no readable {known.name} file ({type(error).__name__}). Export it again"
        ) from error


def is_model_file(path: Path) -> bool:
    """Whether the name is that of a detector's file, also of one that `check_suffix` refuses."""
    return path.suffix.lower() in model_suffixes() or _is_removed(path)


def check_suffix(path: Path) -> None:
    """CheckpointError where files of this name are not opened, with what to do."""
    if _is_removed(path):
        raise CheckpointError(
            f"{path}: {path.suffix} files are no longer opened: export the weights as ONNX, "
            "detectflow export model=weights/best.pt format=onnx"
        )
    if REGISTERED.search(path.as_posix()):
        raise CheckpointError(
            f"{path}: is no weight file. If it names a registered model: `Detector` and the "
            "commands take its name, and engine.registry.fetch.file_of gives its file"
        )
    if not path.suffix:
        raise CheckpointError(
            f"{path}: is no weight file. A network by its name has no trained weights: give "
            "model=weights/best.pt, which a training writes, or another "
            f"{', '.join(model_suffixes())} file"
        )
    if not is_model_file(path):
        raise CheckpointError(
            f"{path}: cannot run a '{path.suffix}' file; known are {', '.join(model_suffixes())}."
        )


def _is_removed(path: Path) -> bool:
    return path.suffix.lower().removeprefix(".") in REMOVED
