"""The fixtures of a workspace with a tracker of its own."""

from tracking_fixtures import (  # noqa: F401
    clean_environment,
    fresh_database,
    store,
    workspace,
)
