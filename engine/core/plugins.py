"""Code of the user's own on an executor: the functions of `callbacks=`, and whether the class is
the one that `trainer=` names.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any

from engine.errors import ConfigError, EngineError
from engine.plugins import find_object


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
