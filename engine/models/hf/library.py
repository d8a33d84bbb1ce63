"""The library `transformers`: an extra, imported late, and never online."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

from engine.errors import ConfigError
from engine.models.hub.files import go_offline

NEEDED = "5.24"  # earlier ones count denoising queries twice in the loss (pull request 48528)
NO_CHECKS = "TRANSFORMERS_DISABLE_TORCH_CHECK"


def transformers() -> ModuleType:
    """The library, quiet and offline.

    Raises:
        ConfigError: it is not installed, or too old.
    """
    # Read when the hub's client is first imported. What starts a training is a folder on this
    # machine; only `engine.models.hub.files`, in a process of its own, asks the network.
    go_offline()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    how = "Install the extra: `pip install 'detectflow[hf]'`"
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"models named hf: need the library transformers, and importing it says: {error}. {how}"
        ) from None
    transformers.utils.logging.disable_progress_bar()
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    if version < tuple(int(part) for part in NEEDED.split(".")):
        raise ConfigError(
            f"transformers {transformers.__version__} is installed; {NEEDED} or newer is needed: "
            f"the losses of earlier ones count some queries twice. {how}"
        )
    return transformers


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """While the library reads what came from outside: no name in it is looked up on the hub, also
    where the user's own HF_HUB_OFFLINE says otherwise, and what is wrong is told by us alone.
    """
    from huggingface_hub import constants

    log = transformers().utils.logging
    before, level = constants.HF_HUB_OFFLINE, log.get_verbosity()
    constants.HF_HUB_OFFLINE = True
    log.set_verbosity_error()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        log.set_verbosity(level)


@contextlib.contextmanager
def traceable() -> Iterator[None]:
    """While a network is exported: the library's checks of tensors' values cannot be traced."""
    before = os.environ.get(NO_CHECKS)
    os.environ[NO_CHECKS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[NO_CHECKS]
        else:
            os.environ[NO_CHECKS] = before
