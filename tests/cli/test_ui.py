"""`detectflow ui`: both servers answer, are found by a run, and end with it; ports that are taken, servers that die."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from engine.cli import ui as command
from engine.errors import ConfigError, WorkspaceError
from flows import server
from flows.processes import LOOPBACK, Child, answers, free_port, is_free


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_the_usual_port_or_the_one_that_is_named(monkeypatch):
    port = free_port()
    monkeypatch.setenv("MLFLOW_PORT", str(port))
    assert command.choose_port(command.MLFLOW) == port
    monkeypatch.setenv("MLFLOW_PORT", "http")
    with pytest.raises(ConfigError, match="MLFLOW_PORT=http is no port"):
        command.choose_port(command.MLFLOW)


def test_a_taken_port_is_passed_over_saying_by_whom(taken, monkeypatch, capsys):
    monkeypatch.delenv("MLFLOW_PORT", raising=False)
    chosen = command.choose_port(command.Service("mlflow", "MLFLOW_PORT", taken, "/health"))
    assert chosen > taken and is_free(chosen)
    told = capsys.readouterr().out
    assert f"Port {taken} is taken" in told and f"MLflow goes to {chosen}" in told
    assert f"process {os.getpid()}" in command.owner_of(taken)


def test_a_taken_port_that_was_asked_for_is_an_error(taken, monkeypatch):
    monkeypatch.setenv("MLFLOW_PORT", str(taken))
    with pytest.raises(WorkspaceError, match=f"MLFLOW_PORT={taken}: the port is taken"):
        command.choose_port(command.MLFLOW)


def test_a_server_that_dies_is_reported_with_its_last_words(tmp_path):
    child = Child("MLflow", [sys.executable, "-c", "raise SystemExit('database is locked')"], tmp_path / "log")
    with pytest.raises(WorkspaceError, match=r"MLflow ended by itself with exit code 1.*\n.*database is locked"):
        command._watch({"mlflow": child})


def test_servers_of_a_team_are_shown_and_not_started(tmp_path, monkeypatch, capsys):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("train: {}\n")
    monkeypatch.chdir(tmp_path)
    for name, value in dict(os.environ).items():  # prepare_environment adds to it
        monkeypatch.setenv(name, value)
    nobody = f"http://{LOOPBACK}:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example:4200/api")
    assert command.ui([]) == 0
    told = capsys.readouterr().out
    assert f"MLflow    {nobody}/#/experiments" in told and "Prefect   http://prefect.example:4200" in told


@pytest.mark.slow
def test_both_answer_are_noted_and_end_with_ctrl_c(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("train: {}\n")
    ports = {"MLFLOW_PORT": str(free_port()), "PREFECT_SERVER_API_PORT": str(free_port())}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "DVC_", "DETECTFLOW_"))}
    log = tmp_path / "ui.log"
    with log.open("w") as out:
        process = subprocess.Popen([sys.executable, "-m", "engine", "ui"], cwd=tmp_path, env={**clean, **ports}, stdout=out,
                                   stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 120
    while "Ctrl-C ends both" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    addresses = json.loads(server.notes_file(tmp_path).read_text())
    assert addresses == {
        "mlflow": f"http://{LOOPBACK}:{ports['MLFLOW_PORT']}",
        "prefect": f"http://{LOOPBACK}:{ports['PREFECT_SERVER_API_PORT']}",
    }
    assert answers(addresses["mlflow"] + "/health") and server.find_running(tmp_path) == addresses["prefect"] + "/api"
    assert (tmp_path / "mlflow.db").is_file() and (tmp_path / ".prefect").is_dir()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 0
    assert not server.notes_file(tmp_path).exists()
    assert all(is_free(int(port)) for port in ports.values())
    assert "Traceback" not in log.read_text()
