"""Changing the environment of the test process.

A sender's thread of an earlier test may still try to reach its tracker. It limits each request by
MLFLOW_HTTP_REQUEST_... in the environment, one thread at a time: whoever removes these in the
middle of a request makes it last for minutes, with all other senders behind it. So the environment
is changed between two requests.
"""

import os

from engine.tracking.mlflow_client import _patience

OURS = ("MLFLOW_", "DETECTFLOW_", "DVC_")


def forget_settings(*prefixes: str) -> None:
    """Nothing of the user's settings comes into a test."""
    with _patience:
        for name in [name for name in os.environ if name.startswith(prefixes or OURS)]:
            del os.environ[name]


def restore(before: dict[str, str]) -> None:
    """The environment is as it was `before`."""
    with _patience:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def now() -> dict[str, str]:
    """The environment, without the limits of a request under way."""
    with _patience:
        return dict(os.environ)
