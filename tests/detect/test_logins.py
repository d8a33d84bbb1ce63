"""A password in an address of a source goes to its server and nowhere else."""

import base64
import functools
import http.server
import pickle
import socket
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

from engine import YOLO
from engine.cli import main
from engine.detect.sources import open_source
from engine.errors import DataError

SECRET = "Tr0ub4dor"
OUTPUTS = [f"save_{each}=true" for each in ("json", "csv", "txt", "crop", "frames")]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder to work in; an image and a film in `served`."""
    served = tmp_path / "served"
    served.mkdir()
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    cv2.imwrite(str(served / "a.png"), image)
    film = cv2.VideoWriter(str(served / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 64))
    for _ in range(3):
        film.write(image)
    film.release()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return served


@pytest.fixture
def logins():
    """What the server below was sent as logins."""
    return set()


@pytest.fixture
def server(files, logins):
    """`anna:SECRET@host:port` of a server of the files."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            logins.add(self.headers["Authorization"])
            super().do_GET()

        def log_message(self, *args):
            pass

    serving = functools.partial(Handler, directory=str(files))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"anna:{SECRET}@127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def stream(files):
    """`tcp://anna:SECRET@host:port` of a stream of the film."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(60)

    def give():
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                client.sendall((files / "film.avi").read_bytes())

    thread = threading.Thread(target=give, daemon=True)
    thread.start()
    yield f"tcp://anna:{SECRET}@127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(10)


def leaks(folder):
    """Files below with the secret in their name or content."""
    return [
        str(path)
        for path in folder.rglob("*")
        if SECRET in str(path) or (path.is_file() and SECRET.encode() in path.read_bytes())
    ]


def test_no_file_and_no_line_of_a_prediction_has_it(
    random_weights, server, stream, logins, tmp_path, capfd, caplog
):
    web = f"http://{server}"
    lines = [f"{web}/a.png", f"{web.upper()[:4]}{web[4:]}/a.png?token={SECRET}", f"{web}/film.avi"]
    (tmp_path / "list.txt").write_text("\n".join([*lines, f"{web}/gone.png", stream]))
    given = [f"model={random_weights}", f"source={tmp_path / 'list.txt'}", "device=cpu", "conf=0.5"]
    assert main(["predict", *given, *OUTPUTS]) == 1  # one was left out
    said = capfd.readouterr()
    names = {path.name for path in (tmp_path / "work" / "runs" / "predict").rglob("*")}
    assert {"detections.jsonl", "detections.csv", "a.png", "a.txt", "film.mp4"} <= names
    seen = (tmp_path / "work/runs/predict/detections.jsonl").read_text()
    assert seen.count('"source"') == 2 + 3 + 3 and "http://anna:***@127.0.0.1" in seen
    assert "tcp://anna:***@127.0.0.1" in seen and "gone.png" in caplog.text
    assert leaks(tmp_path / "work") == []
    assert SECRET not in said.out + said.err + caplog.text
    assert logins == {f"Basic {base64.b64encode(f'anna:{SECRET}'.encode()).decode()}"}


def test_no_attribute_of_a_result_has_it(random_weights, server, stream):
    model = YOLO(random_weights)
    results = model([f"http://{server}/a.png", f"http://{server}/film.avi", stream], conf=0.5)
    assert len(results) == 7
    for result in results:
        shown = (repr(result), result.source, result.line, repr(result.video), result.to_json())
        assert "anna:***@" in shown[1] and SECRET not in "".join(shown)
        assert result.path is None and SECRET not in str(result.to_dict())
        assert SECRET.encode() not in pickle.dumps(result)


@pytest.mark.parametrize(
    "scheme", ["ftp", "rtsps", "srt", "s3", "HTTPS", "rtsp", "http://[::", "http://h:99999"]
)
def test_no_error_has_it(scheme, random_weights):
    address = f"{scheme}://anna:{SECRET}@127.0.0.1:1/a.png"
    if "//" in scheme:  # no address
        address = scheme.replace("//", f"//anna:{SECRET}@") + "/a.png"
    with pytest.raises(DataError, match=r"anna:\*\*\*@") as refused:
        YOLO(random_weights)(address)
    assert SECRET not in str(refused.value)


def test_what_is_no_address_here_names_those_that_are():
    with pytest.raises(DataError, match="address that is not read here; there are http://, .*rtsp"):
        open_source("s3://bucket/a.png")


def test_the_decoder_says_nothing_of_a_stream_that_it_cannot_open(random_weights, tmp_path):
    """FFmpeg would write the address to stderr; what it asks at its start is asked once a process."""
    source = f"source=tcp://anna:{SECRET}@127.0.0.1:1/x"
    command = [sys.executable, "-m", "engine", "predict", f"model={random_weights}", source]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "cannot be opened as a video or camera" in done.stderr
    assert SECRET not in done.stdout + done.stderr
