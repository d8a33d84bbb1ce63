"""From a dotted path in a setting (`package.module:Name`) to the object: how a setting reaches a
user's own code.

Knows nothing of what is found; who asked checks its kind.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from pathlib import Path
from typing import Any

from engine import moved
from engine.errors import ConfigError, EngineError, nearest

DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_dotted(path: str) -> bool:
    """Whether a value has the form `package.module:Name`."""
    return DOTTED.fullmatch(path) is not None


def look_in(folder: str | Path) -> None:
    """Also look for modules of the user's own in `folder`, before anything that is installed."""
    here = str(folder)
    if here not in sys.path:
        sys.path.insert(0, here)


def find_object(path: str, setting: str) -> Any:
    """Import `package.module:Name`. Modules are looked for in the working directory first, then as
    Python always does.

    setting: the name of the setting, for messages.

    Raises:
        ConfigError: no such module, nothing of that name in it, or the module cannot be imported.
    """
    if not is_dotted(path):
        raise ConfigError(
            f"{setting}='{path}' is not package.module:Name, for example "
            "mine.training:CustomTrainer"
        )
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if "" not in sys.path:
        look_in(here)
    try:
        found: Any = importlib.import_module(module_name)
    except EngineError:
        raise
    except Exception as error:  # the user's module raises what it likes
        missing = isinstance(error, ModuleNotFoundError) and error.name
        if missing and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{setting}='{path}': there is no module '{error.name}' in {here}, PYTHONPATH or "
                "the installed packages"
            ) from None
        raise ConfigError(
            f"{setting}='{path}': importing {module_name} raised {type(error).__name__}: {error}"
            f"{_place(error)}. DETECTFLOW_DEBUG=1 shows the way there"
        ) from error
    for part in name.split("."):
        known = [key for key in vars(found) if not key.startswith("_")]
        if not hasattr(found, part):
            where = getattr(found, "__file__", None) or path
            raise ConfigError(f"{setting}='{path}': {where} has no '{part}'.{nearest(part, known)}")
        found = getattr(found, part)
    return found


def _place(error: Exception) -> str:
    """` (file:line)` where it was raised; a syntax error names its own file."""
    if isinstance(error, SyntaxError) and error.filename:
        return ""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and frame.filename not in (__file__, moved.__file__)
    ]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
