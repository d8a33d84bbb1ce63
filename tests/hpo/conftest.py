"""A project with a dozen images, and a search in it."""

import os

import pytest
from searches import write_tiny
from workspaces import copy_project


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A workspace; trials are not tracked unless a test says so."""
    before = dict(os.environ)
    for name in [n for n in os.environ if n.startswith(("MLFLOW_", "DVC_", "DETECTFLOW_"))]:
        del os.environ[name]
    root = copy_project(tmp_path / "project").resolve()
    write_tiny(root)
    monkeypatch.chdir(root)
    os.environ["DETECTFLOW_TRACKING"] = "off"
    from engine.project.environment import prepare_environment

    yield prepare_environment(root)
    os.environ.clear()
    os.environ.update(before)
