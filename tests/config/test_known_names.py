"""Names and values that users of other trainers bring: what means the same is taken, all else is
refused by a sentence with our name; hints never point at another word that only looks alike.
"""

import random

import pytest

from engine.cli import MODES
from engine.config import DetectionTrainConfig, ExportConfig, PredictConfig, ValidateConfig
from engine.config.known_names import ANSWERS, SECTIONS
from engine.config.schema import SECTIONS as SCHEMAS
from engine.core.predictor import LoopConfig
from engine.errors import ConfigError, nearest_name
from engine.model_formats.table import FORMATS, OTHERS, find_format
from engine.settings.base import parse_overrides
from flows.overrides import _check_key

COMMAND_KEYS = {
    "validate": {"model", "data", "project", "name"},
    "export": {"model", "format", "data"},
}


@pytest.mark.parametrize(
    "given, ours",
    [
        ({"device": 0}, {"device": "cuda:0"}),
        ({"device": [0]}, {"device": "cuda:0"}),
        ({"device": None}, {"device": "auto"}),
        ({"device": [0, 1]}, {"device": "cuda", "nproc": 2}),
        ({"device": (1, 0, 2)}, {"device": "cuda", "nproc": 3}),
        ({"cache": True}, {"cache": "ram"}),
        ({"cache": False}, {"cache": "none"}),
        ({"cache": "RAM"}, {"cache": "ram"}),
        ({"cos_lr": True}, {"schedule": "cosine"}),
        ({"cos_lr": False}, {"schedule": "linear"}),
        ({"freeze": 10}, {"freeze": 10}),
        ({"freeze": [0, 1, 2]}, {"freeze": (0, 1, 2)}),
        ({"freeze": "backbone."}, {"freeze": ("backbone.",)}),
        ({"freeze": None}, {"freeze": ()}),
        ({"multi_scale": True}, {"multi_scale": 0.5}),
        ({"multi_scale": 0.25}, {"multi_scale": 0.25}),
        ({"batch": 0.7}, {"batch": -1, "batch_memory": 0.7}),
        ({"batch": 16}, {"batch": 16}),
        ({"optimizer": "adamw"}, {"optimizer": "AdamW"}),
        ({"optimizer": "rmsprop"}, {"optimizer": "RMSProp"}),
        ({"optimizer": "NADAM"}, {"optimizer": "NAdam"}),
        ({"schedule": "Cosine"}, {"schedule": "cosine"}),
        ({"resume": "runs/a/weights/last.pt"}, {"resume": True, "model": "runs/a/weights/last.pt"}),
        # what they are told to leave as it is, as in a copied args.yaml
        ({"val": True, "save": True, "rect": False, "half": False, "copy_paste": 0.0}, {}),
        ({"task": "detect", "split": "val", "time": None, "classes": None, "show": False}, {}),
    ],
)
def test_what_means_the_same_is_taken(given, ours):
    config = DetectionTrainConfig.build(given)
    assert config == DetectionTrainConfig.build(ours)
    assert DetectionTrainConfig.build(config.model_dump(mode="json")) == config  # args.yaml


@pytest.mark.parametrize(
    "word, ours",
    [
        ("device=0", {"device": "cuda:0"}),
        ("device=[0,1]", {"device": "cuda", "nproc": 2}),
        ("device=0,1", {"device": "cuda", "nproc": 2}),
        ("device=cuda:0", {"device": "cuda:0"}),
        ("cache=True", {"cache": "ram"}),
        ("cache=false", {"cache": "none"}),
        ("cos_lr=True", {"schedule": "cosine"}),
        ("freeze=10", {"freeze": 10}),
        ("multi_scale=true", {"multi_scale": 0.5}),
        ("batch=0.7", {"batch": -1, "batch_memory": 0.7}),
        ("optimizer=sgd", {"optimizer": "SGD"}),
        ("rect=False", {}),
    ],
)
def test_the_same_from_a_command_line(word, ours):
    given = parse_overrides([word], DetectionTrainConfig)
    assert DetectionTrainConfig.build(given) == DetectionTrainConfig.build(ours)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"time": 2}, "Here it is called time_limit_minutes .*time=2 is time_limit_minutes=120"),
        ({"val": False}, "Here it is called val_period .*the last epoch is always validated"),
        ({"rect": True}, r"There is none here .*imgsz=\[HEIGHT,WIDTH\]"),
        ({"copy_paste": 0.3}, "There is none here .*mosaic, mixup and cutmix"),
        ({"conf": 0.1}, "Here it is called val_conf"),
        ({"batch_size": 8}, r"Here it is called batch \(integer"),
        ({"lr": 0.1}, "Here it is called lr0"),
        ({"pose": 12}, "here are detectors only"),
        ({"int8": True}, "There is none here .*files are float32"),
        ({"optimizer": "MuSGD"}, "optimizer: Input should be 'auto', 'SGD'"),
        ({"device": "mps"}, r"Apple's GPU \(mps\) is not supported"),
        ({"device": [2, 3]}, "CUDA_VISIBLE_DEVICES=2,3 detectflow train device=cuda nproc=2"),
        ({"device": True}, "device: should be auto, cpu, cuda"),
        ({"device": -1}, "CUDA_VISIBLE_DEVICES=N chooses one"),
        ({"cos_lr": True, "schedule": "linear"}, "cos_lr=True means schedule=cosine here, and"),
        ({"cos_lr": "x"}, "Here it is called schedule"),
        ({"batch": 1.5}, "batch: Input should be a valid integer"),
    ],
)
def test_all_else_is_refused_with_our_name(given, said):
    with pytest.raises(ConfigError, match=said) as refused:
        DetectionTrainConfig.build(given, "train")
    assert "Did you mean" not in str(refused.value)


