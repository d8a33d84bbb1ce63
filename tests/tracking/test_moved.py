"""A project folder that was moved or copied: what MLflow logged is found, and new runs write into
the folder at hand.
"""

import shutil
import sqlite3

import mlflow
import pytest
import toys

from engine.project.environment import prepare_environment
from engine.stages import register as stage
from engine.tracking.mlflow_client import open_store
from engine.tracking.moved import PLACES, follow_move


def register_one(root, seed=0, value=0.5):
    toys.train(root, epochs=1, seed=seed)
    toys.validate(root, value)
    toys.export(root)
    return stage.run(toys.params_of(root), root)


def places(root):
    with sqlite3.connect(root / "mlflow.db") as connection:
        return [
            place
            for table, column in PLACES
            for (place,) in connection.execute(f"SELECT {column} FROM {table}")
            if place
        ]


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_models_load_and_new_runs_go_to_the_new_place(workspace, monkeypatch, how):
    register_one(workspace)
    old = str(workspace)
    assert any(place.startswith(f"{old}/mlartifacts") for place in places(workspace))
    new = workspace.with_name("moved")
    how(workspace, new)
    in_the_old_place = sorted(workspace.rglob("*"))
    for name in ("MLFLOW_TRACKING_URI", "DETECTFLOW_STATE"):
        monkeypatch.delenv(name)
    prepare_environment(new)
    assert register_one(new, seed=1, value=0.6)["version"] == 2
    assert sorted(workspace.rglob("*")) == in_the_old_place  # nothing was written there
    shutil.rmtree(workspace, ignore_errors=True)
    assert all(place.startswith(f"{new}/") for place in places(new))
    mlflow.set_tracking_uri(f"sqlite:///{new}/mlflow.db")
    try:
        for version in (1, 2):
            assert (
                mlflow.pyfunc.load_model(f"models:/detector/{version}").metadata.metadata["dataset"]
                == "squares"
            )
    finally:
        mlflow.set_tracking_uri(None)
    store = open_store(new)
    run = store.client.get_model_version("detector", "1").run_id
    assert {file.path for file in store.client.list_artifacts(run, "train")} >= {
        "train/metrics.json"
    }


def test_what_lies_elsewhere_on_purpose_stays(tmp_path):
    home, shared = tmp_path / "here" / "mlartifacts", tmp_path / "shared"
    for folder in (home / "moved", shared / "mlartifacts" / "kept", shared / "other"):
        folder.mkdir(parents=True)
    database = tmp_path / "mlflow.db"
    before = {
        f"{home}/r0/artifacts": f"{home}/r0/artifacts",
        "/gone/mlartifacts/moved": f"{home}/moved",  # its files are here
        "/gone/mlartifacts": f"{home}",
        "/gone/mlartifacts/r1/artifacts": f"{home}/r1/artifacts",  # had no files
        f"{shared}/mlartifacts/kept": f"{shared}/mlartifacts/kept",  # its files are there
        f"{shared}/other": f"{shared}/other",
        "s3://bucket/mlartifacts/r2": "s3://bucket/mlartifacts/r2",
        "mlflow-artifacts:/r3": "mlflow-artifacts:/r3",
    }
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE runs (artifact_uri TEXT)")
        connection.executemany("INSERT INTO runs VALUES (?)", [(place,) for place in before])
    assert follow_move(database, home) == 3
    with sqlite3.connect(database) as connection:
        assert [
            place for (place,) in connection.execute("SELECT artifact_uri FROM runs ORDER BY rowid")
        ] == list(before.values())
    assert follow_move(database, home) == 0
    assert follow_move(tmp_path / "none.db", home) == 0 and not (tmp_path / "none.db").exists()
