"""A project with a dozen images, and a search in it."""

import os

import pytest
from environments import forget_settings
from searches import write_tiny
from workspaces import copy_project


@pytest.fixture
def project(tmp_path, monkeypatch, environment_as_before):
    """A workspace; trials are not tracked unless a test says so."""
    forget_settings()
    root = copy_project(tmp_path / "project").resolve()
    write_tiny(root)
    monkeypatch.chdir(root)
    os.environ["DETECTFLOW_TRACKING"] = "off"
    from engine.project.environment import prepare_environment

    return prepare_environment(root)
