"""Values of numpy, torch and Python's other collections: what means the same is taken."""

import argparse
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import DetectionTrainConfig, ExportConfig, PredictConfig, TrackConfig
from engine.config.sections import ValidateConfig
from engine.errors import ConfigError

BOTH = (0, 1)


@pytest.mark.parametrize("section", [PredictConfig, TrackConfig], ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    "key, value, plain",
    [
        ("device", torch.device("cpu"), "cpu"),
        ("device", torch.device("cuda"), "cuda"),
        ("device", torch.device("cuda:1"), "cuda:1"),
        ("device", torch.device(0), "cuda:0"),
        ("device", np.int64(1), "cuda:1"),
        ("classes", torch.tensor([0, 1]), BOTH),
        ("classes", torch.tensor([0.0, 1.0]), BOTH),  # as boxes.cls
        ("classes", torch.tensor(1), (1,)),
        ("classes", torch.tensor([0, 1], requires_grad=False, dtype=torch.uint8), BOTH),
        ("classes", np.array([0, 1], np.int32), BOTH),
        ("classes", np.array(["cat", "dog"]), ("cat", "dog")),
        ("classes", [np.int64(0), torch.tensor(1)], BOTH),
        ("classes", (np.int64(0), 1), BOTH),
        ("classes", np.int64(1), (1,)),
        ("classes", {1, 0}, BOTH),
        ("classes", {0: "cat", 1: "dog"}.keys(), BOTH),
        ("classes", range(2), BOTH),
        ("classes", deque([0, 1]), BOTH),
        ("imgsz", (64, 96), (64, 96)),
        ("imgsz", [64, 96], (64, 96)),
        ("imgsz", torch.Size([64, 96]), (64, 96)),
        ("imgsz", np.array([64, 96]), (64, 96)),
        ("imgsz", (np.int64(64), np.int64(96)), (64, 96)),
        ("imgsz", np.int64(64), 64),
        ("conf", np.float32(0.5), 0.5),
        ("conf", torch.tensor(0.5), 0.5),
        ("conf", np.int64(1), 1.0),
        ("max_det", np.uint8(5), 5),
        ("max_det", torch.tensor(5), 5),
        ("agnostic_nms", np.bool_(True), True),
        ("half", torch.tensor(False), False),
        ("project", Path("out") / "here", "out/here"),
        ("model", Path("best.pt"), "best.pt"),
        ("name", np.str_("night"), "night"),
    ],
    ids=repr,
)
def test_what_means_the_same(section, key, value, plain):
    found = getattr(section.build({key: value}), key)
    assert found == plain and type(found) is type(plain)
    if isinstance(plain, tuple):
        assert [type(each) for each in found] == [type(each) for each in plain]


def test_in_other_sections():
    train = DetectionTrainConfig.build(
        {
            **{"device": torch.device("cpu"), "imgsz": np.int64(64), "epochs": np.int64(2)},
            **{"data": Path("data"), "freeze": range(3), "lr0": np.float64(0.01)},
        }
    )
    assert (train.device, train.imgsz, train.epochs) == ("cpu", 64, 2)
    assert (train.data, train.freeze, train.lr0) == ("data", (0, 1, 2), 0.01)
    assert ExportConfig.build({"imgsz": (np.int64(64), 96), "opset": np.int8(17)}).imgsz == (64, 96)
    assert ValidateConfig.build({"device": torch.device("cpu")}).device == "cpu"
    several = {"device": [torch.device("cuda:0"), torch.device("cuda:1")]}
    assert DetectionTrainConfig.build(several).nproc == 2


def test_a_setting_that_takes_anything_gets_it_as_it_is():
    for source in (np.zeros((4, 4, 3), np.uint8), torch.zeros(3, 4, 4), Path("a.jpg"), [Path("a")]):
        assert PredictConfig.build({"source": source}).source is source


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("device", torch.device("meta"), "device: should be auto, cpu, cuda, or cuda:N"),
        ("device", object(), "device: Input should be a valid string"),
        ("classes", object(), "classes: Input should be a list, got .*list of integer or text"),
        ("classes", torch.tensor([[0, 1]]), "classes: Input should be of one of these types"),
        ("classes", np.array([0.5]), r"classes: .*got 0.5 \(list of integer or text"),
        ("imgsz", np.array([64, 64, 3]), r"imgsz: Input .*\(integer or \[integer, integer\]"),
        ("max_det", np.float32(2.5), r"max_det: Input .*got 2.5 \(integer >= 1"),
        ("max_det", np.bool_(True), "max_det: Input should be a valid integer, got True"),
        ("conf", np.float32("nan"), "conf: Input should be a finite number, got nan"),
        ("conf", torch.tensor(7), "conf: Input should be less than or equal to 1, got 7"),
        ("project", b"out", "project: Input should be a valid string"),
        ("half", argparse.Namespace(), "half: Input should be a valid boolean"),
        ("conff", torch.tensor([1]), "unknown key 'conff'. Did you mean 'conf'"),
    ],
)
def test_anything_else_is_a_sentence(key, value, said):
    with pytest.raises(ConfigError, match=said):
        PredictConfig.build({key: value}, "predict")
