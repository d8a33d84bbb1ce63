"""The list of networks: true numbers, and names from elsewhere."""

import re

import pytest
import torch

from engine.cli import main
from engine.config import DetectionTrainConfig
from engine.errors import ConfigError
from engine.models.catalogue import CATALOGUE, ways
from engine.models.registry import family_of

LOCAL = [entry for entry in CATALOGUE if not entry.name.startswith("hf:")]


@pytest.mark.parametrize("entry", LOCAL, ids=lambda entry: entry.name)
def test_parameters_and_sizes_are_those_of_the_network(entry):
    model = entry.name.partition("@")[0]
    family = family_of(model)
    spec = family.spec(model, DetectionTrainConfig(model=model))
    with torch.device("meta"):
        module = family.build(spec, 90 if entry.family == "torchvision" else 80)
    count = sum(p.numel() for p in module.parameters()) / 1e6
    assert count == pytest.approx(entry.params, rel=0.02, abs=0.06)
    assert (family.name, family.smallest(spec)) == (entry.family, entry.smallest_px)


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("yolov8n.pt", "yolov8n", "hf:ustc-community/dfine-nano-coco"),
        ("yolo11m", "yolov8m", "hf:ustc-community/dfine-medium-coco"),
        ("YOLOv5x.pt", "yolov8x", "hf:ustc-community/dfine-large-coco"),
        ("yolov9t", "yolov8n", None),
        ("rtdetr-l.pt", "hf:PekingU/rtdetr_v2_r50vd", None),
        ("rtdetr-x", "hf:PekingU/rtdetr_v2_r101vd", None),
        ("dfine-s", "hf:ustc-community/dfine-small-coco", None),
        ("rfdetr-nano", "hf:Roboflow/rf-detr-nano", None),
        ("rf-detr-base.pth", "hf:Roboflow/rf-detr-medium", None),
        ("rfdetr_2xlarge", "hf:Roboflow/rf-detr-large", None),  # its own licence is not free
        ("rf-detr-large", "hf:Roboflow/rf-detr-large", None),
        ("rf-detr", "hf:Roboflow/rf-detr-nano", None),
        ("ustc-community/dfine_nano_coco", "hf:ustc-community/dfine-nano-coco", None),
        ("fasterrcnn_resnet50_fpn", "torchvision:fasterrcnn_resnet50_fpn@COCO_V1", None),
        ("rtdetr_v2_r18vd", "hf:PekingU/rtdetr_v2_r18vd", None),
        ("rtdetrv2-r34.pt", "hf:PekingU/rtdetr_v2_r34vd", None),
        ("rf-detr-nano", "hf:Roboflow/rf-detr-nano", None),
        ("detr", "hf:PekingU/rtdetr_v2_r50vd", "hf:ustc-community/dfine-nano-coco"),
        ("detr-resnet-50", "hf:PekingU/rtdetr_v2_r50vd", None),
        ("somebody/detector", "hf:somebody/detector", None),
    ],
)
def test_names_from_elsewhere(name, first, second):
    found = ways(name)
    assert 1 <= len(found) <= 3 and found[0] == first and second in (None, *found)
    if not name.endswith((".pt", ".pth")):  # files, for whoever reads them
        with pytest.raises(
            ConfigError,
            match=f"(Near to it: model=|Did you mean ').*{re.escape(first.partition('@')[0])}",
        ):
            family_of(name)


def test_a_path_into_the_project_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ways("mine/detector") == ("hf:mine/detector",)
    (tmp_path / "mine").mkdir()
    for name in ("mine/detector", "runs/best", "data/coco", "models/x"):
        assert ways(name) == ()


def test_a_backbone_in_place_of_a_detector():
    with pytest.raises(ConfigError, match="model=yolov8n backbone=timm:resnet18"):
        family_of("timm:resnet18")


@pytest.mark.parametrize("name", ["best.pt", "runs/train/weights/best.pt", "mine.net:Net", "x"])
def test_what_is_near_to_nothing(name):
    assert ways(name) == ()


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models/start/dfine-nano-coco-123"
    folder.mkdir(parents=True)
    (folder / "source.json").write_text(
        '{"repo": "ustc-community/dfine-nano-coco", "revision": "' + "a" * 40 + '"}'
    )
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if re.match(r"yolov8|hf:|torchvision:", line)]) == len(
        CATALOGUE
    )
    assert [line.split()[0] for line in lines if line.endswith(" yes")] == [
        "hf:ustc-community/dfine-nano-coco"
    ]
    assert main(["models", "yolov8n"]) == 2
