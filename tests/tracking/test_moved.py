"""A project folder that was moved or copied: nothing is written into the old one, what to do is
said, and a link from there makes all of it work.
"""

import shutil

import mlflow
import pytest
import toys

from engine.errors import WorkspaceError
from engine.project.environment import prepare_environment
from engine.stages import register as stage
from engine.tracking.mlflow_client import open_store


def register_one(root, seed=0, value=0.5):
    toys.train(root, epochs=1, seed=seed)
    toys.validate(root, value)
    toys.export(root)
    return stage.run(toys.params_of(root), root)


@pytest.fixture
def registered(workspace, monkeypatch):
    """(the project with a registered model, where it goes), with the environment of the second."""
    register_one(workspace)
    new = workspace.with_name("moved")
    for name in ("MLFLOW_TRACKING_URI", "DETECTFLOW_STATE"):
        monkeypatch.delenv(name)
    return workspace, new


def test_a_copy_writes_nothing_into_the_original_and_may_begin_anew(registered):
    old, new = registered
    shutil.copytree(old, new)
    in_the_old_place = sorted(old.rglob("*"))
    prepare_environment(new)
    with pytest.raises(WorkspaceError, match=f"expected in {old}.*a link to {new}.*mlflow.md"):
        register_one(new, seed=1, value=0.6)
    for name in ("mlflow.db", "mlartifacts"):
        (new / name).rename(new / f"{name}.old")
    assert register_one(new, seed=1, value=0.6)["version"] == 1
    assert sorted(old.rglob("*")) == in_the_old_place


def test_a_link_from_the_old_place_makes_a_moved_project_whole(registered):
    old, new = registered
    shutil.move(old, new)
    prepare_environment(new)
    with pytest.raises(WorkspaceError, match="moved or copied"):
        open_store(new)
    assert not old.exists() and open_store(new, reads_only=True).client.search_registered_models()
    old.symlink_to(new)
    assert register_one(new, seed=1, value=0.6)["version"] == 2
    mlflow.set_tracking_uri(f"sqlite:///{new}/mlflow.db")
    try:
        for version in (1, 2):
            loaded = mlflow.pyfunc.load_model(f"models:/detector/{version}")
            assert loaded.metadata.metadata["dataset"] == "squares"
    finally:
        mlflow.set_tracking_uri(None)
