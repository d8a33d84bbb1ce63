"""The served model, as docs/howto/production.md shows it: a real `mlflow models serve`, and the
page's own curl.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import toys

from engine.registry.candidate import Candidate, Measured
from engine.registry.registry import save_pyfunc
from flows.processes import LOOPBACK, Child, free_port

pytestmark = pytest.mark.system

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "production.md"
PORT_OF_PAGE = "5001"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The port of a server of the hand-made detector."""
    home = tmp_path_factory.mktemp("served")
    file = toys.write_detector(home / "best.onnx")
    measured = Measured("metrics/mAP50-95", 0.5, "test", "d")
    save_pyfunc(Candidate("detector", file, "", measured, {}), home / "saved")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(home / "saved")]
    command += ["--env-manager", "local", "--host", LOOPBACK, "-p", str(port)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    child = Child("The model's server", command, home / "log", {"PATH": path}, home)
    try:
        child.wait_until_it_answers(f"http://{LOOPBACK}:{port}/ping", 120)
        yield port
    finally:
        child.stop()


def curl_of_page(port, folder, *options):
    """(HTTP status, answer) of the page's command."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (each for each in blocks if "/invocations" in each)
    assert block.count(f"{LOOPBACK}:{PORT_OF_PAGE}/invocations") == 1
    command = block.rstrip().replace(f":{PORT_OF_PAGE}/", f":{port}/")
    script = f"{command} -sS -w '\\n%{{http_code}}' {' '.join(options)}"
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answer, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(answer)


def test_a_photo_of_5_mb_is_answered_with_json(served, tmp_path):
    image = np.random.default_rng(0).integers(0, 40, (2400, 2400, 3), dtype=np.uint8)
    image[600:900, 1500:1800] = 255  # a cell of 8 x 8 of the 64 x 64 that the network sees
    cv2.imwrite(str(tmp_path / "image.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert (tmp_path / "image.jpg").stat().st_size > 5_000_000
    status, answer = curl_of_page(served, tmp_path)
    assert status == 200 and answer.keys() == {"predictions"}
    ((found,),) = (each["detections"] for each in answer["predictions"])
    assert found["name"] == "bright" and found["class"] == 1 and found["score"] > 0.95
    assert found["xyxy"] == pytest.approx([1350, 450, 1950, 1050], abs=1)


def test_what_is_no_image_is_a_sentence_and_400(served, tmp_path):
    (tmp_path / "image.jpg").write_bytes(b"no image")
    status, answer = curl_of_page(served, tmp_path)
    assert status == 400 and answer["error_code"] == "BAD_REQUEST" and "stack_trace" not in answer
    assert answer["message"] == (
        "row 0: 'image' must be the base64 text of an encoded image (JPEG, PNG, ...)"
    )
