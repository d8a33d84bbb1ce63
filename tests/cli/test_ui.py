"""`detectflow ui`: both servers answer, are found by a run, come back, end with it; ports that are
taken, servers that die.
"""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from engine.cli import ui as command
from engine.errors import ConfigError, WorkspaceError
from engine.project.env_file import read_env_file
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
    chosen = command.choose_port(
        command.Service("mlflow", "MLflow", "MLFLOW_PORT", taken, "/health")
    )
    assert chosen > taken and is_free(chosen)
    reported = capsys.readouterr().out
    assert f"Port {taken} is taken" in reported and f"MLflow goes to {chosen}" in reported
    assert f"process {os.getpid()}" in command.owner_of(taken)


def test_a_taken_port_that_was_asked_for_is_an_error(taken, monkeypatch):
    monkeypatch.setenv("MLFLOW_PORT", str(taken))
    with pytest.raises(WorkspaceError, match=f"MLFLOW_PORT={taken}: the port is taken"):
        command.choose_port(command.MLFLOW)


SERVER = f"""
import http.server, sys
class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *words): pass
print("listening", flush=True)
http.server.HTTPServer(("{LOOPBACK}", int(sys.argv[1])), Well).serve_forever()
"""
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN){SERVER}"
IN_A_PROCESS_BELOW = (
    f"import subprocess, sys; subprocess.run([sys.executable, '-c', {STUBBORN!r}, sys.argv[1]])"
)
DIES = "raise SystemExit('database is locked')"


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Make one that is kept, with this program for a server; new starts follow at once."""
    monkeypatch.setattr(command, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(command, "CHECK_S", 0.02)
    programs, made = {}, []

    def start(service, state, port):
        program = programs[service.name]
        return Child(
            service.title, [sys.executable, "-c", program, str(port)], state / f"{service.name}.log"
        )

    def keep_one(service, program):
        programs[service.name] = program
        made.append(command.SupervisedServer(service, tmp_path, free_port()))
        return made[-1]

    monkeypatch.setattr(command, "_start", start)
    yield keep_one
    for each in made:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.child.process.pid, signal.SIGKILL)
        each.child.process.wait()


def look_until(condition, *kept):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        for each in kept:
            each.check()
        time.sleep(0.02)


@pytest.mark.parametrize("program", [SERVER, IN_A_PROCESS_BELOW])
def test_a_server_that_is_killed_comes_back_on_its_port_and_the_other_stays(keep, capsys, program):
    mlflow, prefect = keep(command.MLFLOW, program), keep(command.PREFECT, SERVER)
    mlflow.wait(), prefect.wait()
    before, other = mlflow.child, prefect.child
    os.kill(before.process.pid, signal.SIGKILL)
    look_until(lambda: mlflow.child is not before and mlflow.answers, mlflow, prefect)
    assert (
        prefect.child is other
        and other.is_alive
        and mlflow.child.is_alive
        and answers(mlflow.address + "/health")
    )
    reported = capsys.readouterr().out
    assert (
        "MLflow ended by itself with exit code -9; restart 1 of 3 in 0 s. It said last" in reported
    )
    assert (
        "listening" in reported
        and f"MLflow answers again: {mlflow.address}" in reported
        and "Prefect" not in reported
    )


def test_one_that_keeps_dying_is_given_up_alone(keep, capsys):
    mlflow, prefect = keep(command.MLFLOW, DIES), keep(command.PREFECT, SERVER)
    prefect.wait()
    look_until(lambda: mlflow.is_given_up, mlflow, prefect)
    assert prefect.child.is_alive and prefect.starts == 0
    reported = capsys.readouterr().out
    assert (
        reported.count("MLflow ended by itself with exit code 1") == 4
        and reported.count("database is locked") == 4
    )
    assert "exit code 1, after 3 restarts: giving up." in reported


def test_one_that_ran_well_has_its_new_starts_again(keep):
    mlflow = keep(command.MLFLOW, SERVER)
    mlflow.wait()
    mlflow.starts, mlflow.started = 3, mlflow.started - command.WELL_S
    before = mlflow.child
    os.kill(before.process.pid, signal.SIGKILL)
    look_until(lambda: mlflow.child is not before, mlflow)
    assert mlflow.starts == 1 and not mlflow.is_given_up


def test_one_that_comes_back_without_a_word_counts_as_ended(keep, monkeypatch, capsys):
    mlflow = keep(command.MLFLOW, "import time; time.sleep(60)")
    mlflow.answers = False
    monkeypatch.setattr(command, "START_TIMEOUT_S", 0.0)
    look_until(lambda: mlflow.starts, mlflow)
    assert "MLflow did not answer within 0 s; restart" in capsys.readouterr().out
    assert not mlflow.child.is_alive


def test_notes_are_true_and_it_ends_when_all_are_given_up(keep, tmp_path):
    kept = {each.name: keep(each, DIES) for each in (command.MLFLOW, command.PREFECT)}
    notes = []
    addresses = {name: each.address for name, each in kept.items()} | {
        "team": "http://mlflow.example"
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_note", lambda state, noted: notes.append(list(noted)))
        with pytest.raises(
            WorkspaceError, match="MLflow and Prefect ended and could not be kept running"
        ):
            command._watch(kept, addresses, tmp_path)
    assert len(notes) == 2 and notes[-1] == ["team"]


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
    reported = capsys.readouterr().out
    assert (
        f"MLflow    {nobody}/#/experiments?workflowType=machine_learning" in reported
        and "Prefect   http://prefect.example:4200" in reported
    )


def status(address, path, **headers):
    """What a server says to a browser that sends these headers."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    try:
        connection.request("GET", path, headers={"Host": address[7:], **headers})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.system
