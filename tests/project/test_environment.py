"""The project is found from anywhere inside it, and a user's own value always wins."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from engine.errors import ConfigError
from engine.project import environment


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
    (project / ".env").write_text(
        "# team\nexport MLFLOW_TRACKING_URI='http://tracker:5000'\nPREFECT_HOME=/from-file\n"
    )
    monkeypatch.setenv("PREFECT_HOME", "/from-user")
    environment.prepare_environment(project)
    assert os.environ["PREFECT_HOME"] == "/from-user"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://tracker:5000"


def test_a_bad_line_of_the_env_file_is_named(project):
    (project / ".env").write_text("A=1\nnonsense\n")
    with pytest.raises(ConfigError, match="line 2"):
        environment.prepare_environment(project)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "htp://foo",
            r"MLFLOW_TRACKING_URI=htp://foo: MLflow takes no address that begins with 'htp:'. Did "
            r"you mean 'http'\? Corr",
        ),
        (
            "postgres://me:word@db/mlflow",
            r"MLFLOW_TRACKING_URI=postgres://me:\*\*\*@db/mlflow: .* Did you mean 'postgresql'\?",
        ),
        (
            "head:5000",
            r"begins with 'head:'. Did you mean 'http://head:5000'\? Correct or unset it: "
            r"one of databricks, ",
        ),
        ("ftp://head/x", r"begins with 'ftp:'."),
        ("mlruns", r"MLFLOW_TRACKING_URI=mlruns is a folder, and MLflow keeps nothing new in "),
        ("/a/b", r"name a database such as sqlite:////data/mlflow.db, or a server"),
        ("C:\\a", r"is a folder"),
        ("file:///a", r"`mlflow migrate-filestore` takes over what the folder holds"),
        ("http://[head", r"MLFLOW_TRACKING_URI=http://\[head is no address: Invalid IPv6 URL"),
    ],
)
def test_an_address_that_mlflow_cannot_take_is_refused_at_once(project, monkeypatch, uri, said):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match=said):
        environment.prepare_environment(project)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "databricks",
        "databricks://profile",
        "mysql+pymysql://db/x",
        "HTTPS://head",
    ],
)
def test_other_addresses_are_left_to_mlflow(uri):
    environment.require_possible_tracker(uri)


def test_a_folder_is_left_to_mlflow_where_its_own_variable_says_so(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for uri in ("mlruns", "file:/a"):
        environment.require_possible_tracker(uri)


def test_the_beginnings_of_addresses_are_those_of_mlflow(monkeypatch):
    registry = pytest.importorskip(
        "mlflow.tracking._tracking_service.utils"
    )._tracking_store_registry
    added = {plugin.name for plugin in metadata.entry_points(group=environment.MLFLOW_PLUGINS)}
    assert registry.group_name == environment.MLFLOW_PLUGINS
    assert set(registry._registry) - added == {"", "file", *environment.MLFLOW_SCHEMES}
    plugin = metadata.EntryPoint("mine", "package:store", environment.MLFLOW_PLUGINS)
    monkeypatch.setattr(
        metadata,
        "entry_points",
        lambda group: [plugin] if group == environment.MLFLOW_PLUGINS else [],
    )
    environment.require_possible_tracker("mine://store")


def test_a_temporary_experiment_keeps_its_state_in_the_project(project, monkeypatch):
    copy = project / ".dvc" / "tmp" / "exps" / "tmpxyz"
    assert environment.state_root(copy) == project
    monkeypatch.setenv("DVC_ROOT", str(project))
    assert environment.state_root(copy.parent) == project
    assert environment.state_root(project) == project


def test_it_imports_none_of_the_tools():
    code = (
        "import sys, engine.project.environment; print({'mlflow', 'dvc', 'prefect', 'torch'} & "
        "set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "set()"
    )
