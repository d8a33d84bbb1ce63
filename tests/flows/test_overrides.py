"""Overrides change one value of params.yaml and nothing else in it; a wrong one changes nothing at
all.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.errors import ConfigError, EngineError
from engine.plugins import look_in
from flows.overrides import apply, checked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(ROOT / "data/digits.yaml", tmp_path / "data")
    (tmp_path / "notes.toml").touch()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def text(root):
    return (root / "params.yaml").read_text()


def changed_lines(before, after):
    """Lines that differ, ignoring the order: (removed, added)."""
    old, new = before.splitlines(), after.splitlines()
    return [line for line in old if line not in new], [line for line in new if line not in old]


def test_the_shipped_file_survives_a_round_trip_untouched(root):
    before = text(root)
    apply(root, {"register.model": "x"})
    apply(root, {"register.model": None})
    assert text(root) == before


def test_one_value_changes_one_line_and_keeps_its_comment(root):
    before = text(root)
    params = apply(root, {"train.epochs": 5})
    removed, added = changed_lines(before, text(root))
    assert len(removed) == len(added) == 1
    assert (
        added[0].split("#") == [added[0].split("#")[0], removed[0].split("#")[1]]
        and "epochs: 5 " in added[0]
    )
    assert params.train.epochs == 5


def test_a_value_it_has_already_does_not_touch_the_file(root):
    epochs = yaml.safe_load(text(root))["train"]["epochs"]
    stamp = (root / "params.yaml").stat().st_mtime_ns
    apply(root, {"train.epochs": epochs})
    assert (root / "params.yaml").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.lr0", 0.001),  # not in the file yet
        ("data.path", "elsewhere"),  # null before
        ("export.formats", ["onnx", "safetensors"]),
        ("data.options.train", 8),  # a section that is not there
        ("data.options", {"train": 8, "size": 64}),
        ("train.class_weights", {"7": 2.0}),
        ("validate.conf", 0.01),
        ("train.fliplr", 0.5),
    ],
)
def test_it_is_what_a_yaml_reader_then_finds_and_everything_else_is_as_before(root, key, value):
    before, original = yaml.safe_load(text(root)), text(root)
    apply(root, {key: value})
    section, *path = key.split(".")
    expected = before[section]
    for name in path[:-1]:
        expected = expected.setdefault(name, {})
    expected[path[-1]] = value
    assert yaml.safe_load(text(root)) == before
    assert [line for line in original.splitlines() if line.startswith("#")] == [
        line for line in text(root).splitlines() if line.startswith("#")
    ]
    assert text(root).count("\n\n") == original.count("\n\n")  # sections stay apart


def test_nothing_is_written_as_dvc_writes_it(root):
    before = text(root)
    apply(root, {"data.path": "elsewhere"})
    apply(root, {"data.path": None})
    assert text(root) == before and yaml.safe_load(before)["data"]["path"] is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.batch": 8, "train.epocs": 5}, "unknown key 'train.epocs'. Did you mean 'epochs'?"),
        ({"trian.epochs": 5}, "no section 'trian'. Did you mean 'train'?"),
        ({"seed": 5}, "Did you mean data.seed or train.seed?"),
        ({"train": 5}, "whole section"),
        ({"train.epochs": "many"}, "train.epochs: Input should be a valid integer"),
        ({"train.epochs": 0}, "greater than or equal to 1"),
        ({"validate.splt": "val"}, "unknown key 'validate.splt'. Did you mean 'split'?"),
        ({"export.formats": ["onxx"]}, "export.formats"),
        (
            {"export.formats": ["safetensors"]},
            "the registered model is the onnx file, and without it stage register fails after",
        ),
        ({"train.imgsz": 100}, "multiple of 32"),
        ({"export.imgsz": 100}, "params.yaml: export.imgsz = 100: imgsz must be a multiple of 32"),
        ({"export.imgsz": [64, 100]}, "params.yaml: export.imgsz = (64, 100): imgsz must be a"),
        ({"export.opset": 99}, "params.yaml: export.opset = 99: onnx: opset 99 cannot be made"),
        ({"register.model": "a/b"}, "register.model: 'a/b' cannot be a model's name: no / : @ %"),
        ({"register.model": "a@b"}, "register.model: 'a@b' cannot be a model's name"),
        ({"register.model": " "}, "and no blank at an end"),
        (
            {"register.metric": "metrics/mAP50-59"},
            "params.yaml: register.metric = 'metrics/mAP50-59' cannot decide between two models. "
            "Did you mean 'metrics/mAP50-95'?",
        ),
        ({"train.monitor": "metrics/foo"}, "train: monitor='metrics/foo' is not measured"),
        ({"train.monitor": "val/bx_loss"}, "Did you mean 'val/box_loss'?"),
        ({"data.source": "data/digit.yaml"}, "no such file or folder, seen from"),
        ({"data.source": "data/digit.yaml"}, "Did you mean 'data/digits.yaml'?"),
        (
            {"data.source": "notes.toml"},
            "a dataset is a description (.yaml) or a folder of labelled images, not a .toml file",
        ),
        ({"data.source": "dvc.yaml"}, "unknown key 'stages'"),
        ({"data.path": "nowhere"}, "no such file or folder"),
        (
            {"data.policies.zero_are": "drop"},
            "unknown finding 'zero_are'. Did you mean 'zero_area'?",
        ),
        (
            {"data.policies.missing_image": "fix"},
            "data.policies.missing_image: 'fix' is not offered",
        ),
    ],
)
def test_a_wrong_override_changes_nothing(root, overrides, message):
    before = text(root)
    for function in (checked, apply):
        with pytest.raises(EngineError) as error:
            function(root, overrides)
        assert message in str(error.value)
    assert text(root) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("export.imgsz", 96),
        ("export.opset", 18),
        ("register.model", "my detector-2"),
        ("register.metric", "metrics/mAP50"),
        ("train.monitor", "metrics/F1"),
        ("train.monitor", "val/dfl_loss"),
        ("train.monitor", "lr/decay"),
        ("train.monitor", ""),  # the first metric
    ],
)
def test_what_a_run_can_do_with_is_taken(root, key, value):
    apply(root, {key: value})
    section, _, name = key.partition(".")
    assert yaml.safe_load(text(root))[section][name] == value


OWN_METRICS = """
from engine.detect import DetectionTrainer, DetectionValidator
from torch import nn


