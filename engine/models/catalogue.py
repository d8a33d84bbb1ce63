"""Networks that can be named as they are: what `detectflow models` lists, and which of them is
meant by a name from elsewhere.

Sizes and precision are those that the authors publish; the memory is measured by
`benchmarks/training_memory.py`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from engine.errors import nearest_name

COCO = "COCO_V1"


class Entry(NamedTuple):
    """One network."""

    name: str  # what train.model is
    family: str
    params: float  # millions, with COCO's 80 classes (torchvision: 91 columns)
    licence: str  # of the weights that come with the name; of the code where there are none
    ap: float | None  # COCO val2017, mAP50-95; None: the name brings no weights
    measured_px: int | None  # input side of that, where it is fixed
    smallest_px: int  # input side
    memory_gb: float  # of a training batch of 16 at 640 px, float32


def _yolov8(name: str, params: float, memory_gb: float) -> Entry:
    return Entry(name, "yolov8", params, "Apache-2.0", None, None, 32, memory_gb)


def _torchvision(
    name: str, params: float, ap: float, px: int | None, smallest: int, memory_gb: float
) -> Entry:
    full, licence = f"torchvision:{name}@{COCO}", "BSD-3-Clause"
    return Entry(full, "torchvision", params, licence, ap, px, smallest, memory_gb)


def _hf(name: str, params: float, ap: float, px: int, smallest: int, memory_gb: float) -> Entry:
    return Entry(f"hf:{name}", "hf", params, "Apache-2.0", ap, px, smallest, memory_gb)


CATALOGUE = (
    _yolov8("yolov8n", 3.2, 3.3),
    _yolov8("yolov8s", 11.2, 6.1),
    _yolov8("yolov8m", 25.9, 11.0),
    _yolov8("yolov8l", 43.7, 17.1),
    _yolov8("yolov8x", 68.2, 21.6),
    _hf("ustc-community/dfine-nano-coco", 3.7, 42.8, 640, 256, 4.1),
    _hf("ustc-community/dfine-small-coco", 10.2, 48.5, 640, 128, 9.0),
    _hf("ustc-community/dfine-medium-coco", 19.2, 52.3, 640, 128, 13.4),
    _hf("ustc-community/dfine-large-coco", 31.0, 54.0, 640, 128, 17.0),
    _hf("PekingU/rtdetr_v2_r18vd", 20.1, 48.1, 640, 128, 7.4),
    _hf("PekingU/rtdetr_v2_r34vd", 31.3, 49.9, 640, 128, 8.7),
    _hf("PekingU/rtdetr_v2_r50vd", 42.7, 53.4, 640, 128, 14.0),
    _hf("PekingU/rtdetr_v2_r101vd", 76.5, 54.3, 640, 128, 19.1),
    _hf("Roboflow/rf-detr-nano", 30.4, 48.4, 384, 288, 18.0),
    _hf("Roboflow/rf-detr-small", 32.1, 53.0, 512, 288, 21.1),
    _hf("Roboflow/rf-detr-medium", 33.6, 54.7, 576, 288, 24.2),
    _hf("Roboflow/rf-detr-large", 33.9, 56.5, 704, 288, 24.2),
    _torchvision("ssdlite320_mobilenet_v3_large", 3.4, 21.3, 320, 32, 6.2),
    _torchvision("ssd300_vgg16", 35.6, 25.1, 300, 268, 11.2),
    _torchvision("retinanet_resnet50_fpn", 34.0, 36.4, None, 32, 16.4),
    _torchvision("retinanet_resnet50_fpn_v2", 38.2, 41.5, None, 32, 17.6),
    _torchvision("fcos_resnet50_fpn", 32.3, 39.2, None, 32, 14.7),
    _torchvision("fasterrcnn_mobilenet_v3_large_320_fpn", 19.4, 22.8, 320, 32, 6.7),
    _torchvision("fasterrcnn_mobilenet_v3_large_fpn", 19.4, 32.8, None, 32, 6.7),
    _torchvision("fasterrcnn_resnet50_fpn", 41.8, 37.0, None, 32, 14.2),
    _torchvision("fasterrcnn_resnet50_fpn_v2", 43.7, 46.7, None, 32, 19.2),
)
# How people call detectors elsewhere -> what is nearest here, by the letter of the size.
_YOLO = re.compile(r"yolo(?:v?\d+)?-?([nstmblx])?(?:u)?(?:-\w+)?")
_RTDETR = re.compile(r"rt-?detr[-_]?(?:v2)?[-_]?(l|x|r18|r34|r50|r101)?\w*")
_DFINE = re.compile(r"d-?fine[-_]?(n|s|m|l|x|nano|small|medium|large|xlarge)?\w*")
_RFDETR = re.compile(r"rf-?detr[-_]?(nano|small|base|medium|large|2?x+l?|[nsbml])?\w*")
_DETR = re.compile(r"(?:[a-z]+[-_])?detr(?:[-_][\w-]*)?")
_ON_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Folders of a project like this one: a path into them is no name on the hub.
_FOLDERS = {"data", "datasets", "models", "runs", "weights", "checkpoints", "output", "outputs"}
_TIMM = "timm:"
_DFINES = {"n": "nano", "t": "nano", "s": "small", "m": "medium", "b": "large", "l": "large"}
_RFDETRS = {"n": "nano", "s": "small", "b": "medium", "m": "medium"}
_RTDETRS = {"l": "r50", "x": "r101"}


def ways(model: str) -> tuple[str, ...]:
    """Up to three values of `train.model` that are nearest to a name from elsewhere; () where none
    is near. `yolov8n.pt` means the same as `yolov8n` there: pretrained weights of that size.
    """
    word = model.strip().lower()
    stem = re.sub(r"\.(pt|pth|onnx|yaml|yml|safetensors|torchscript|engine)$", "", word)
    if match := _YOLO.fullmatch(stem):
        size = {"t": "n", "b": "l"}.get(match[1] or "n", match[1] or "n")
        return f"yolov8{size}", _dfine(size), f"torchvision:ssdlite320_mobilenet_v3_large@{COCO}"
    if match := _RTDETR.fullmatch(stem):
        size = _RTDETRS.get(match[1] or "l", match[1] or "r50")
        return (f"hf:PekingU/rtdetr_v2_{size}vd",)
    if match := _DFINE.fullmatch(stem):
        return (_dfine((match[1] or "n")[:1]),)
    if match := _RFDETR.fullmatch(stem):
        return (f"hf:Roboflow/rf-detr-{_RFDETRS.get((match[1] or 'n')[0], 'large')}",)
    if _DETR.fullmatch(stem):
        return "hf:PekingU/rtdetr_v2_r50vd", _dfine("n"), "hf:Roboflow/rf-detr-nano"
    plain = {entry.name.partition(":")[2] or entry.name: entry.name for entry in CATALOGUE}
    short = {name.rpartition("/")[2].partition("@")[0]: full for name, full in plain.items()}
    near = nearest_name(stem.removeprefix("hf:").removeprefix("torchvision:"), {**plain, **short})
    if near:
        return ({**plain, **short}[near],)
    owner = Path(model.partition("/")[0])
    is_path = owner.name.lower() in _FOLDERS or owner.exists()
    is_on_hub = _ON_HUB.fullmatch(model) and stem == word and not is_path
    return (f"hf:{model}",) if is_on_hub else ()


def not_a_detector(model: str) -> str:
    """What to write in place of `model`, where that names a backbone; "" where it does not."""
    if not model.startswith(_TIMM):
        return ""
    return f"names a backbone, not a detector: model=yolov8n backbone={model}"


def _dfine(size: str) -> str:
    return f"hf:ustc-community/dfine-{_DFINES.get(size, 'large')}-coco"


def in_words(model: str) -> str:
    """`" Near to it: model=yolov8n (fresh weights), ..."`; "" where nothing is near."""
    found = ways(model)
    if not found:
        return ""
    entries = {entry.name: entry for entry in CATALOGUE}
    said = []
    for name in found:
        entry = entries.get(name)
        if entry is None:
            said.append(f"model={name}")
        elif entry.ap is None:
            said.append(f"model={name} (fresh weights)")
        else:
            said.append(f"model={name} ({entry.licence}, COCO AP {entry.ap})")
    return f" Near to it: {', '.join(said)}. `detectflow models` lists all."
