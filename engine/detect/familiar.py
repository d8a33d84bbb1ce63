"""What people know from Ultralytics' Python API and is called otherwise here, or is not here: the
sentence that names the way on. The names are those of its public documentation; `YOLO` and
`Results` read these tables.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import ConfigError, nearest


class NotHere(ConfigError, AttributeError):
    """An attribute that is not here, with the way on. An `AttributeError` too, so that `hasattr`
    says no.
    """


BOXES_ONLY = "this project detects boxes; it has no"
NO_HUB = "there is no hub; models of a team are in the MLflow registry, YOLO('detector@champion')"

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
    "embed": f"{BOXES_ONLY} image embeddings. `model.model` is the network, whose layers a forward "
    "hook can read",
    "reset_weights": "a network with fresh weights is YOLO('yolov8n'), by its name",
    "is_hub_model": NO_HUB,
    "hub": NO_HUB,
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
