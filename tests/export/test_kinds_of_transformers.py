"""The ONNX file of each kind of detector that `transformers` builds finds what PyTorch finds; kinds
that were not compared are refused before a training.
"""

import sys
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from test_hf_priors import NOT_BUILT, OWN, SIDE, SOFTMAX

from engine.config import ExportConfig
from engine.detect.choose import Network, check_export
from engine.detect.import_weights import import_published
from engine.errors import ConfigError
from engine.export import export
from engine.models.hf.family import COMPARED, HfFamily

# A fresh RT-DETR is dead: all its cells have the same score, and which of them become queries is chance.
LIVELINESS = {"rt_detr": 0.2, "rt_detr_v2": 0.2}


def test_what_is_compared_is_what_is_taken():
    assert {*OWN, *SOFTMAX} == COMPARED
    assert COMPARED | NOT_BUILT == set(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)


@pytest.mark.system  # not of processes: eleven exports take a minute
@pytest.mark.parametrize("kind", sorted(COMPARED))
def test_the_file_finds_what_pytorch_finds(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))
    config = {**OWN, **SOFTMAX}[kind]()
    config.id2label, config.label2id = {0: "red", 1: "blue"}, {"red": 0, "blue": 1}
    torch.manual_seed(1)
    network = transformers.AutoModelForObjectDetection.from_config(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * LIVELINESS.get(kind, 0.05))
    network.save_pretrained(tmp_path / "net")
    made = import_published(f"hf:{tmp_path / 'net'}", tmp_path / "weights.pt", imgsz=SIDE)
    report = export(made.path, "onnx", tmp_path / "out")
    assert report.check["detections"] > 10 and report.check["flips"] == 0
    assert report.check["max_detection_px"] < 0.01 and report.check["max_score"] < 1e-4


def test_others_are_refused_before_data_unless_onnx_is_left_out():
    network = Network(HfFamily(), {"name": "hf:a/b", "config": {"model_type": "deimv2"}})
    with pytest.raises(ConfigError, match=r"cannot be exported to onnx: nobody has compared.*deim"):
        check_export(ExportConfig(formats=["onnx"]), network, "hf:a/b")
    check_export(ExportConfig(formats=["safetensors"]), network, "hf:a/b")
