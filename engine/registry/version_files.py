"""Report and model card of a version, where MLflow shows them: among the artifacts of its run and
of its logged model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.project.environment import state_root
from engine.registry.registry import REPORT, described_errors
from engine.tracking.mlflow_client import open_store, patient

LOGGED = "models:/m-"  # source of a version that is a logged model


def attach(name: str, version: str, files: Iterable[Path], root: Path) -> None:
    """Upload `files` for a version; those of the same name are replaced.

    Raises:
        WorkspaceError: the registry cannot be reached.
    """
    state = state_root(root)
    with described_errors(state), patient():
        client: Any = open_store(state).client
        found = client.get_model_version(name, version)
        for file in files:
            if found.run_id:
                client.log_artifact(found.run_id, str(file), REPORT)
            if found.source.startswith(LOGGED):
                model = found.source.removeprefix("models:/")
                client.log_model_artifact(model, str(file), REPORT)
