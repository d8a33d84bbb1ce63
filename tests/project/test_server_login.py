"""The login of the project's own Prefect server: made once, for `.env`, never for a project that
others rely on.
"""

import os
import sqlite3
import subprocess
import threading

import pytest

from engine.project import server_login
from engine.project.env_file import read_env_file
from engine.project.redaction import hide, prefect_login
from engine.project.server_login import CLIENT, DATABASE, SERVER, login_for_the_server


@pytest.fixture
def state(tmp_path, monkeypatch):
    for name in (CLIENT, SERVER, DATABASE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    return tmp_path


def database(state, deployments):
    (state / ".prefect").mkdir()
    with sqlite3.connect(state / ".prefect" / "prefect.db") as made:
        made.execute("CREATE TABLE deployment (id TEXT)")
        made.executemany("INSERT INTO deployment VALUES (?)", [("a",)] * deployments)


@pytest.mark.parametrize("before", [None, "", "A=1", "A=1\r\n# PREFECT_API_AUTH_STRING='x'\r\n"])
def test_a_project_without_one_gets_one_that_all_read(state, before):
    file = state / ".env"
    if before is not None:
        file.write_bytes(before.encode())
        file.chmod(0o644)
    database(state, deployments=0)
    assert str(file) in login_for_the_server(state)
    login = read_env_file(file)[CLIENT]
    assert os.environ[CLIENT] == os.environ[SERVER] == login and len(login) > 40
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes().startswith((before or "").encode())
    shell = subprocess.run(
        ["sh", "-c", f'. {file}; printf %s "${CLIENT}"'], capture_output=True, text=True
    )
    assert shell.stdout == login
    text = file.read_bytes()
    assert login_for_the_server(state) == "" and file.read_bytes() == text  # said and done once


def test_another_start_of_the_same_moment_has_the_same(state):
    found = []
    several = [
        threading.Thread(target=lambda: found.append(server_login._kept_login(state)))
        for _ in range(8)
    ]
    for each in several:
        each.start()
    for each in several:
        each.join()
    assert len(found) == 8 and len(set(found)) == 1


def test_a_link_to_a_file_elsewhere_stays_one(state, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("secrets") / "env"
    elsewhere.write_text("A=1\n")
    (state / ".env").symlink_to(elsewhere)
    login_for_the_server(state)
    assert (state / ".env").is_symlink() and CLIENT in read_env_file(elsewhere)


def test_a_project_with_deployments_goes_on_and_is_told_how(state):
    database(state, deployments=1)
    os.environ[SERVER] = ""  # Prefect's server would ask all for a login, which nobody has
    said = login_for_the_server(state)
    assert f"write {CLIENT}='" in said and "end the workers" in said
    assert not {CLIENT, SERVER} & os.environ.keys() and not (state / ".env").exists()


def test_so_does_one_whose_database_is_elsewhere_or_cannot_be_asked(state, monkeypatch):
    monkeypatch.setenv(DATABASE, "postgresql+asyncpg://nobody@nowhere/prefect")
    assert login_for_the_server(state) == server_login.HOW_TO_ADD
    monkeypatch.delenv(DATABASE)
    (state / ".prefect").mkdir()
    (state / ".prefect" / "prefect.db").write_text("no database at all, but as long as one's head")
    assert login_for_the_server(state) == server_login.HOW_TO_ADD
    assert not (state / ".env").exists()


@pytest.mark.parametrize("given, missing", [(CLIENT, SERVER), (SERVER, CLIENT)])
def test_one_of_the_two_variables_stands_for_both(state, monkeypatch, given, missing):
    monkeypatch.setenv(given, "team:hunter2hunter2")
    monkeypatch.setenv(missing, "")
    assert login_for_the_server(state) == "" and not (state / ".env").exists()
    assert os.environ[missing] == "team:hunter2hunter2"


def test_it_is_never_shown(state):
    login_for_the_server(state)
    login = os.environ[CLIENT]
    sent = prefect_login()["Authorization"]
    for text in (f"login {login}!", f"{login.partition(':')[2]} in words", sent):
        assert "***" in hide(text) and login.partition(":")[2] not in hide(text)
    assert sent.split()[1] not in hide(sent)


def test_a_short_word_is_not_taken_for_a_secret(state, monkeypatch):
    monkeypatch.setenv(CLIENT, "a:digit")
    assert hide("a set of digits, ends in a:digit.") == "a set of digits, ends in a:digit."
