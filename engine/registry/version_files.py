"""What stage register writes about a version, where MLflow shows it: report and model card among
the artifacts of its run and of its logged model, what it gained and lost beside the evidence of the
decision.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.project.environment import state_root
from engine.registry.history import entries, evidence_stem
from engine.registry.registry import REPORT, described_errors
from engine.tracking.mlflow_client import Store, open_store, patient

PAIR = "-pair"  # ends the name of a decision's folder, beside its evidence
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


def keep_pair(name: str, version: str, folder: Path, root: Path) -> None:
    """Upload `folder`, what the last decision about a version says of both models by image and
    class. A version without a run keeps none.

    Raises:
        WorkspaceError: the registry cannot be reached.
    """
    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        places = _pairs(store, name, version)
        if places:
            run_id, place = places[0]
            store.client.log_artifacts(run_id, str(folder), place)


def bring_pair(name: str, version: str, folder: Path, root: Path) -> None:
    """Fill `folder` with what `keep_pair` has kept last; it stays empty where nothing was.

    Raises:
        WorkspaceError: the registry cannot be reached.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    state = state_root(root)
    with described_errors(state), patient():
        store = open_store(state)
        for run_id, place in _pairs(store, name, version):
            with tempfile.TemporaryDirectory(prefix="detectflow-") as scratch:
                uri = f"runs:/{run_id}/{place}"
                try:
                    found = download_artifacts(uri, dst_path=scratch, tracking_uri=store.uri)
                except (MlflowException, OSError):  # of a decision that had none
                    continue
                if any(Path(found).iterdir()):
                    shutil.copytree(found, folder, dirs_exist_ok=True)
                    return


def _pairs(store: Store, name: str, version: str) -> list[tuple[str, str]]:
    """Run and folder of each decision about a version, the newest first."""
    run_id = store.client.get_model_version(name, version).run_id
    decided = [e for e in entries(store, name) if e.version == version and e.evidence]
    return [(run_id, f"{evidence_stem(e)}{PAIR}") for e in reversed(decided) if run_id]