def test_both_answer_are_noted_come_back_and_end_with_ctrl_c(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("train: {}\n")
    ports = {"MLFLOW_PORT": str(free_port()), "PREFECT_SERVER_API_PORT": str(free_port())}
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PREFECT_", "MLFLOW_", "DVC_", "DETECTFLOW_"))
    }
    log = tmp_path / "ui.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", "ui"],
            cwd=tmp_path,
            env={**clean, **ports},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait_for(text):
        deadline = time.monotonic() + 120
        while text not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    wait_for("Ctrl-C ends both")
    addresses = json.loads(server.notes_file(tmp_path).read_text())
    assert addresses == {
        "mlflow": f"http://{LOOPBACK}:{ports['MLFLOW_PORT']}",
        "prefect": f"http://{LOOPBACK}:{ports['PREFECT_SERVER_API_PORT']}",
    }
    assert (
        answers(addresses["mlflow"] + "/health")
        and server.find_running(tmp_path) == addresses["prefect"] + "/api"
    )
    # nobody without the text that `.env` has now, and no page of another site
    login = read_env_file(tmp_path / ".env")["PREFECT_API_AUTH_STRING"]
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert login not in log.read_text()
    known = {
        "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
    }
    api, page = "/api/admin/version", "/ui-settings"
    assert status(addresses["prefect"], api) == 401
    assert status(addresses["prefect"], api, **known) == 200
    assert status(addresses["prefect"], page) == 200
    runs = "/ajax-api/2.0/mlflow/experiments/search?max_results=1"
    assert status(addresses["mlflow"], runs) == 200
    for name in ("evil.example", "10.evil.example", "192.168.evil.example:5000", "0.0.0.0"):
        assert status(addresses["prefect"], api, **known, Host=name) == 400
        assert status(addresses["prefect"], page, Host=name) == 400
        assert status(addresses["mlflow"], runs, Host=name) == 403
    for service in ("mlflow", "prefect"):  # by a tunnel with another port, too
        path = runs if service == "mlflow" else page
        assert status(addresses[service], path, Host="localhost:14200") == 200
    assert (tmp_path / "mlflow.db").is_file() and (tmp_path / ".prefect").is_dir()
    servers = {
        "prefect" if "flows.prefect_server" in each.cmdline() else "mlflow": each
        for each in psutil.Process(process.pid).children()
    }
    servers["mlflow"].kill()
    wait_for(f"MLflow answers again: {addresses['mlflow']}")
    assert (
        servers["prefect"].is_running()
        and json.loads(server.notes_file(tmp_path).read_text()) == addresses
    )
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 0
    assert not server.notes_file(tmp_path).exists()
    assert all(is_free(int(port)) for port in ports.values())
    assert "Traceback" not in log.read_text()
