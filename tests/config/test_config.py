"""A configuration is refused with the nearest key, its type, range and meaning, or it is what was
asked for.
"""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from engine.config import (
    DetectionTrainConfig,
    ExportConfig,
    Params,
    PredictConfig,
    ValidateConfig,
    parse_overrides,
    parse_value,
)
from engine.config.schema import SECTIONS, describe_groups, json_schema, settings_of
from engine.errors import ConfigError
from engine.settings.yaml_io import key_lines, lines_of_file, nearest_line

EPOCHS = "(integer >= 1, epochs: passes over the training images (epochs))"
RATE = "(number > 0: peak learning rate; empty: chosen with the optimizer)"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epoch": 3}, f"unknown key 'epoch'. Did you mean 'epochs'? {EPOCHS}"),
        ({"epochs": 0}, f"epochs: Input should be greater than or equal to 1, got 0 {EPOCHS}"),
        ({"epochs": "3"}, f"epochs: Input should be a valid integer, got '3' {EPOCHS}"),
        ({"epochs": True}, f"epochs: Input should be a valid integer, got True {EPOCHS}"),
        ({"epochs": 3.0}, f"epochs: Input should be a valid integer, got 3.0 {EPOCHS}"),
        ({"lr0": "fast"}, f"lr0: Input should be a valid number, got 'fast' {RATE}"),
        ({"lr0": float("inf")}, f"lr0: Input should be a finite number, got inf {RATE}"),
        ({"lr0": float("nan")}, f"lr0: Input should be a finite number, got nan {RATE}"),
        (
            {"imgsz": [64, 0]},
            "imgsz: must be a number of pixels above 0, got (64, 0) (integer or ",
        ),
        (
            {"imgsz": "big"},
            "imgsz: Input should be of one of these types, got 'big' (integer or [integer, "
            "integer], pixels: ",
        ),
        (
            {"optimizer": "sgdd"},
            "optimizer: Input should be 'auto', 'SGD', 'Adam', 'AdamW', 'Adamax', 'NAdam', 'RAdam' "
            "or 'RMSProp', got 'sgdd' (auto | SGD | Adam | AdamW",
        ),
        (
            {"ema": 1},
            "ema: Input should be a valid boolean, got 1 (true | false: validate and save",
        ),
        (
            {"freeze": [1.5]},
            "freeze: Input should be of one of these types, got 1.5 (integer >= 0 or list of "
            "integer >= 0 or text: parameters whose name",
        ),
        (
            {"class_weights": {"a": "x"}},
            "class_weights: Input should be a valid number, got 'x' (mapping to number >= 0, "
            "factor: ",
        ),
        (
            {"name": "../evil"},
            "name: must be a plain folder name, without / or \\, got '../evil' (text: name of the "
            "run",
        ),
        ({"name": "x" * 201}, "name: must be shorter: at most 200 bytes, this has 201"),
        ({"seed": 2**63}, "seed: Input should be less than 9223372036854775808"),
        ({"momentum": 1.0}, "momentum: Input should be less than 1, got 1.0"),
        (
            {"class_weights": {"a": -1}},
            "class_weights: Input should be greater than or equal to 0, got -1",
        ),
        (
            "epochs=3",
            "configuration: settings are given by name, {'name': value}; got str 'epochs=3'",
        ),
        (
            {"batch": 0},
            "batch: must be at least 1, or -1 to find one that fits the GPU, got 0 (integer >= "
            "-1, images: ",
        ),
        (
            {"pretrained": True},
            "loads ImageNet weights of the setting backbone, and none is set: set backbone too",
        ),
    ],
)
def test_a_wrong_value_is_explained(values, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        DetectionTrainConfig.build(values)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ({"tracking": {"code_diff": True}}, "Write `code: diff` where it was true"),
        ({"tracking": {"tracker": "wand"}}, "no such tracker. There are: mlflow, none, got 'wand'"),
        ({"train": {"pretrained": True}}, "or give a checkpoint as model"),
        ({"tracking": 3}, "instance of TrackingConfig, got 3"),
    ],
)
def test_a_message_about_a_section_does_not_print_all_of_it(values, ends):
    with pytest.raises(ConfigError) as error:
        Params.build(values, "params.yaml")
    said = str(error.value).partition(" (text:")[0]
    assert said.endswith(ends) and "{" not in said


