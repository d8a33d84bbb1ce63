"""Report and model card of a version, where MLflow shows them: among the artifacts of its run and
of its logged model.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.project.environment import state_root
from engine.registry.registry import REPORT, described_errors
from engine.tracking.mlflow_client import open_store, patient

DECISIONS = "decisions"  # folder among the artifacts of a version's run
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


def recorded_decision(name: str, version: str, root: Path) -> dict[str, Any]:
    """The values of the last comparison that decided about a version
    (`engine.comparison.text.values_of`); empty where none was kept.

    Raises:
        WorkspaceError: the registry cannot be reached.
    """
    state = state_root(root)
    with described_errors(state), patient():
        client: Any = open_store(state).client
        run_id = client.get_model_version(name, version).run_id
        if not run_id:
            return {}
        kept = [
            each.path
            for each in client.list_artifacts(run_id, DECISIONS)
            if each.path.endswith(f" version {version}.json")
        ]
        if not kept:
            return {}
        with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
            # Names begin with the time.
            file = Path(client.download_artifacts(run_id, max(kept), scratch))
            found = json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