class Counts(DetectionValidator):
    def get_stats(self):
        return {**super().get_stats(), "metrics/counted": 1.0}


class Named(Counts):
    metric_names = (*DetectionValidator.metric_names, "metrics/counted")


class Mine(DetectionTrainer):
    validator_class = Counts

    def get_model(self, cfg, weights):
        return nn.Conv2d(3, 1, 1)


class Told(Mine):
    validator_class = Named
"""


def test_metrics_of_a_validator_of_ones_own_are_refused_only_where_it_lists_what_it_measures(root):
    (root / "own_metrics.py").write_text(OWN_METRICS)
    for name in ("Mine", "Told"):
        checked(root, {"train.trainer": f"own_metrics:{name}", "train.monitor": "metrics/counted"})
    wrong = {"metrics/count": "Did you mean 'metrics/counted'"}
    for value, said in wrong.items():
        own = {"train.monitor": value}
        checked(root, {"train.trainer": "own_metrics:Mine", **own})  # may be measured
        with pytest.raises(ConfigError, match=said):
            checked(root, {"train.trainer": "own_metrics:Told", **own})


def test_stage_train_alone_refuses_what_a_later_stage_would(root):
    """What `dvc repro` and `detectflow stage train` call."""
    shutil.copy(ROOT / "dvc.yaml", root)
    (root / "params.yaml").write_text(text(root).replace("  dynamic: true", "  imgsz: 100"))
    words = [sys.executable, "-m", "engine.stages", "train"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=root, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "params.yaml: export.imgsz = 100: imgsz must be a multiple of 32" in done.stderr


def test_a_file_with_an_error_of_its_own_is_named(root):
    (root / "params.yaml").write_text("train:\n  epocs: 3\n")
    with pytest.raises(ConfigError, match=r"params.yaml.*epocs"):
        checked(root, {})


FAMILY = """
from engine.models.yolov8.family import YOLOv8Family


class Shy(YOLOv8Family):
    def spec(self, model, config):
        return super().spec("yolov8n", config)

    def can_export(self, spec, format):
        return "it has a loop of its own." if format == "onnx" else None
"""


def test_weights_whose_network_has_no_such_format_are_refused_before_a_training(root):
    """By name and by file: the file is looked into where it is at hand."""
    from detectors import NAMES, SIZE, random_detector

    from engine.core.checkpoint import Checkpoint, save_checkpoint
    from engine.detect.model_io import model_meta
    from engine.models.registry import family_of

    (root / "shy_family.py").write_text(FAMILY)
    look_in(root)
    before, model = text(root), random_detector()
    meta = model_meta(
        family_of("shy_family:Shy"), model.spec.to_dict(), "shy", tuple(NAMES), SIZE, ""
    )
    (root / "models").mkdir(exist_ok=True)
    save_checkpoint(Checkpoint(meta, model.state_dict()), root / "models" / "shy.pt")
    said = "cannot be exported to onnx: it has a loop of its own. It can be written as: safetensors"
    for name in ("shy_family:Shy", "models/shy.pt"):
        with pytest.raises(ConfigError, match=said):
            apply(root, {"train.model": name})
    with pytest.raises(ConfigError, match="params.yaml: train: imgsz must be a multiple of 32"):
        apply(root, {"train.model": "models/shy.pt", "train.imgsz": 100})
    assert text(root) == before
