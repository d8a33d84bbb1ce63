"""The fixtures of a workspace with a tracker of its own, and of a real MLflow server."""

from tracking_fixtures import (  # noqa: F401
    clean_environment,
    fresh_database,
    server,
    store,
    workspace,
)
