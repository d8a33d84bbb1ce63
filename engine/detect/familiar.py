"""What people know from Ultralytics' Python API and is called otherwise here, or is not here: the
sentence that names the way on. The names are those of its public documentation; `YOLO` and
`Results` read these tables, nothing else does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigError, nearest


class NotHere(ConfigError, AttributeError):
    """An attribute that is not here, with the way on. An `AttributeError` too, so that `hasattr`
    says no.
    """


BOXES_ONLY = "this project detects boxes; it has no"

RESULT_WAYS = {
    "pandas": "`to_dataframe()` gives a table with a row per box, `to_df()` one with Ultralytics' "
    "columns",
    "render": "`plot()` gives the image with its boxes",
    "imgs": "`orig_img` is the image of a result",
    "pred": "`boxes.data` holds x1, y1, x2, y2, confidence and class of every box",
    "update": "a result is not changed in place; `dataclasses.replace(result, detections=...)` "
    "gives another one",
    "to_xml": "`to_json()`, `to_df()` and `save_txt()` write results; annotations as XML are made "
    "by `detectflow convert`",
    "to_sql": "`to_df().to_sql(...)` of pandas writes into a database",
}

MODEL_WAYS = {
    "track": "tracking: predict every frame with stream=True and give the boxes to a tracker",
    "embed": f"{BOXES_ONLY} image embeddings. `model.model` is the network, whose layers a forward "
    "hook can read",
    "reset_weights": "a network with fresh weights is YOLO('yolov8n'), by its name",
    "is_hub_model": "there is no hub; models of a team are in the MLflow registry, "
    "YOLO('detector@champion')",
    "hub": "there is no hub; models of a team are in the MLflow registry, YOLO('detector@champion')",
    "set_classes": f"{BOXES_ONLY} open-vocabulary detection: the classes are those of the dataset "
    "it was trained on",
}

TASKS = {
    "segment": "masks",
    "seg": "masks",
    "classify": "image classification",
    "cls": "image classification",
    "pose": "keypoints",
    "obb": "rotated boxes",
    "world": "open-vocabulary detection",
    "worldv2": "open-vocabulary detection",
}

# Settings of a call that are none here -> (values that say what is done anyway, the way on).
SETTINGS: dict[str, dict[str, tuple[tuple[Any, ...], str]]] = {
    "predict": {
        "visualize": (
            (False, None),
            "feature maps are not plotted; `model.model` is the network, whose layers a forward "
            "hook can read",
        ),
        "embed": ((None,), MODEL_WAYS["embed"]),
        "retina_masks": ((False, None), f"{BOXES_ONLY} masks"),
        "stream_buffer": (
            (False, None),
            "frames of a camera are never kept back: the newest is taken; vid_stride= leaves "
            "frames out",
        ),
        "save_frames": (
            (False, None),
            "save=True writes every frame of a video as an image of its own",
        ),
        "dnn": ((False, None), "ONNX files are run by onnxruntime: YOLO('best.onnx')"),
        "int8": ((False, None), "a quantised file is not made here; half=True is float16 on a GPU"),
    },
    "val": {
        "save_json": (
            (False, None),
            "detections of images as JSON: predict(source=..., save_json=True); what was found is "
            "in `metrics.scores`",
        ),
        "save_hybrid": ((False, None), "labels are not mixed with detections"),
        "save_txt": ((False, None), "labels as text: predict(source=..., save_txt=True)"),
        "dnn": ((False, None), "ONNX files are run by onnxruntime: YOLO('best.onnx').val()"),
        "half": (
            (False, None),
            "validation computes in float32, so that metrics do not depend on the machine; "
            "predict(half=True) is float16 on a GPU",
        ),
        "augment": (
            (False, None),
            "validation sees each image once; predict(augment=True) sees it several times",
        ),
        "verbose": ((True, False, None), ""),
        "imgsz": (
            (None,),
            "validation letterboxes to the size that the model was trained for; another size is "
            "`train(imgsz=...)`, or `predict(imgsz=...)` for images",
        ),
    },
    "export": {
        "half": (
            (False, None),
            "files are float32, and each is compared with PyTorch before it counts; "
            "predict(half=True) is float16 on a GPU",
        ),
        "int8": (
            (False, None),
            "files are float32, and each is compared with PyTorch before it counts; quantise the "
            "ONNX file with onnxruntime.quantization",
        ),
        "simplify": ((True, None), "the ONNX exporter simplifies the graph always"),
        "optimize": ((False, None), "it is for TorchScript, which is no format here; use onnx"),
        "keras": ((False, None), "it is for TensorFlow, which is no format here; use onnx"),
        "nms": (
            (False, None),
            "NMS stays outside the file, so that conf and iou can be chosen later; "
            "YOLO('best.onnx') does it",
        ),
        "workspace": ((None,), "it is for TensorRT, which is no format here; use onnx"),
        "device": (
            ("cpu", None),
            "a file is written and compared on the CPU, and runs on any device",
        ),
        "verbose": ((True, False, None), ""),
        "fraction": ((1.0, 1, None), "it is for calibration of int8 files, which are not made"),
    },
    "tune": {
        "use_ray": (
            (False, None),
            "several trials at a time are `detectflow tune jobs=N`, and runner=dask on a cluster",
        ),
        "save": ((True, False, None), ""),  # the best trials' weights are kept: keep=
        "val": ((True, False, None), ""),  # every epoch is validated, or a trial has no value
    },
}


def own_settings(verb: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` without those that say what is done anyway.

    Raises:
        ConfigError: one that is none here and asks for something else, with the way on.
    """
    kept = dict(settings)
    for name, (same, way) in SETTINGS.get(verb, {}).items():
        if name not in kept:
            continue
        value = kept.pop(name)
        if not any(value is each or (type(value) is type(each) and value == each) for each in same):
            raise ConfigError(f"{verb}: {name}={value!r} is not done here: {way}.")
    return kept


def not_here(owner: str, name: str, ways: Mapping[str, str], known: list[str]) -> NotHere:
    """The error for an attribute `name` that `owner` has not."""
    if name in ways:
        return NotHere(f"{owner} has no '{name}': {ways[name]}.")
    return NotHere(f"{owner} has no '{name}'.{nearest(name, known)} It has: {', '.join(known)}.")


def public_names(kind: type, more: tuple[str, ...] = ()) -> list[str]:
    """Names for a message: those of `kind` itself and of its bases in this project."""
    own = [
        name
        for each in kind.__mro__
        if each.__module__.startswith("engine.")
        for name in vars(each)
        if not name.startswith("_")
    ]
    return sorted({*own, *more})
