"""Whether the methods of a trainer class of the user's own can be called as they will be: asked
before anything is read or trained, where Python would say so in the middle of a run.
"""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

from engine.errors import ConfigError

CALLED_WITH = {  # by keyword
    "get_dataset": ("data",),
    "get_dataloader": ("dataset_path", "batch_size", "mode", "rank"),
    "get_model": ("cfg", "weights"),
    "preprocess_batch": ("batch",),
    "forward": ("model", "batch"),
    "criterion": ("preds", "batch"),
    "candidates": ("preds",),
}


def check_methods(trainer_class: type) -> None:
    """ConfigError where a method cannot take what it will be called with; says how to write it."""
    for name, wanted in CALLED_WITH.items():
        method = inspect.getattr_static(trainer_class, name)
        if not isinstance(method, FunctionType):
            continue
        try:
            inspect.signature(method).bind(None, **dict.fromkeys(wanted))
        except TypeError as error:
            raise ConfigError(
                f"{trainer_class.__name__}.{name} is called with {', '.join(wanted)} and cannot "
                f"take them: {error}. Write it as def {name}(self, {', '.join(wanted)})"
            ) from None


def made(trainer_class: Any, **given: Any) -> Any:
    """`trainer_class(**given)`. ConfigError where its `__init__` does not take that."""
    try:
        inspect.signature(trainer_class).bind(**given)
    except TypeError as error:
        raise ConfigError(
            f"{trainer_class.__name__} cannot be made with {', '.join(f'{k}=' for k in given)}: "
            f"{error}. Write its __init__ as DetectionTrainer's: def __init__(self, "
            "overrides=None, config=None), with super().__init__(overrides, config) in it"
        ) from None
    return trainer_class(**given)
