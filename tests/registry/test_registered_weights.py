"""`register.format: safetensors`: weights of a network that cannot be written as ONNX, served by
PyTorch with the same interface.
"""

import base64
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import toys
from detectors import random_detector
from mlflow.artifacts import download_artifacts
from mlflow.models import Model
from test_register import set_param, versions

from engine.config import Params
from engine.core.checkpoint import Checkpoint, save_checkpoint
from engine.detect.choose import check_params, check_registration
from engine.detect.model_io import model_meta
from engine.detect.predictor import DetectionPredictor
from engine.errors import ConfigError
from engine.export import export
from engine.files import sha256_file
from engine.models.registry import family_of
from engine.registry.fetch import fetch, file_of
from engine.stages import code
from engine.stages import register as stage
from engine.stages.layout import Layout, read_report, write_json

# A network of a project's own, in two modules, which the exporter could not follow.
FAMILY = """
from engine.models.yolov8.family import YOLOv8Family
from shy import NETWORK


class Shy(YOLOv8Family):
    def spec(self, model, config):
        return super().spec(NETWORK, config)

    def can_export(self, spec, format):
        return "its number of layers follows from the image." if format == "onnx" else None
"""
MODULES = ("shy", "shy.family")


@pytest.fixture
def own_modules(monkeypatch):
    """`own_modules(root)` writes them there, where they are found until the test ends."""

    def write(root):
        (root / "shy").mkdir()
        (root / "shy" / "__init__.py").write_text("NETWORK = 'yolov8n'\n")
        (root / "shy" / "family.py").write_text(FAMILY)
        monkeypatch.syspath_prepend(str(root))

    yield write
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def shy(workspace, own_modules):
    """A workspace whose network is the project's own, its weights exported as safetensors."""
    own_modules(workspace)
    toys.train(workspace, epochs=1)
    toys.validate(workspace)
    for key, value in {
        "train.model": "shy.family:Shy",
        "export.formats": ["safetensors"],
        "register.format": "safetensors",
    }.items():
        set_param(workspace, key, value)
    model, size = random_detector(), (toys.SIZE, toys.SIZE)
    family = family_of("shy.family:Shy")
    meta = model_meta(family, model.spec.to_dict(), "shy", tuple(toys.NAMES), size, "")
    weights = workspace / "shy.pt"
    save_checkpoint(Checkpoint(meta, model.state_dict()), weights)
    file = export(weights, "safetensors", workspace / "export").path
    about = {"file": f"export/{file.name}", "sha256": sha256_file(file)}
    layout = Layout(workspace)
    of = read_report(layout, "train")["weights_sha256"]
    write_json(layout.summary("export"), {"weights_sha256": of, "files": {"safetensors": about}})
    code.write_code(toys.params_of(workspace), workspace)
    return workspace


def first_image(root):
    return min((root / "data" / "prepared" / "images" / "test").iterdir()).read_bytes()


SERVED = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/detector@challenger")
table = pandas.DataFrame({"image": [sys.stdin.read()]})
found = model.predict(table, params={"conf": 0.3, "iou": 0.6})["detections"][0]
try:
    model.predict(pandas.DataFrame({"image": ["no image"]}))
except ValueError as error:
    refused = str(error)
import shy.family
print(json.dumps({"found": found, "refused": refused, "code": shy.family.__file__}))
"""


def test_it_is_served_with_the_same_interface_and_brings_the_code_of_its_network(
    shy, store, tmp_path
):
    done = stage.run(toys.params_of(shy), shy)
    version = store.client.get_model_version("detector", str(done["version"]))
    assert version.tags["format"] == "safetensors" and done["latency"]["median_ms"] > 0
    fetched = fetch("detector@challenger", shy)
    assert fetched.file.suffix == ".safetensors"
    assert sha256_file(fetched.file) == version.tags["onnx_sha256"] == done["onnx_sha256"]

    check_folder(Path(download_artifacts(version.source, tracking_uri=store.uri)))
    content = first_image(shy)
    away = tmp_path / "away"  # not the project's folder, whose modules Python would find
    away.mkdir()
    asked = subprocess.run(
        [sys.executable, "-c", SERVED, f"sqlite:///{shy}/mlflow.db"],
        cwd=away,
        input=base64.b64encode(content).decode(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout.splitlines()[-1])
    assert Path(answer["code"]).parent.parent.name == "code"  # of the version, not the project's
    assert "row 0: 'image' must be the base64 text" in answer["refused"]
    settings = {"device": "cpu", "save": False, "verbose": False, "conf": 0.3, "iou": 0.6}
    # By its name in the registry, as any model: `detectflow predict model=detector@challenger`.
    predictor = DetectionPredictor({"model": file_of("detector@challenger", root=shy), **settings})
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    [wanted] = predictor([image])
    found = answer["found"]
    assert len(found) > 1 and [each["name"] for each in found] == wanted.labels
    np.testing.assert_allclose([each["xyxy"] for each in found], wanted.boxes, atol=0.05)
    np.testing.assert_allclose([each["score"] for each in found], wanted.scores, atol=1e-4)

    again = stage.run(toys.params_of(shy), shy)
    assert again["version"] == done["version"] and versions(store) == [done["version"]]


def check_folder(folder):
    model = Model.load(str(folder))
    assert model.signature.inputs.input_names() == ["image"]
    assert model.signature.outputs.input_names() == ["detections"]
    lines = (folder / "requirements.txt").read_text().split()
    needed = {line.partition("==")[0] for line in lines}
    assert {"mlflow", "detectflow", "torch", "opencv-python-headless"} <= needed
    assert len(lines) == len(needed) and "+" not in "".join(lines)
    assert "onnxruntime" not in needed and not list(folder.rglob("*.pkl"))
    code = sorted(str(each.relative_to(folder)) for each in folder.rglob("code/**/*.py"))
    assert code == ["code/shy/__init__.py", "code/shy/family.py"]


def test_otherwise_it_is_refused_before_anything_runs(tmp_path, own_modules):
    """The network cannot be ONNX: refused, with the two settings that register its weights."""
    own_modules(tmp_path)
    export = {"formats": ["onnx", "safetensors"]}
    params = Params.build({"train": {"model": "shy.family:Shy"}, "export": export}, "params.yaml")
    said = (
        "cannot be exported to onnx: its number of layers follows from the image. It can be "
        r"written as: safetensors. To register its weights, served by PyTorch: export.formats: "
        r"\[safetensors\] and register.format: safetensors"
    )
    with pytest.raises(ConfigError, match=said):
        check_params(params, tmp_path)
    export["formats"].remove("onnx")
    params = Params.build({"train": {"model": "shy.family:Shy"}, "export": export}, "params.yaml")
    check_params(params, tmp_path)


def test_the_format_that_is_registered_must_be_exported():
    check_registration(["onnx"], "onnx")
    check_registration(["onnx", "safetensors"], "safetensors")
    with pytest.raises(ConfigError, match="Add onnx; where the network cannot .* register.format"):
        check_registration(["safetensors"], "onnx")
    with pytest.raises(ConfigError, match="Add safetensors; to train without"):
        check_registration(["onnx"], "safetensors")
