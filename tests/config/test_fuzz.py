"""Whatever words, settings and file headers hold, what comes out is an error of ours."""

import json
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.comparison.models import class_names, find_model
from engine.config import (
    DetectionTrainConfig,
    ExportConfig,
    Params,
    PredictConfig,
    ValidateConfig,
    parse_overrides,
)
from engine.detect.model_io import read_weights
from engine.errors import EngineError

FEW = settings(max_examples=60, deadline=None)
PIECES = st.sampled_from(
    "[ ] { } : , & * ! !! | > ' \" % @ ` ? - # \n 0 1 9 . e + nan inf 0x 0b 2026-13-45 !!int "
    "!!timestamp !!binary !!float !!set <<: *a &a ~ null true \x00 \ud800 é 😀".split(" ")
)
TEXTS = st.lists(PIECES, max_size=8).map("".join) | st.text(max_size=30)
KEYS = {
    DetectionTrainConfig: ("lr0", "imgsz", "name", "device", "freeze", "batch", "cache"),
    PredictConfig: ("source", "model", "conf", "classes"),
    ValidateConfig: ("split", "iou", "goal"),
    ExportConfig: ("formats", "opset"),
}


@FEW
@given(st.sampled_from(sorted(KEYS, key=str)), st.integers(0, 6), TEXTS)
@example(DetectionTrainConfig, 0, "!!int x")
@example(DetectionTrainConfig, 0, "!!timestamp x")
@example(DetectionTrainConfig, 0, "9" * 5000)
@example(DetectionTrainConfig, 1, "0x" + "f" * 9000)
@example(DetectionTrainConfig, 1, "[" * 100 + "]" * 100)
@example(DetectionTrainConfig, 1, "[" * 5000)
@example(DetectionTrainConfig, 2, "2026-13-45")
@example(DetectionTrainConfig, 0, "!!float")
@example(DetectionTrainConfig, 0, "!!bool x")
@example(DetectionTrainConfig, 0, "!!int")
@example(DetectionTrainConfig, 0, '["\\UFFFFFFFF"]')
def test_words(schema, number, text):
    key = KEYS[schema][number % len(KEYS[schema])]
    try:
        schema.build(parse_overrides([f"{key}={text}"], schema), "train")
    except EngineError as error:
        assert len(str(error)) < 3000


@FEW
@given(TEXTS)
@example("train: {lr0: !!timestamp x}")
@example("train: {seed: 0x" + "f" * 9000 + "}")
@example("train: {seed: " + "9" * 5000 + "}")
@example("train: {imgsz: " + "[" * 100 + "]" * 100 + "}")
@example("train: " + "[" * 5000)
@example("train: &a {x: *a}")
@example("!!float")
@example("? !!float\n: 1")
@example("!!seq .: 1")
@example('train: {name: "\\UFFFFFFFF"}')
@example("%YAML " + "9" * 5000 + ".1\n--- {}")
@example("!!map <<: 1")
@example("train: {lr0: !!float , seed: !!int , name: !!bool x, x: !!binary é}")
def test_files_of_settings(text):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        try:
            Params.load(file)
        except EngineError as error:
            assert str(file) in str(error)


DEEP = "[" * 100_000 + "]" * 100_000


def safetensors(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


@FEW
@given(st.sampled_from((".pt", ".safetensors", ".onnx", ".json")), st.binary(max_size=200))
@example(".safetensors", safetensors(json.dumps({"__metadata__": {"names": DEEP}}).encode()))
@example(".safetensors", safetensors(b'{"__metadata__":' + DEEP.encode() + b"}"))
@example(".safetensors", safetensors(b'{"__metadata__":{"names":3}}'))
@example(".safetensors", b"\xff" * 8)
@example(".json", DEEP.encode())
@example(".pt", b"PK\x03\x04" + b"x" * 100)
def test_heads_of_files(suffix, content):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"model{suffix}"
        file.write_bytes(content)
        assert class_names(find_model(str(file), Path(folder))) == ()
        with pytest.raises(EngineError):
            read_weights(file)