@pytest.mark.parametrize("schema", [ValidateConfig, PredictConfig, LoopConfig])
def test_a_gpu_has_a_number_everywhere(schema):
    assert schema.build({"device": 1}).device == "cuda:1"
    assert schema.build({"device": "0"}).device == "cuda:0"
    with pytest.raises(ConfigError, match="this runs on one device"):
        schema.build({"device": [0, 1]})


def test_other_sections_answer_too():
    for schema, given, said in (
        (ExportConfig, {"half": True}, "files are float32"),
        (PredictConfig, {"conf_thres": 0.3}, "Here it is called conf "),
        (ValidateConfig, {"imgsz": 640}, "the size that it was trained with"),
        (ValidateConfig, {"epochs": 3}, "`detectflow train` has it"),
    ):
        with pytest.raises(ConfigError, match=said):
            schema.build(given)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_row_of_the_tables_is_true(section):
    """What a row calls the same is a setting, what it calls otherwise is one of another name, and
    what is not here is none: a table cannot say something else than the schema.
    """
    taken = {*SCHEMAS[section].model_fields, *COMMAND_KEYS.get(section, ())}
    for row in SECTIONS[section].values():
        if row.here:
            assert row.here in taken, row.name
            assert row.name == row.here or row.name not in taken, row.name
        else:
            assert row.how and row.meaning, row.name
            assert row.name not in taken, row.name
        for ours in (row.values or {}).values():
            assert set(ours) <= taken, row.name
            SCHEMAS[section].build(ours)


def test_a_row_answers_for_names_of_other_modes_only_where_it_has_none_of_its_own():
    for section, table in ANSWERS.items():
        assert {name: table[name] for name in SECTIONS[section]} == SECTIONS[section]
        assert set(table) == {name for rows in SECTIONS.values() for name in rows}


def test_formats_are_known_by_their_names():
    assert find_format("ONNX").name == "onnx"
    for name, said in (("engine", "trtexec --onnx"), ("openvino", "ovc"), ("TFLite", "ONNX file")):
        with pytest.raises(ConfigError, match=f"no export format '{name}': write onnx. .*{said}"):
            find_format(name)
    assert not set(OTHERS) & set(FORMATS)


@pytest.mark.parametrize(
    "key, said",
    [
        ("train.cos_lr", "Here it is called schedule .*true is schedule=cosine"),
        ("train.time", "Here it is called time_limit_minutes"),
        ("validate.imgsz", "There is none here"),
        ("train.epocs", "Did you mean 'epochs'"),
    ],
)
def test_overrides_of_params_yaml_have_our_names_alone(key, said):
    with pytest.raises(ConfigError, match=f"params.yaml: unknown key '{key}'. ?{said}"):
        _check_key(key)


# --- hints ----------------------------------------------------------------------------------------


def mistyped(word, rng):
    """One letter left out, put in, replaced, or swapped with the next."""
    at = rng.randrange(len(word))
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
    return rng.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + letter + word[at:],
            word[:at] + letter + word[at + 1 :],
            word[:at] + word[at : at + 2][::-1] + word[at + 2 :],
        ]
    )


def test_typing_mistakes_are_understood():
    rng, found, asked = random.Random(0), 0, 0
    for names in (*(list(schema.model_fields) for schema in SCHEMAS.values()), list(MODES)):
        for word in (name for name in names for _ in range(6)):
            wrong = mistyped(word, rng)
            if wrong and wrong not in names:
                asked, found = asked + 1, found + (nearest_name(wrong, names) == word)
    assert asked > 900 and found > 0.95 * asked, (found, asked)


@pytest.mark.parametrize(
    "word, known",
    [
        ("rect", ["project", "direct"]),
        ("detect", ["prefect"]),
        ("split", ["plots"]),
        ("keras", ["workers"]),
        ("pose", ["plots", "opset"]),
        ("save_conf", ["val_conf"]),
        ("classify", ["classes"]),
        ("workspace", ["workers", "worker"]),
        ("x", ["y"]),
        ("", ["name"]),
    ],
)
def test_a_word_that_only_looks_alike_is_no_hint(word, known):
    assert nearest_name(word, known) == ""


def test_near_names_by_hand():
    for word, known, meant in (
        ("epoch", ["epochs", "patience"], "epochs"),
        ("batch-size", ["batch_size"], "batch_size"),
        ("EPOCHS", ["epochs"], "epochs"),
        ("limit", ["time_limit_minutes"], "time_limit_minutes"),  # one of its parts
        ("torchvison", ["torchvision:retinanet"], "torchvision:retinanet"),
        ("trian", ["train", "trainer"], "train"),
        ("lr", ["lrf0", "lr0"], "lr0"),
        ("box", ["names", "boxes"], "boxes"),
        ("on_predict_postprocess_end", ["on_predict_start", "on_predict_end"], "on_predict_end"),
    ):
        assert nearest_name(word, known) == meant
