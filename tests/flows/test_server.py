"""Which Prefect server a run reports to, and that a child server never outlives its parent."""

import http.server
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from servers import start_prefect

from engine.errors import ConfigError, WorkspaceError
from engine.project.environment import TRUSTED, TRUSTED_BY, prepare_environment
from flows import deploy, processes, server
from flows.processes import Child, answers, free_port


@pytest.fixture
def stand_in():
    """A web server that answers like Prefect's."""
    replies = {"/api/health": "true", "/api/admin/version": json.dumps(version("prefect"))}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = replies.get(self.path)
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write((body or "").encode())

        def log_message(self, *_):
            pass

    made = http.server.ThreadingHTTPServer((processes.LOOPBACK, 0), Handler)
    made.replies = replies
    made.url = f"http://{processes.LOOPBACK}:{made.server_port}"
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(free_port()))


def note(state, url):
    path = server.notes_file(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"prefect": url}))


def test_the_server_that_the_ui_command_noted_is_used(stand_in, tmp_path):
    note(tmp_path, stand_in.url)
    assert server.find_running(tmp_path) == f"{stand_in.url}/api"


def test_another_projects_server_on_the_usual_port_is_left_alone(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(stand_in.server_port))
    assert server.find_running(tmp_path) is None


def test_a_note_of_a_dead_server_a_damaged_note_and_another_version_are_passed_over(
    stand_in, tmp_path
):
    note(tmp_path, f"http://{processes.LOOPBACK}:{free_port()}")
    assert server.find_running(tmp_path) is None
    server.notes_file(tmp_path).write_text("{half")
    assert server.find_running(tmp_path) is None
    stand_in.replies["/api/admin/version"] = '"2.20.1"'
    note(tmp_path, stand_in.url)
    assert server.find_running(tmp_path) is None


def test_a_configured_server_wins_and_must_answer(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", f"{stand_in.url}/api")
    assert server.connect(tmp_path) == server.Server(f"{stand_in.url}/api")
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    with pytest.raises(WorkspaceError, match="no Prefect server answers there"):
        server.connect(tmp_path)


@pytest.fixture
def certified(stand_in, tmp_path):
    """The same by TLS, with a certificate that its own authority has signed: (address, file of the
    authority).
    """
    key, authority = (
        rsa.generate_private_key(65537, 2048),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "team")]),
    )
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(
            authority,
            authority,
            key.public_key(),
            x509.random_serial_number(),
            now,
            now + timedelta(1),
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(processes.LOOPBACK))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "team.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "both.pem").write_bytes(private + made.public_bytes(Encoding.PEM))
    file.write_bytes(made.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")
    stand_in.socket = context.wrap_socket(stand_in.socket, server_side=True)
    return stand_in.url.replace("http:", "https:"), file


def test_a_certificate_is_trusted_by_one_variable_and_else_the_reason_is_reported(
    certified, tmp_path, monkeypatch
):
    url, file = certified
    for name in (TRUSTED, *TRUSTED_BY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
    for ask in (server.connect, deploy.use_server):
        with pytest.raises(
            WorkspaceError,
            match=r"certificate is not trusted here \(.*self-signed.*docs/deploy.md, TLS",
        ):
            ask(tmp_path)
    (tmp_path / ".env").write_text(f"{TRUSTED}='{file}'\n")
    prepare_environment(tmp_path)
    assert {os.environ[name] for name in TRUSTED_BY} == {str(file)}
    assert server.connect(tmp_path) == server.Server(f"{url}/api")
    for name in TRUSTED_BY:
        monkeypatch.delenv(name)
    monkeypatch.setenv(TRUSTED, str(tmp_path / "gone.pem"))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE=.*gone.pem: no such file"):
        prepare_environment(tmp_path)


def test_an_address_that_is_nearly_right_is_corrected(stand_in, tmp_path, monkeypatch):
    host = stand_in.url.removeprefix("http://")
    for given in (stand_in.url, f"{stand_in.url}/", host, f"{host}/api"):
        monkeypatch.setenv("PREFECT_API_URL", given)
        for ask in (server.connect, deploy.use_server):
            with pytest.raises(WorkspaceError, match=f"write {stand_in.url}/api$"):
                ask(tmp_path)


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://127.0.0.1:9/api", "Connection refused"),
        ("http://nowhere.invalid/api", "(Name|name|resolution|Temporary)"),
        ("http://127.0.0.1:4200x/api", "Invalid port"),
        ("127.0.0.1:4200/api", "missing an 'http"),
    ],
)
def test_why_a_configured_server_does_not_answer_is_reported(tmp_path, monkeypatch, url, reason):
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):  # would answer in its place
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(
        WorkspaceError, match=f"no Prefect server answers there: .*{reason}.*temporary server"
    ):
        server.connect(tmp_path)