def test_a_file_means_numbers_as_people_write_them(tmp_path):
    (tmp_path / "args.yaml").write_text("lr0: 1e-3\nweight_decay: 5E-4\nname: 2026\n")
    config = DetectionTrainConfig.load(tmp_path / "args.yaml")
    assert (config.lr0, config.weight_decay, config.name) == (0.001, 0.0005, "2026")


def test_paths_are_taken_as_text():
    config = DetectionTrainConfig.build(
        {"model": Path("a.pt"), "data": Path("d"), "project": Path("p")}
    )
    assert (config.model, config.data, config.project) == ("a.pt", "d", "p")


def test_all_mistakes_are_reported_at_once_each_in_a_line():
    with pytest.raises(ConfigError) as error:
        Params.build(
            {
                "train": {"epochz": 3, "lr0": -1, "imgsz": "big"},
                "export": {"formats": ["onnx", "tflite"]},
            },
            "params.yaml",
        )
    lines = str(error.value).splitlines()
    assert len(lines) == 4 and lines[0].startswith("params.yaml: ")
    assert all(
        any(f"{key}" in line for line in lines)
        for key in ("train.epochz", "train.lr0", "train.imgsz", "export.formats")
    )


@pytest.mark.parametrize("schema", [each for each in SECTIONS.values()])
@given(word=st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12))
def test_no_unknown_key_is_accepted(schema, word):
    if word not in schema.model_fields:
        with pytest.raises(ConfigError, match=f"unknown key '{word}'"):
            schema.build({word: 1})


def test_lists_of_yaml_are_taken_where_several_values_are_meant():
    config = DetectionTrainConfig.build({"imgsz": [64, 96], "freeze": ["backbone."], "lr0": 1})
    assert config.imgsz == (64, 96) and config.freeze == ("backbone.",) and config.lr0 == 1
    assert ExportConfig.build({"formats": ["onnx"]}).formats == ("onnx",)
    assert PredictConfig.build({"source": ["a.png", "b.png"], "classes": [0, "cat"]}).source == [
        "a.png",
        "b.png",
    ]


@pytest.mark.parametrize("schema", SECTIONS.values())
def test_what_is_written_is_read_again(schema):
    """As args.yaml is: through JSON-like values and YAML."""
    config = schema()
    assert schema.build(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_a_wrong_key_of_params_names_its_section():
    with pytest.raises(
        ConfigError, match=r"params.yaml: unknown key 'train.epochz'. Did you mean 'epochs'"
    ):
        Params.build({"train": {"epochz": 3}}, "params.yaml")


def test_wrong_keys_of_sections_with_another_name_in_python_are_explained_too():
    with pytest.raises(ConfigError, match=r"unknown key 'validate.splitt'. Did you mean 'split'"):
        Params.build({"validate": {"splitt": "val"}}, "params.yaml")
    with pytest.raises(ConfigError, match=r"unknown key 'registr'. Did you mean 'register'"):
        Params.build({"registr": {}}, "params.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "seed:\noldsection:\n  x: 1\n",
            "line 2: unknown key 'oldsection'. Remove it, or take one of: data, train, validate, "
            "export, register, tracking, flows.",
        ),
        (
            "train:\n  qqqq: 1\n",
            "line 2: unknown key 'train.qqqq'. Remove it, or take one that `detectflow help "
            "train` lists.",
        ),
        (
            "register:\n  qqqq: 1\n",
            "unknown key 'register.qqqq'. Remove it, or take one of: model, metric, gate, format, "
            "experiment.",
        ),
        ("registr:\n", "unknown key 'registr'. Did you mean 'register'?"),
    ],
)
def test_an_unknown_key_says_what_to_do_whether_one_is_near_or_not(tmp_path, text, said):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        Params.load(tmp_path / "params.yaml")
    assert [line for line in str(error.value).splitlines() if line.endswith(said)]


def test_help_shows_type_range_and_default():
    text = describe_groups(DetectionTrainConfig)
    assert (
        "epochs=100" in text
        and "[integer >= 1, epochs]" in text
        and "[number 0..1]" in text
        and "[number > 0, < 1]" in text
    )
    assert (
        "optimizer=auto" in text
        and "[auto | SGD | Adam | AdamW | Adamax | NAdam | RAdam | RMSProp]" in text
        and "lr0= " in text
        and "None" not in text
    )


