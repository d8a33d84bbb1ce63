"""The project is found from anywhere inside it, and a user's own value always wins."""

import os
import subprocess
import sys

import pytest

from engine.errors import ConfigError
from engine.tracking import environment


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("data: {}\n")
    return tmp_path.resolve()


def test_root_is_found_from_a_folder_inside(project, monkeypatch):
    inside = project / "a" / "b"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert environment.find_root() == project


def test_outside_a_project_the_error_says_what_was_looked_for(tmp_path):
    with pytest.raises(ConfigError, match="dvc.yaml and params.yaml"):
        environment.find_root(tmp_path)


def test_everything_lies_inside_the_project(project, monkeypatch):
    for name in ("PREFECT_HOME", "MLFLOW_TRACKING_URI", "DO_NOT_TRACK"):
        monkeypatch.delenv(name, raising=False)
    assert environment.prepare_environment(project) == project
    assert os.environ["PREFECT_HOME"] == str(project / ".prefect")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{project}/mlflow.db"
    assert os.environ["DO_NOT_TRACK"] == "true"


def test_user_wins_over_env_file_and_env_file_over_defaults(project, monkeypatch):
    for name in ("PREFECT_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    (project / ".env").write_text("# team\nexport MLFLOW_TRACKING_URI='http://tracker:5000'\nPREFECT_HOME=/from-file\n")
    monkeypatch.setenv("PREFECT_HOME", "/from-user")
    environment.prepare_environment(project)
    assert os.environ["PREFECT_HOME"] == "/from-user"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracker:5000"


def test_a_bad_line_of_the_env_file_is_named(project):
    (project / ".env").write_text("A=1\nnonsense\n")
    with pytest.raises(ConfigError, match="line 2"):
        environment.prepare_environment(project)


def test_a_temporary_experiment_keeps_its_state_in_the_project(project, monkeypatch):
    copy = project / ".dvc" / "tmp" / "exps" / "tmpxyz"
    assert environment.state_root(copy) == project
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert environment.state_root(copy.parent) == project
    assert environment.state_root(project) == project


def test_it_imports_none_of_the_tools():
    code = "import sys, engine.tracking.environment; print({'mlflow', 'dvc', 'prefect', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
