"""What a page of another site gets from a Prefect server of ours: nothing, by whatever name or way
it asks, with a login and without.
"""

import asyncio
import base64
import http.client
import os
import sqlite3
import subprocess
import sys
import urllib.parse

import pytest
import websockets

from engine.project.server_login import CLIENT, SERVER, has_deployments
from flows import server
from flows.prefect_server import ORIGINS, allowed_hosts
from flows.processes import LOOPBACK, Child, free_port

FOREIGN = ("evil.example", "evil.example:4200", "10.evil.example", "127.0.0.1.evil.example", "")


def ask(url, path, method="GET", body=None, **headers):
    """(status, text) of a request with exactly these headers."""
    address = urllib.parse.urlsplit(url).netloc
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": address, **headers}.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def first_message(url, **options):
    """Of the events that a server sends to whoever opens this websocket."""

    async def listen():
        address = url.replace("http:", "ws:") + "/api/events/in"
        async with websockets.connect(address, **options) as socket:
            await socket.ping()
            return "open"

    return asyncio.run(listen())


@pytest.mark.system
class TestWithoutLogin:
    """A project whose deployments are older than the login."""

    @pytest.fixture(scope="class")
    def url(self, tmp_path_factory):
        home = tmp_path_factory.mktemp("open")
        port = free_port()
        env = {
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            ORIGINS: f"http://{LOOPBACK}:4200,https://prefect.example.org",
            "PREFECT__SERVER_WEBSERVER_ONLY": "1",
        }
        for name in (CLIENT, SERVER):
            os.environ.pop(name, None)
        child = Child("It", server.server_command(port), home / "log", env)
        child.url = f"http://{LOOPBACK}:{port}"
        child.wait_until_it_answers(f"{child.url}/api/health", 120)
        yield child.url
        child.stop()

    def test_a_foreign_host_gets_nothing(self, url):
        for name in FOREIGN:
            for path in ("/api/admin/version", "/api/health", "/", "/docs"):
                status, text = ask(url, path, Host=name)
                assert (status, text) == (400, "Invalid host header"), (name, path)

    def test_its_own_names_do_and_those_of_the_proxy_before_it(self, url):
        for name in ("127.0.0.1:1", "localhost", "localhost:4200", "prefect.example.org"):
            assert ask(url, "/api/admin/version", Host=name)[0] == 200

    def test_a_foreign_page_can_do_nothing_blind(self, url):
        """A body without a type needs no permission of the server's, and Prefect reads it."""
        body = b'{"name": "made-by-a-page"}'
        for origin in ("http://evil.example", "null", "http://127.0.0.1.evil.example"):
            assert ask(url, "/api/flows/", "POST", body, Origin=origin)[0] == 403
        assert ask(url, "/api/flows/name/made-by-a-page")[0] == 404
        assert ask(url, "/api/flows/", "POST", body, Origin=url)[0] in {200, 201}
        assert ask(url, "/api/flows/name/made-by-a-page")[0] == 200

    def test_a_foreign_page_opens_no_websocket(self, url):
        assert first_message(url) == "open"
        assert first_message(url, origin=url) == "open"
        with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
            first_message(url, origin="http://evil.example")
        with pytest.raises(websockets.exceptions.InvalidStatus, match="400"):
            first_message(url, additional_headers={"Host": "evil.example"})


@pytest.mark.system
def test_a_temporary_server_knows_its_own_run_only(tmp_path, own_environment, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    for name in (CLIENT, SERVER):
        monkeypatch.delenv(name, raising=False)
    running = server.start_temporary(tmp_path)
    try:
        running.wait()
        url = running.api_url.removesuffix("/api")
        login = os.environ[CLIENT]
        known = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        assert len(login) > 30 and not (tmp_path / ".env").exists()
        assert ask(url, "/api/admin/version")[0] == 401
        assert ask(url, "/api/admin/version", **known)[0] == 200
        assert ask(url, "/api/admin/version", **known, Host="evil.example")[0] == 400
        code = "from prefect import flow\n@flow\ndef two(): return 2\nassert two() == 2"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PREFECT_API_URL": running.api_url},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0 and "Completed" in done.stderr, done.stderr
        assert login not in done.stderr + done.stdout + running.child.log.read_text()
        with sqlite3.connect(tmp_path / "home" / "prefect.db") as database:
            assert database.execute("SELECT count(*) FROM flow_run").fetchone() == (1,)
        assert not has_deployments(tmp_path / "home")
    finally:
        running.child.stop()


@pytest.mark.parametrize(
    "origins, more",
    [
        ("", []),
        ("http://127.0.0.1:4200", []),
        ("https://a.example, http://b.example:1", ["a.example", "b.example"]),
        ("nonsense", []),
    ],
)
def test_names_of_the_server(monkeypatch, origins, more):
    monkeypatch.setenv(ORIGINS, origins)
    assert allowed_hosts() == ["127.0.0.1", "localhost", "[::1]", *more]


def test_who_allows_all_pages_has_said_so(monkeypatch):
    monkeypatch.setenv(ORIGINS, "*")
    assert allowed_hosts() == ["*"]
