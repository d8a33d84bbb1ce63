"""`detectflow import`: weights of another tool become a weight file that everything here takes."""

import pytest
import torch
from test_published import NAMES, made, published

from engine import YOLO
from engine.cli import main
from engine.core.checkpoint import load_checkpoint
from engine.detect.model_io import load_model


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"model": published(made()), "names": list(NAMES), "train_args": {"imgsz": 320}}
    torch.save(content, tmp_path / "other.pt")
    return tmp_path / "other.pt"


def test_it_predicts_what_the_network_does_and_says_whose_it_is(file, capsys):
    before = file.read_bytes()
    assert main(["import", str(file), "family=yolov8", "licence=AGPL-3.0"]) == 0
    said = capsys.readouterr().out
    assert "models/other.pt: yolov8n, 3 classes (RBC, WBC, Platelets), 320 px\n" in said
    assert "Licence AGPL-3.0, recorded" in said
    loaded = load_model("models/other.pt")
    assert loaded.names == NAMES and loaded.imgsz == (320, 320)
    images, model = torch.rand(1, 3, 64, 64), made()
    with torch.no_grad():
        wanted, found = model(images), loaded.module(images)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-4, atol=1e-4)
    [origin] = load_checkpoint("models/other.pt").meta["origins"]
    assert (origin["name"], origin["licence"]) == ("other.pt", "AGPL-3.0")
    assert len(origin["digest"]) == 64 and file.read_bytes() == before
    assert YOLO("models/other.pt").names == dict(enumerate(NAMES))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no family given, for example family=yolov8"),
        (["family=yolov8"], "no licence given, for example licence=AGPL-3.0"),
        (["family=yolo", "licence=x"], "weights of other tools are read of yolov8"),
        (["family=torchvision", "licence=x"], "weights of other tools are read of yolov8"),
        (["family=yolov8", "licence=x", "names=[a,b]"], "2 names, and the network in"),
        (["family=yolov8", "licence=x", "names=[a,a,b]"], "two classes are called 'a'"),
        (["family=yolov8", "licence=x", "names=cat"], "expected a list"),
        (["family=yolov8", "licence=x", "imgsz=100"], "imgsz must be a multiple of 32"),
        (["family=yolov8", "licence=x", "imgsz=big"], "expected pixels"),
        (["family=yolov8", "licence=x", "out=a.onnx"], "its name ends in .pt"),
        (["family=yolov8", "license=x"], "Did you mean 'licence'"),
        (["family=yolov8", "licence=x", "out=other.pt"], "is there already"),
    ],
)
def test_wrong_requests_write_nothing(file, capsys, words, said):
    assert main(["import", str(file), *words]) in (1, 2)
    assert said in capsys.readouterr().err
    assert [path.name for path in file.parent.iterdir()] == ["other.pt"]


def test_classes_without_names_are_asked_for(file, capsys):
    torch.save(published(made()), file)
    words = ["import", str(file), "family=yolov8", "licence=mine"]
    assert main(words) == 2 and "does not name its 3 classes" in capsys.readouterr().err
    assert main([*words, "names=[a,b,c]"]) == 0
    assert "640 px (assumed: imgsz= sets it)" in capsys.readouterr().out
