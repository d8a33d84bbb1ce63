"""Nothing leaves the machine: wherever Prefect, MLflow, DVC or onnxruntime is imported, its
telemetry is off before.

Python itself is asked: a `sitecustomize` module looks at the environment at the moment one of them
is first imported, in the command and in every process that it starts.
"""

import configparser
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata

import pytest
from workspaces import ROOT, clean_environment, copy_project

WITNESS = """\
import importlib.abc, json, os, sys

class Witness(importlib.abc.MetaPathFinder):
    waiting = {"prefect", "mlflow", "dvc", "onnxruntime"}

    def find_spec(self, name, path=None, target=None):
        tool, dot, _ = name.partition(".")
        if dot and tool in self.waiting:  # the first module inside: whether there is such a package may be asked before
            self.waiting.remove(tool)
            names = os.environ["WITNESSED"].split()
            line = json.dumps({"tool": tool, "argv": sys.orig_argv[1:5], **{each: os.environ.get(each) for each in names}})
            with open(os.environ["WITNESS"], "a") as file:
                file.write(line + chr(10))

sys.meta_path.insert(0, Witness())
"""
OFF = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
ENTRIES = {  # the words of a command, the tools that it imports in any of its processes
    "run": (["engine", "run", "data.source=flows"], {"prefect", "dvc"}),
    "ui": (["engine", "ui"], {"prefect", "mlflow"}),
    "deploy": (["engine", "deploy"], {"prefect"}),
    "worker": (["engine", "worker"], {"prefect"}),
    "trace": (["engine", "trace", "0" * 64], {"mlflow"}),
}


@pytest.fixture
def health():
    """A server that is well and knows nothing else: enough for a command to go on to import its
    tools.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path.endswith(("/health", "/version")) else 500)
            self.end_headers()
            self.wfile.write(json.dumps(metadata.version("prefect")).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api"
    server.shutdown()


@pytest.mark.parametrize("entry", ENTRIES)
def test_telemetry_is_off_before_any_tool_is_imported(tmp_path, health, entry):
    words, tools = ENTRIES[entry]
    root = copy_project(tmp_path / "project")
    (root / "mlflow.db").touch()
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(WITNESS)
    seen = tmp_path / "seen.jsonl"
    environment = {name: value for name, value in clean_environment().items() if name not in OFF}
    environment |= {
        "PYTHONPATH": f"{site}{os.pathsep}{root}",
        "WITNESS": str(seen),
        "WITNESSED": " ".join(OFF),
    }
    if entry in {"deploy", "worker"}:
        environment["PREFECT_API_URL"] = health
    log = tmp_path / "log"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=root,
            env=environment,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not tools <= {each["tool"] for each in read(seen)}:
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            if process.poll() is not None:
                break
            time.sleep(0.2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
    reported = read(seen)
    assert tools <= {each["tool"] for each in reported}, log.read_text()[-2000:]
    for each in reported:
        assert {name: each[name] for name in OFF} == OFF, each


def read(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_dvc_typed_by_hand_sends_nothing_either():
    """Under `dvc repro` DVC is there before us; the project's own configuration speaks to it."""
    config = configparser.ConfigParser()
    config.read_string((ROOT / ".dvc" / "config").read_text().replace("    ", ""))
    assert config["core"]["analytics"] == "false"


@pytest.mark.parametrize("module", ["engine", "pyfunc"])
def test_onnxruntime_is_silent_without_a_project_too(module):
    """The engine as a library, and the registered model, which is loaded where this project is
    not.
    """
    load = (
        "import engine"
        if module == "engine"
        else f"import runpy; runpy.run_path({str(ROOT / 'engine/registry/pyfunc_model.py')!r})"
    )
    code = f"import os; {load}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in clean_environment().items() if name not in OFF}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == "1", done.stderr
