"""Where families are found: by the setting, by the name in a file, by an entry point; and what is
said where they are not.
"""

import importlib.metadata
import sys
import types

import pytest
import torch
from torch import nn

from engine.config import DetectionTrainConfig
from engine.errors import CheckpointError, ConfigError, TrainingError
from engine.models.nms import nms
from engine.models.registry import (
    CandidateModule,
    Family,
    built_in,
    check_candidates,
    families,
    family_named,
    family_of,
)
from engine.models.transfer import ClassRows, transfer
from engine.models.yolov8.family import YOLOv8Family

CONFIG = DetectionTrainConfig()


class Toy(Family):
    """One box that fills the image, and a score for each class."""

    def knows(self, model):
        return model == "toy"

    def names(self):
        return ("toy",)

    def spec(self, model, config):
        return {"name": "toy"}

    def build(self, spec, classes):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, classes, 3))

    def criterion(self, spec, config, class_weights=None, ranks=1, sum_over_ranks=None):
        raise NotImplementedError

    def candidates(self, preds):
        scores = preds.mean((2, 3)).sigmoid()[:, None]
        return torch.tensor([0.0, 0, 1, 1]).expand(len(preds), 1, 4), scores


@pytest.fixture
def module(monkeypatch):
    """A module of the user's own with the toy."""
    made = types.ModuleType("toy_module")
    made.Toy, made.toy, made.number = Toy, Toy(), 3
    monkeypatch.setitem(sys.modules, "toy_module", made)
    return made


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("yolov8n", "yolov8"),
        ("mine.yaml", "yolov8"),
        ("torchvision:fcos_resnet50_fpn", "torchvision"),
        ("toy_module:Toy", "toy_module:Toy"),
        ("toy_module:toy", "toy_module:toy"),
    ],
)
def test_a_setting_and_a_file_lead_to_the_same_family(module, model, name):
    family = family_of(model)
    assert family.name == name and type(family_named(name)) is type(family)


def test_a_file_of_the_time_before_families_is_a_yolov8():
    assert family_named(None).name == "yolov8"


def test_names_of_families_and_networks_are_unique():
    every = [name for family in built_in() for name in family.names()]
    assert len(set(every)) == len(every)
    assert [family.name for family in families()][:2] == ["yolov8", "torchvision"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("parts@champion", r"detectflow run -S train.model=parts@champion` copies them"),
        ("yolov8q", r"^model='yolov8q' is not known. Did you mean 'yolov8\w'\? Give yolov8n, "),
        ("ssdlite320", "Give yolov8n.*torchvision:ssdlite320_mobilenet_v3_large"),
        ("ssdlite320", "Did you mean 'torchvision:ssdlite320_mobilenet_v3_large'"),
        ("yolov8q", r"\(\.pt, \.safetensors\)\.$"),
        ("nowhere:Toy", r"the installed packages\.$"),
        (
            "torchvison:retinanet_resnet50_fpn",
            "no module 'torchvison'.*Did you mean 'torchvision:retinanet_resnet50_fpn'",
        ),
        ("toy_module:Toi", "has no 'Toi'. Did you mean 'Toy'"),
        ("toy_module:number", "is int, not a class derived from engine.models.registry.Family"),
        ("engine.detect:DetectionTrainer", "It is a trainer: give trainer=engine.detect:Detec"),
        ("nowhere.at.all:Toy", "there is no module 'nowhere'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(module, model, said):
    with pytest.raises(ConfigError, match=said):
        family_of(model)


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_larg", "ssdlite"])
def test_a_torchvision_name_that_is_misspelt_or_cut_off(name):
    model = f"torchvision:{name}"
    with pytest.raises(ConfigError, match="Did you mean 'torchvision:ssdlite320_mobilenet_v3_lar"):
        family_of(model).spec(model, CONFIG)


class Derived(YOLOv8Family):
    """Does not say which network it is."""


class Small(YOLOv8Family):
    def spec(self, model, config):
        return super().spec("yolov8n", config)


def test_a_family_derived_from_yolov8_says_which_network_it_is(module):
    module.Derived, module.Small = Derived, Small
    with pytest.raises(ConfigError, match=r"write spec\(self, model, config\) in Derived, for exa"):
        family_of("toy_module:Derived").spec("toy_module:Derived", CONFIG)
    assert family_of("toy_module:Small").spec("toy_module:Small", CONFIG)["name"] == "yolov8n"


def test_weights_of_a_class_in_a_script_say_who_can_load_them():
    with pytest.raises(CheckpointError, match=r"the class Gone of a script made.* mine/net\.py"):
        family_named("__main__:Gone")


def test_candidates_of_another_form_are_told_with_what_was_given_and_what_is_wanted():
    good = torch.zeros(2, 5, 4), torch.zeros(2, 5, 3)
    assert check_candidates(good, 2, 3, "Mine.candidates") is not None
    wrong = {
        "Tensor (2, 5, 7)": torch.zeros(2, 5, 7),
        "tuple of Tensor (2, 5, 4), Tensor (2, 5)": (good[0], good[1][..., 0]),
        "tuple of Tensor (2, 5, 4), Tensor (2, 5, 2)": (good[0], good[1][..., :2]),
        "tuple of Tensor (2, 5, 4), Tensor (2, 4, 3)": (good[0], good[1][:, :4]),
        "tuple of Tensor (2, 5, 4), Tensor (2, 5, 3), int": (*good, 1),
        "NoneType": None,
    }
    for got, value in wrong.items():
        with pytest.raises(TrainingError) as caught:
            check_candidates(value, 2, 3, "Mine.candidates")
        assert f"Mine.candidates returned {got}. Wanted for a batch of 2 images and 3" in str(
            caught.value
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise OSError('no disk')", r"importing broken_\d raised OSError: no disk \(.*py:1\)"),
        (
            "import nothing_here_at_all",
            "ModuleNotFoundError: No module named 'nothing_here_at_all'",
        ),
        ("def f(:", "raised SyntaxError: "),
    ],
)
def test_a_module_that_cannot_be_imported_is_reported_in_one_sentence(
    tmp_path, monkeypatch, text, said
):
    name = f"broken_{len(text) % 10}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=said) as caught:
        family_of(f"{name}:Toy")
    assert "\n" not in str(caught.value).split("DETECTFLOW_DEBUG")[0].split("SyntaxError")[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("yolov9", "of family 'yolov9', which is not known here. Did you mean 'yolov8'"),
        ("__main__:Gone", "Load them there, or move the class into a module"),
        (
            "gone.net:Mine",
            "made by gone.net:Mine, and that code is not at hand: .*no module 'gone'",
        ),
    ],
)
def test_a_file_of_an_unknown_family(name, said):
    with pytest.raises(CheckpointError, match=said):
        family_named(name)


