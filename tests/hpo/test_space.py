"""What may be searched: every wrong entry is refused with the reason, every default lies inside its
setting's limits.
"""

import pytest
import yaml

from engine.config import DetectionTrainConfig
from engine.config.tune import TuneConfig
from engine.errors import ConfigError, EngineError
from engine.hpo.space import (
    DEFAULT_SPACE,
    default_space,
    from_plain,
    load_space,
    make_space,
    to_plain,
)

BASE = DetectionTrainConfig()


def test_the_default_space_holds_what_training_does_by_itself():
    space = {each.name: each for each in default_space(BASE)}
    assert space.keys() == DEFAULT_SPACE.keys()
    assert all(each.holds(getattr(BASE, name)) for name, each in space.items() if name != "lr0")
    assert space["lr0"].holds(0.002) and space["lr0"].holds(0.01)
    assert "mosaic" not in {each.name for each in default_space(BASE, fixed=["mosaic"])}


def test_a_file_becomes_dimensions_and_back(tmp_path):
    file = tmp_path / "tune.yaml"
    file.write_text(
        "lr0: {low: 1e-4, high: 2e-2, log: true}\nimgsz: {low: 64, high: 128, step: 32}\n"
        "optimizer: {choices: [SGD, AdamW]}\n"
    )
    space = load_space(file, BASE)
    assert [each.describe() for each in space] == [
        "0.0001 to 0.02, log",
        "64 to 128, step 32",
        "SGD | AdamW",
    ]
    assert from_plain(yaml.safe_load(yaml.safe_dump(to_plain(space)))) == space
    assert [type(each.distribution()).__name__[:5] for each in space] == ["Float", "IntDi", "Categ"]


@pytest.mark.parametrize(
    "entries, said",
    [
        ({}, "nothing to search"),
        ({"lrO": {"low": 1, "high": 2}}, "Did you mean 'lr"),
        ({"lr0": {"low": 0, "high": 1}}, "greater than 0"),
        ({"scale": {"low": 0, "high": 1}}, "less than 1"),
        ({"mosaic": {"low": 0.5, "high": 0.5}}, "low must be below high"),
        ({"mosaic": {"low": 0, "high": 1, "log": True}}, "log range begins above 0"),
        ({"mosaic": {"low": 0, "high": 1, "step": 2}}, "step is a positive number"),
        ({"mosaic": {"low": 0, "high": "much"}}, "high is a number, found 'much'"),
        ({"mosaic": {"low": 0}}, "needs low and high"),
        ({"mosaic": 0.5}, "expected {low"),
        ({"mosaic": {"lo": 0, "high": 1}}, "Did you mean 'low'"),
        ({"imgsz": {"low": 64, "high": 128}}, "multiple of 32"),
        ({"optimizer": {"low": 1, "high": 2}}, "is no number"),
        ({"optimizer": {"choices": ["SGD", "Adm"]}}, "'Adm'"),
        ({"optimizer": {"choices": ["SGD"]}}, "at least two"),
        ({"optimizer": {"choices": ["SGD", "SGD"]}}, "twice"),
        ({"seed": {"low": 0, "high": 9}}, "cannot be searched"),
        ({"epochs": {"low": 1, "high": 9}}, "all need the same"),
        ({"device": {"choices": ["cpu", "cuda"]}}, "where or how a run computes"),
    ],
)
def test_wrong_entries(entries, said):
    with pytest.raises(ConfigError, match="^tune.yaml: ") as error:
        make_space(entries, BASE, "tune.yaml")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("model", "entries", "said"),
    [
        (
            "torchvision:ssdlite320_mobilenet_v3_large",
            {"lr0": {"low": 1e-3, "high": 1e-2}, "box": {"low": 5, "high": 9}, "cls": [0.3, 0.7]},
            "box, cls cannot be searched with model=torchvision:ssdlite320_mobilenet_v3_large:\n"
            "  box: box=5.0: torchvision:ssdlite320_mobilenet_v3_large has no use for it",
        ),
        (
            "yolov8n",
            {
                "box": {"low": 5, "high": 9},
                "model": ["yolov8n", "torchvision:ssd300_vgg16"],
            },
            "box cannot be searched with model=torchvision:ssd300_vgg16",
        ),
        (
            "yolov8n",
            {"imgsz": [300, 320], "model": ["torchvision:ssd300_vgg16", "yolov8n"]},
            "try 288 or 320",
        ),
        ("none.pt", {"mosaic": {"low": 0, "high": 1}}, "none.pt"),
    ],
)
def test_what_a_network_does_not_take_is_refused_before_the_first_trial(model, entries, said):
    entries = {k: {"choices": v} if isinstance(v, list) else v for k, v in entries.items()}
    with pytest.raises(EngineError) as error:
        make_space(entries, BASE.with_overrides({"model": model}), "tune.yaml")
    assert said in str(error.value)


def test_what_every_searched_network_takes_is_searched(random_weights):
    entries = {"model": {"choices": ["yolov8n", str(random_weights)]}, "box": {"low": 5, "high": 9}}
    assert [each.name for each in make_space(entries, BASE, "tune.yaml")] == ["model", "box"]
    ssd = BASE.with_overrides({"model": "torchvision:ssd300_vgg16"})
    assert make_space({"imgsz": {"low": 290, "high": 310}}, ssd, "tune.yaml")


def test_no_setting_of_the_search_is_one_of_training():
    assert not TuneConfig.model_fields.keys() & DetectionTrainConfig.model_fields.keys()
