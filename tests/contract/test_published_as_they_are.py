"""Published weights without a training: `detectflow import hf:...`, `YOLO("hf:...")`."""

import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import hf_networks

from engine import YOLO
from engine.cli import main
from engine.core.checkpoint import load_checkpoint
from engine.detect.model_io import load_model

NAMES = ("blue", "cat")


@pytest.fixture
def network(tmp_path, monkeypatch):
    """The library's own module; its folder is `tiny` in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path / "state"))
    module = hf_networks.save(tmp_path / "tiny", "d_fine", NAMES)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite("noise.png", noise)
    return module


def boxes_of_the_library(network, image):
    """(queries, 4) xyxy px and (queries,) best scores, best first."""
    with torch.no_grad():
        said = network(pixel_values=image)
    x, y, w, h = (64 * said.pred_boxes[0]).unbind(-1)
    boxes = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)
    scores = said.logits[0].sigmoid().amax(-1)
    order = scores.argsort(descending=True)
    return boxes[order], scores[order]


def test_it_predicts_what_the_library_does_and_training_begins_with_the_name(network, tiny):
    model = YOLO("hf:./tiny")
    assert model.names == dict(enumerate(NAMES)) and model.info(verbose=False)[1] > 10_000
    [result] = model.predict("noise.png", imgsz=64, conf=0.0, save=False)
    image = torch.from_numpy(cv2.imread("noise.png")[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    boxes, scores = boxes_of_the_library(network, image)
    count = len(scores)
    assert result.boxes.conf[:count] == pytest.approx(scores.numpy(), abs=1e-4)
    best = np.asarray(result.boxes.xyxy)[0]
    assert best == pytest.approx(boxes[0].clamp(0, 64).numpy(), abs=0.1)
    again = YOLO("hf:./tiny")
    assert again.names == model.names and again.ckpt_path == model.ckpt_path
    settings = tiny(imgsz=64)
    assert settings.pop("model")
    trained = model.train(**settings)
    meta = load_checkpoint(trained.best).meta
    assert meta["model"] == "hf:./tiny" and meta["names"] == ["red", "blue"]
    assert len(meta["origins"]) == 1
    assert model.names == {0: "red", 1: "blue"}


def test_import_writes_a_weight_file_with_the_classes_as_they_are(network, capsys):
    assert main(["import", "hf:./tiny", "imgsz=64", "out=some/where.pt"]) == 0
    assert "some/where.pt: hf:./tiny, 2 classes (blue, cat), 64 px\n" in capsys.readouterr().out
    loaded = load_model("some/where.pt")
    assert (loaded.names, loaded.imgsz) == (NAMES, (64, 64))
    wanted = network.state_dict()
    found = {key.removeprefix("network."): v for key, v in loaded.module.state_dict().items()}
    shared = wanted.keys() & found.keys()
    assert len(shared) > 100 and all(torch.equal(found[key], wanted[key]) for key in shared)
    assert main(["import", "hf:./tiny"]) == 0
    said = capsys.readouterr().out
    assert "models/tiny.pt: hf:./tiny, 2 classes (blue, cat), 640 px (assumed" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hf:./none"], "none: no such folder"),
        (["hf:./tiny", "family=yolov8"], "unknown key .family.*accept_licence"),
        (["hf:./tiny", "imgsz=32"], "imgsz.*at least 64"),
        (["torchvision:ssd300_vgg16"], "names a network without weights"),
        (["torchvision:ssd301@COCO_V1"], "no such network"),
        (["hf:./tiny", "out=a.onnx"], "its name ends in .pt"),
        (["hf:./tiny", "out=noise.pt"], "is there already"),
    ],
)
def test_wrong_requests_write_nothing(network, capsys, words, said):
    Path("noise.pt").write_text("mine")
    before = sorted(str(path) for path in Path().rglob("*"))
    assert main(["import", *words]) in (1, 2)
    assert re.search(said, capsys.readouterr().err)
    assert sorted(str(path) for path in Path().rglob("*") if "state" not in str(path)) == before