def test_given_values_are_remembered_and_survive_overrides():
    config = DetectionTrainConfig.build({"lr0": 0.5}).with_overrides({"epochs": 7})
    assert config.is_given("lr0") and config.is_given("epochs") and not config.is_given("seed")
    assert (config.lr0, config.epochs) == (0.5, 7)


def test_words_of_the_command_line_are_plain_values():
    assert parse_overrides(
        ["lr0=1e-3", "imgsz=[64, 96]", "resume=true", "model=yolov8s", "name="]
    ) == {
        "lr0": 0.001,
        "imgsz": [64, 96],
        "resume": True,
        "model": "yolov8s",
        "name": None,
    }
    with pytest.raises(ConfigError, match="twice"):
        parse_overrides(["a=1", "a=2"])
    with pytest.raises(ConfigError, match="not key=value"):
        parse_overrides(["epochs"])


TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(
    lambda text: text[0] not in "'\"" and text.strip() not in {"", "null", "Null", "NULL", "~"}
)


@given(TEXTS)
@example(" ")
@example(" null ")
@example('x: "\\UFFFFFFFF"')
@example("photos #2")
@example("007")
@example("1.10")
@example("yes")
@example("2026-13-45")
@example("a: b")
@example("[x]")
@example("{}")
@example("!!int x")
@example("9" * 5000)
@example("[" * 200)
def test_where_the_setting_is_text_the_word_stays_as_it_is(text):
    for key, schemas in (
        ("model", (PredictConfig,)),
        ("train.model", (Params,)),
        ("data.source", (Params,)),
        ("register.experiment", (Params,)),
    ):
        assert parse_overrides([f"{key}={text}"], *schemas) == {key: text}
    assert parse_overrides([f"out={text}"], ValidateConfig, texts={"out"}) == {"out": text}
    value = parse_overrides([f"source={text}"], PredictConfig)["source"]
    assert not isinstance(value, str) or value == text


def test_quotes_around_all_of_a_word_are_the_users_and_null_is_nothing_where_it_may_be():
    assert parse_value("'007'", str) == parse_value('"007"') == "007"
    assert parse_value("null", str | None) is None and parse_value("null", str) == "null"
    assert parse_value("", str | None) is None and parse_value("", str) == ""
    assert parse_value("0", Any) == 0 and parse_value("7", int | str) == 7
    assert parse_value("x # y") == "x # y", "nor where nobody knows the type"


def test_a_file_of_that_name_comes_before_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_overrides(["source=0"], PredictConfig) == {"source": 0}
    for name in ("0", "2026.10", "true", "[a]", "null"):
        (tmp_path / name).mkdir()
        assert parse_overrides([f"source={name}"], PredictConfig) == {"source": name}
    assert parse_overrides(["epochs=0"], DetectionTrainConfig) == {"epochs": 0}, "no path at all"


def test_nothing_is_evaluated():
    text = "__import__('os').system('echo unsafe')"
    assert parse_overrides([f"name={text}"]) == {"name": text}


def test_every_field_has_a_group_and_a_sentence():
    for name, field in DetectionTrainConfig.model_fields.items():
        assert field.description, name
        assert field.json_schema_extra["group"], name
    assert "augmentation:" in describe_groups(DetectionTrainConfig)


@pytest.mark.parametrize(
    ("epochs", "close", "first_without"), [(100, 10, 90), (10, 0.1, 9), (3, 10, 0), (5, 0, 5)]
)
def test_close_mosaic_counts_epochs_or_a_fraction(epochs, close, first_without):
    config = DetectionTrainConfig.build({"epochs": epochs, "close_mosaic": close})
    assert config.mosaic_until_epoch == first_without


# --- units and the JSON schema --------------------------------------------------------------------

PLAIN = set(
    "seed momentum weight_decay warmup_momentum warmup_bias_lr lr0 clip_norm ema_decay opset "
    "classes freeze".split()
)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_number_has_a_unit_that_its_sentence_names(section):
    properties = json_schema(section)["properties"]
    for setting in settings_of(SECTIONS[section]):
        unit = properties[setting.key].get("unit", "")
        assert unit or setting.key in PLAIN or not re.search("integer|number", setting.kind), (
            setting
        )
        assert unit.rstrip("s") in setting.meaning, setting
        assert not unit or setting.kind.endswith(f", {unit}"), setting