def entry_points(monkeypatch, value):
    point = importlib.metadata.EntryPoint("toys", value, "detectflow.families")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])


def test_an_installed_package_offers_a_family(module, monkeypatch):
    entry_points(monkeypatch, "toy_module:Toy")
    assert family_of("toy").name == "toys" and type(family_named("toys")) is Toy
    with pytest.raises(ConfigError, match="Did you mean 'toy'"):
        family_of("toyy")


def test_a_package_whose_family_cannot_be_imported_is_named(monkeypatch):
    entry_points(monkeypatch, "nothing_here:Toy")
    with pytest.raises(ConfigError, match=r"the family 'toys' \(nothing_here:Toy\), and importing"):
        family_of("toy")


@pytest.mark.parametrize(
    ("model", "size", "said"),
    [
        ("yolov8n", (100, 100), r"a multiple of 32 \(the largest stride\).*got 100, try 96 or 128"),
        ("yolov8n", (64, 16), "got 64x16, try 32"),
        ("torchvision:fcos_resnet50_fpn", (300, 300), "try 288 or 320"),
        ("torchvision:ssd300_vgg16", (200, 300), "at least 268 for this network: got 200x300"),
        ("torchvision:ssd300_vgg16", (300, 300), None),
        ("torchvision:ssdlite320_mobilenet_v3_large", (50, 70), None),
    ],
)
def test_a_size_that_a_network_cannot_take_is_answered_with_one_that_fits(model, size, said):
    family = family_of(model)
    spec = family.spec(model, CONFIG)
    if said is None:
        family.check_size(spec, size)
        return
    with pytest.raises(ConfigError, match=said):
        family.check_size(spec, size)


def test_what_one_more_class_lets_grow_are_the_class_rows():
    family = Toy()
    old, new = family.build({}, 2), family.build({}, 3)
    before = torch.random.get_rng_state()
    report = family.transfer(new, old.state_dict(), ("a", "b"), ("b", "c", "a"), {})
    assert torch.equal(before, torch.random.get_rng_state())  # building another drew no numbers
    assert torch.equal(new[2].weight[2], old[2].weight[0])
    assert torch.equal(new[2].bias[0], old[2].bias[1])
    assert report.new == ("c",) and report.classes == (("b", 1, 0), ("a", 0, 2))


def test_class_rows_of_anchors_background_and_boxes_by_hand():
    """2 anchors x (background + classes) rows, and (background + classes) x 4 rows."""
    old, new = nn.ModuleDict(), nn.ModuleDict()
    for net, classes in ((old, 2), (new, 2)):
        net["score"], net["box"] = nn.Linear(1, 2 * (1 + classes)), nn.Linear(1, 4 * (1 + classes))
    rows = {
        "score.weight": ClassRows(background=1),
        "box.weight": ClassRows(inner=4, background=1),
    }
    transfer(new, old.state_dict(), ("a", "b"), ("b", "a"), rows)
    take = [0, 2, 1, 3, 5, 4]
    assert torch.equal(new["score"].weight, old["score"].weight[take])
    take = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7]
    assert torch.equal(new["box"].weight, old["box"].weight[take])


def test_by_default_the_network_itself_is_exported():
    family = Toy()
    module = family.build({}, 2).eval()
    boxes, scores = family.export_module(module, (8, 8))(torch.rand(3, 3, 8, 8))
    assert boxes.shape == (3, 1, 4) and scores.shape == (3, 1, 2)
    assert isinstance(family.export_module(module, (8, 8)), CandidateModule)


def test_candidates_without_doubles_are_not_suppressed():
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 8]]])
    scores = torch.tensor([[[0.4], [0.9], [0.5]]])
    assert nms(boxes, scores, 0.1, 0.5)[0][1].tolist() == pytest.approx([0.9])
    assert nms(boxes, scores, 0.1, None)[0][1].tolist() == pytest.approx([0.9, 0.5, 0.4])
    assert nms(boxes, scores, 0.1, None, max_det=1)[0][0].tolist() == [[0, 0, 9, 9]]
