"""From a dotted path in a setting (`package.module:Name`) to the object: how a command line reaches
a user's own code.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.errors import ConfigError, EngineError, nearest


def add_own_code(executor: Any, class_path: str | None, callbacks: Iterable[str]) -> None:
    """Let each function of `callbacks` add its callbacks to the executor, and check that its class
    is the one asked for.

    Raises:
        ConfigError: a path that leads nowhere; another class, because only a command line makes the
            one of the setting; a function that fails, which is the cause of this error.
    """
    if (
        class_path is not None
        and find_object(class_path, "trainer").__qualname__ != type(executor).__qualname__
    ):
        raise ConfigError(
            f"trainer='{class_path}' is for `detectflow train`, and this is a "
            f"{type(executor).__name__}. From Python make that class itself and leave trainer out"
        )
    for path in callbacks:
        add = find_object(path, "callbacks")
        if not callable(add):
            raise ConfigError(
                f"callbacks='{path}' is a {type(add).__name__}, not a function that takes the "
                "trainer"
            )
        try:
            add(executor)
        except EngineError:
            raise
        except Exception as error:  # the user's code raises what it likes
            *_, last = traceback.extract_tb(error.__traceback__)
            raise ConfigError(
                f"callbacks='{path}' was called with the trainer, to add callbacks to it, and "
                f"raised {type(error).__name__}: {error} ({last.filename}:{last.lineno}). "
                "DETECTFLOW_DEBUG=1 shows the way there"
            ) from error


def find_object(path: str, setting: str) -> Any:
    """Import `package.module:Name`. Modules are looked for in the working directory first, then as
    Python always does.

    setting: the name of the setting, for messages.

    Raises:
        ConfigError: no such module, or nothing of that name in it. What the module itself raises
            goes through.
    """
    module_name, colon, name = path.partition(":")
    if not (
        colon
        and name
        and all(part.isidentifier() for part in (*module_name.split("."), *name.split(".")))
    ):
        raise ConfigError(
            f"{setting}='{path}' is not package.module:Name, for example "
            "mine.training:CustomTrainer"
        )
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; what it imports is not
        raise ConfigError(
            f"{setting}='{path}': there is no module '{error.name}' in {here}, PYTHONPATH or the "
            "installed packages"
        ) from None
    for part in name.split("."):
        known = [key for key in vars(found) if not key.startswith("_")]
        if not hasattr(found, part):
            where = getattr(found, "__file__", None) or path
            raise ConfigError(f"{setting}='{path}': {where} has no '{part}'.{nearest(part, known)}")
        found = getattr(found, part)
    return found