def test_the_json_schema_accepts_what_we_accept_and_refuses_what_we_refuse():
    schema = json_schema("train")
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    assert check.is_valid(DetectionTrainConfig().model_dump(mode="json"))
    assert check.is_valid(
        {"imgsz": [64, 96], "lr0": 0.1, "class_weights": {"a": 2}, "freeze": ["head."]}
    )
    for wrong in (
        {"epoch": 3},
        {"epochs": 0},
        {"epochs": "3"},
        {"lr0": 0},
        {"optimizer": "sgdd"},
        {"imgsz": "big"},
        {"freeze": [-1]},
    ):
        assert not check.is_valid(wrong), wrong
        with pytest.raises(ConfigError):
            DetectionTrainConfig.build(wrong)
    epochs = schema["properties"]["epochs"]
    assert (epochs["group"], epochs["unit"], epochs["minimum"], epochs["default"]) == (
        "schedule",
        "epochs",
        1,
        100,
    )
    assert epochs["description"] and all(
        each["description"] and each["group"] for each in schema["properties"].values()
    )


def test_the_json_schema_of_the_whole_file_knows_its_sections():
    schema = json_schema()
    check = jsonschema.Draft202012Validator(schema)
    assert set(schema["properties"]) == {
        "data",
        "train",
        "validate",
        "export",
        "register",
        "tracking",
        "flows",
    }
    assert check.is_valid(Params().model_dump(mode="json", by_alias=True))
    assert not check.is_valid({"train": {"epochz": 3}}) and not check.is_valid({"trian": {}})
    with pytest.raises(ConfigError, match="no section 'trian'. Did you mean 'train'"):
        json_schema("trian")


@pytest.mark.parametrize(
    "values",
    [
        {"flows": {"prepare": {"workers": 65}}},
        {"validate": {"workers": 65}},
        {"train": {"workers": 65}},
    ],
)
def test_processes_that_a_slip_of_the_hand_asks_for_are_not_started(values):
    with pytest.raises(ConfigError, match="workers: Input should be less than or equal to 64"):
        Params.build(values)


def test_the_line_of_every_mistake_in_a_file_is_reported(tmp_path):
    file = tmp_path / "params.yaml"
    train = "train:\n  lr0: -1\n  class_weights:\n    a: x\n\n  epochz: 3\n"
    file.write_text(f"# a comment\n{train}export:\n  formats:\n    - onnx\n    - tflite\n")
    with pytest.raises(ConfigError) as error:
        Params.load(file)
    said = str(error.value)
    assert said.startswith(f"{file}: line ")
    lines = {
        key: re.search(rf"line (\d+): (unknown key ')?{re.escape(key)}", said)[1]
        for key in ("train.lr0", "train.class_weights", "train.epochz", "export.formats")
    }
    assert lines == {
        "train.lr0": "3",
        "train.class_weights": "5",
        "train.epochz": "7",
        "export.formats": "11",
    }


def test_lines_of_keys_with_anchors_quotes_and_one_that_holds_itself():
    text = "a: &a\n  x: 1\n'b c':\n  <<: *a\n  y: [1,\n    2]\nc: &c\n  me: *c\n"
    lines = key_lines(text)
    assert (lines["a.x"], lines["b c"], lines["b c.y"], lines["b c.y.1"], lines["c.me"]) == (
        2,
        3,
        5,
        6,
        8,
    )
    assert nearest_line(lines, "c.me.me") == 8 and nearest_line(lines, "nothing.there") is None
    assert (
        key_lines("a: [") == {}
        and key_lines("") == {}
        and lines_of_file(Path("nowhere.yaml")) == {}
    )


def test_a_section_is_replaced_under_the_name_that_params_yaml_has():
    params = Params.build({"validate": {"split": "val"}, "train": {"epochs": 3}}, "here")
    changed = params.with_overrides({"train": {"epochs": 5}})
    assert changed.train.epochs == 5 and changed.validate_.split == "val"
