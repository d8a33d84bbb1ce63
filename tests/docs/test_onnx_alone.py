"""The page about the ONNX file by itself: its code, with nothing of this project, finds what our
predictor finds.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose

from engine.detect.predictor import DetectionPredictor

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "onnx.md"
SHAPES = [(160, 160), (90, 250), (333, 200), (31, 17), (480, 641)]
CONF, IOU = 0.25, 0.7
ALONE = """
import json, sys
sys.modules["engine"] = sys.modules["torch"] = sys.modules["mlflow"] = None  # cannot be imported
{code}
print("DETECTIONS" + json.dumps([detect(cv2.imread(p), {conf}, {iou}) for p in sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(3)
    paths = []
    for i, (h, w) in enumerate(SHAPES):
        rough = rng.integers(0, 256, (h // 8 + 2, w // 8 + 2, 3), np.uint8)
        paths.append(folder / f"{i}.png")
        cv2.imwrite(str(paths[-1]), cv2.resize(rough, (w, h)))
    return paths


def code_of_page():
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return code


def found_alone(folder, onnx, images, conf):
    (folder / "export").mkdir()
    (folder / "export" / "best.onnx").write_bytes(onnx.read_bytes())
    (folder / "image.jpg").write_bytes(images[0].read_bytes())
    code = ALONE.format(code=code_of_page(), conf=conf, iou=IOU)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, images)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.partition("DETECTIONS")[2])


@pytest.mark.parametrize("conf", [CONF, 0.5])
def test_the_code_of_the_page_agrees_with_our_predictor(exported, images, tmp_path, conf):
    onnx = exported["onnx"].path
    settings = {"model": str(onnx), "device": "cpu", "save": False, "verbose": False}
    ours = DetectionPredictor({**settings, "conf": conf, "iou": IOU})([str(p) for p in images])
    theirs = found_alone(tmp_path, onnx, images, conf)
    assert any(len(each) > 2 for each in theirs)
    for expected, found in zip(ours, theirs, strict=True):
        assert [name for name, _, _ in found] == expected.labels
        assert_allclose([score for _, score, _ in found], expected.scores, atol=2e-5)
        boxes = np.array([box for _, _, box in found]).reshape(-1, 4)
        assert_allclose(boxes, expected.boxes, atol=0.02)


def test_the_page_stays_short():
    body = code_of_page().partition("def detect")[2].partition("\n\n\n")[0]
    assert len(body.splitlines()) <= 34
