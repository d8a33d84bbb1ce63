"""A configuration is refused with the nearest key, its range and its meaning, or it is what was asked for."""

import pytest

from engine.config import DetectionTrainConfig, Params, parse_overrides
from engine.config.base import describe_groups
from engine.errors import ConfigError


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"imgsz": 100}, "for example 96 or 128"),
        ({"lr0": "fast"}, "valid number"),
        ({"name": "../evil"}, "plain folder name"),
        ({"batch": 0}, "at least 1"),
        ({"pretrained": True}, "backbone"),
    ],
)
def test_a_wrong_value_is_explained(values, said):
    with pytest.raises(ConfigError, match=said):
        DetectionTrainConfig.build(values)


def test_a_wrong_key_of_params_names_its_section():
    with pytest.raises(ConfigError, match=r"params.yaml: unknown key 'train.epochz'. Did you mean 'epochs'"):
        Params.build({"train": {"epochz": 3}}, "params.yaml")


def test_wrong_keys_of_sections_with_another_name_in_python_are_explained_too():
    with pytest.raises(ConfigError, match=r"unknown key 'validate.splitt'. Did you mean 'split'"):
        Params.build({"validate": {"splitt": "val"}}, "params.yaml")
    with pytest.raises(ConfigError, match=r"unknown key 'registr'. Did you mean 'register'"):
        Params.build({"registr": {}}, "params.yaml")


def test_help_tells_type_range_and_default():
    text = describe_groups(DetectionTrainConfig)
    assert "epochs=100" in text and "[integer >= 1]" in text and "[number 0..1]" in text and "[number > 0, < 1]" in text
    assert "optimizer=auto" in text and "[auto | SGD | Adam | AdamW]" in text and "lr0= " in text and "None" not in text


def test_given_values_are_remembered_and_survive_overrides():
    config = DetectionTrainConfig.build({"lr0": 0.5}).with_overrides({"epochs": 7})
    assert config.is_given("lr0") and config.is_given("epochs") and not config.is_given("seed")
    assert (config.lr0, config.epochs) == (0.5, 7)


def test_words_of_the_command_line_are_plain_values():
    assert parse_overrides(["lr0=1e-3", "imgsz=[64, 96]", "resume=true", "model=yolov8s", "name="]) == {
        "lr0": 0.001, "imgsz": [64, 96], "resume": True, "model": "yolov8s", "name": None,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="twice"):
        parse_overrides(["a=1", "a=2"])
    with pytest.raises(ConfigError, match="not key=value"):
        parse_overrides(["epochs"])


def test_nothing_is_evaluated():
    text = "__import__('os').system('echo unsafe')"
    assert parse_overrides([f"name={text}"]) == {"name": text}


def test_every_field_has_a_group_and_a_sentence():
    for name, field in DetectionTrainConfig.model_fields.items():
        assert field.description, name
        assert field.json_schema_extra["group"], name
    assert "augmentation:" in describe_groups(DetectionTrainConfig)


@pytest.mark.parametrize(("epochs", "close", "first_without"), [(100, 10, 90), (10, 0.1, 9), (3, 10, 0), (5, 0, 5)])
def test_close_mosaic_counts_epochs_or_a_share(epochs, close, first_without):
    config = DetectionTrainConfig.build({"epochs": epochs, "close_mosaic": close})
    assert config.mosaic_until_epoch == first_without
