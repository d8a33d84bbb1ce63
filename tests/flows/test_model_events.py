"""The events of moves that people make on the command line: in a real Prefect server, on to a
webhook by its automation; and what a command does where the server is gone or silent.
"""

import http.server
import json
import socket
import sys
import threading
import time

import pytest
import toys
from servers import PATIENCE_S, ask_prefect
from workspaces import shell

from engine.project.environment import prepare_environment
from engine.registry.history import Entry, What
from engine.stages import register as stage
from flows.events import TIMEOUT_S, event_of, text_of

DETECTFLOW = [sys.executable, "-m", "engine"]


def test_an_event_names_the_model_its_version_and_the_one_before():
    entry = Entry(What.PROMOTED, "3", "2", "Jo", "by eye")
    event = event_of("detector", entry, {"champion": "3"})
    assert event["event"] == "detectflow.model.promoted"
    assert event["resource"]["prefect.resource.id"] == "detectflow.model.detector"
    names = {r["prefect.resource.role"]: r["prefect.resource.name"] for r in event["related"]}
    assert names == {"model-version": "detector/3", "version-before": "detector/2"}
    assert event["payload"]["text"] == ("detector version 3 promoted, instead of version 2: by eye")
    assert (event["payload"]["champion"], event["payload"]["decided"]) == ("3", "by hand")
    back = Entry(What.ROLLED_BACK, "2", "3", why="misses trucks")
    assert text_of("detector", back) == (
        "detector version 2 champion again, instead of version 3: misses trucks"
    )
    assert event_of("detector", Entry(What.APPROVED, "3"), {}) is None


@pytest.fixture
def webhook():
    """A web server that keeps what is posted to it."""
    posts = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posts.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.posts, server.url = posts, f"http://127.0.0.1:{server.server_port}/"
    yield server
    server.shutdown()


@pytest.fixture
def two_versions(tmp_path, own_environment):
    root = prepare_environment(toys.make_workspace(tmp_path / "project").resolve())
    for seed, shift in ((0, 1), (1, 0)):
        toys.train(root, epochs=1, seed=seed)
        toys.validate(root)
        toys.export(root, shift=shift)
        assert stage.run(toys.params_of(root), root)["decision"] == "champion"
    return root


@pytest.mark.system
def test_a_rollback_and_a_promotion_reach_the_webhook(two_versions, prefect_server, webhook):
    from flows.automations import _webhook, new_champion

    automation = new_champion(_webhook(webhook.url))
    automation.create()
    try:
        for words in (
            ["rollback", "detector", "--why", "misses trucks"],
            ["promote", "detector/2", "--why", "was the lens"],
        ):
            done = shell(two_versions, *DETECTFLOW, *words, PREFECT_API_URL=prefect_server)
            assert done.returncode == 0 and done.stderr == "", done.stderr
        deadline = time.monotonic() + PATIENCE_S
        while len(webhook.posts) < 2 and time.monotonic() < deadline:
            time.sleep(0.25)
    finally:
        automation.delete()
    assert sorted(post["text"] for post in webhook.posts) == [
        "detector version 1 champion again, instead of version 2: misses trucks",
        "detector version 2 promoted, instead of version 1: was the lens",
    ]
    about = {"event": {"name": ["detectflow.model.rolled-back"]}}
    found = []
    while not found and time.monotonic() < deadline:  # the server stores events in batches
        found = ask_prefect(f"{prefect_server}/events/filter", {"filter": about})["events"]
        time.sleep(0.25)
    assert found[0]["payload"]["by"] and found[0]["payload"]["champion"] == "1"


@pytest.mark.system
def test_a_server_that_is_gone_or_silent_does_not_hold_a_command_up(two_versions):
    words = [*DETECTFLOW, "rollback", "detector", "--why", "misses trucks"]
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        started = time.monotonic()
        done = shell(two_versions, *words, PREFECT_API_URL=url)
        took = time.monotonic() - started
    assert done.returncode == 0 and "champion is version 1 again" in done.stdout
    assert f"Prefect at {url} was not told" in done.stderr and "Traceback" not in done.stderr
    words = [*DETECTFLOW, "promote", "detector/2", "--why", "was the lens"]
    started = time.monotonic()
    done = shell(two_versions, *words)  # no server at all: nothing is said
    without = time.monotonic() - started
    assert done.returncode == 0 and done.stderr == ""
    assert took < without + 3 * TIMEOUT_S