def test_a_configured_server_of_another_version_is_refused_with_both_numbers(
    stand_in, tmp_path, monkeypatch
):
    stand_in.replies["/api/admin/version"] = '"2.20.1"'
    monkeypatch.setenv("PREFECT_API_URL", f"{stand_in.url}/api")
    for ask in (server.connect, deploy.use_server):
        with pytest.raises(
            WorkspaceError,
            match=rf"is version 2.20.1, and this environment has Prefect {version('prefect')}",
        ):
            ask(tmp_path)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A real Prefect server that lets nobody in without the login."""
    home = tmp_path_factory.mktemp("guarded")
    env = {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_AUTH_STRING": "team:secret",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    child, url = start_prefect(home / "server.log", env, services=False)
    yield url
    child.stop()


@pytest.mark.parametrize(
    "given, found",
    [(None, "is not set"), ("team:other", "is not the one it expects"), ("team:secret", None)],
)
@pytest.mark.system
def test_a_login_is_asked_for_before_anything_is_done(guarded, tmp_path, monkeypatch, given, found):
    monkeypatch.setenv("PREFECT_API_URL", guarded)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    if given:
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", given)
    if found is None:
        assert server.connect(tmp_path).api_url == guarded
        return
    with pytest.raises(
        WorkspaceError, match=f"PREFECT_API_AUTH_STRING {found}.*in .env"
    ) as refused:
        server.connect(tmp_path)
    assert given is None or given not in str(refused.value)


def test_a_locked_database_is_named_with_who_has_it_open(tmp_path, monkeypatch):
    """What a server said at its end, in place of the minute that Prefect waits for the lock."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    database = tmp_path / "prefect.db"
    database.touch()
    other = subprocess.Popen(["tail", "-f", str(database)])
    child = Child(
        "It",
        [sys.executable, "-c", "import sys; sys.exit('OperationalError: database is locked')"],
        tmp_path / "log",
    )
    try:
        with pytest.raises(
            WorkspaceError,
            match=rf"{database} locked: process {other.pid} \(tail -f .*or end it, and run again",
        ):
            server.Server(f"http://127.0.0.1:{free_port()}/api", child).wait()
    finally:
        other.kill()
        other.wait()


@pytest.mark.system
class TestChild:
    def start(self, tmp_path, code):
        return Child("The server", [sys.executable, "-c", code], tmp_path / "child.log")

    def test_one_that_dies_at_start_is_reported_with_its_last_words(self, tmp_path):
        child = self.start(tmp_path, "import sys; sys.exit('the database is locked')")
        with pytest.raises(WorkspaceError, match=r"exit code 1.*\n.*the database is locked"):
            child.wait_until_it_answers(f"http://127.0.0.1:{free_port()}", 20)

    def test_one_that_says_nothing_is_given_up(self, tmp_path):
        child = self.start(tmp_path, "import time; time.sleep(60)")
        with pytest.raises(WorkspaceError, match="did not answer"):
            child.wait_until_it_answers(f"http://127.0.0.1:{free_port()}", 0.3)
        child.stop()
        assert not child.is_alive

    def test_it_answers(self, tmp_path):
        port = free_port()
        child = Child(
            "It",
            [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
            tmp_path / "log",
        )
        child.wait_until_it_answers(f"http://127.0.0.1:{port}", 20)
        child.stop()
        assert not answers(f"http://127.0.0.1:{port}")

    def test_the_group_ends_with_it(self, tmp_path):
        pid = tmp_path / "pid"
        code = (
            "import subprocess, sys, time;p = subprocess.Popen([sys.executable, '-c', 'import "
            f"time; time.sleep(60)']);open({str(pid)!r}, 'w').write(str(p.pid));time.sleep(60)"
        )
        child = self.start(tmp_path, code)
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        child.stop()
        assert ended(int(pid.read_text()))

    @pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a death signal is Linux's")
    def test_it_ends_with_a_parent_that_was_killed(self, tmp_path):
        code = (
            "import pathlib, sys, time; from flows.processes import Child;c = Child('x', "
            "[sys.executable, '-c', 'import time; time.sleep(60)'], "
            f"pathlib.Path({str(tmp_path / 'log')!r}));print(c.process.pid, flush=True); "
            "time.sleep(60)"
        )
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        pid = int(parent.stdout.readline())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert ended(pid)


def ended(pid, within_s=5.0):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{pid}/stat") as stat:
                if (
                    stat.read().rsplit(")")[-1].split()[0] == "Z"
                ):  # nobody has asked for its exit code yet
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False
