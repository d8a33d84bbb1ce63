"""A format of one's own is one entry in the table: everything else finds it there."""

import io
import json
import zipfile

import pytest
import torch
from detectors import SIZE

from engine.cli import main
from engine.config import ExportConfig, Params, schema
from engine.detect import DetectionPredictor, DetectionValidator
from engine.errors import CheckpointError, ConfigError
from engine.export import FORMATS, export
from engine.export.parity_images import generated_image
from engine.lineage.from_files import file_statements
from engine.model_formats.base import Format, OpenFile
from engine.yolo import YOLO

# -- the format: a zip of PyTorch's exported program and the metadata ------------------------------


def write(job, path):
    program = torch.export.export(job.module, (torch.zeros(job.batch, 3, *job.size),))
    torch.export.save(program, content := io.BytesIO())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program.pt2", content.getvalue())
        archive.writestr("meta.json", json.dumps(dict(job.meta)))


def read_meta(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("meta.json"))


def load(path, device):
    try:
        meta = read_meta(path)
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None
    with zipfile.ZipFile(path) as archive:
        program = torch.export.load(io.BytesIO(archive.read("program.pt2")))
    batch, _, *size = program.example_inputs[0][0].shape
    return OpenFile(program.module(), meta, torch.device("cpu"), batch, tuple(size))


TOY = Format("toy", ".toy", "a program of PyTorch", write, read_meta, load=load)


@pytest.fixture(scope="module")
def file(random_weights, tmp_path_factory):
    """Exported, and compared with PyTorch, through the command."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMATS, "toy", TOY)
        words = [f"model={random_weights}", "format=toy", f"folder={folder}", "check_images=2"]
        assert main(["export", *words]) == 0
    return folder / "best.toy"


@pytest.fixture(autouse=True)
def entry(monkeypatch):
    monkeypatch.setitem(FORMATS, "toy", TOY)


def test_settings_take_it_and_the_schema_lists_it():
    wanted = Params.build({"export": {"formats": ["onnx", "toy"]}}).export.formats
    assert wanted == ("onnx", "toy")
    with pytest.raises(ConfigError, match="Did you mean 'toy'.*onnx, safetensors, toy"):
        ExportConfig.build({"formats": ["toi"]})
    listed = schema.json_schema("export")["properties"]["formats"]["items"]["enum"]
    assert listed == ["onnx", "safetensors", "toy"]


@pytest.mark.parametrize(
    "mode, text",
    [
        ("export", "toy: a program of PyTorch"),
        ("export", "list of onnx | safetensors | toy"),
        ("val", "a model file: .pt, .onnx, .safetensors, .toy"),
        ("trace", ".toy"),
    ],
)
def test_help_names_it(capsys, mode, text):
    assert main(["help", mode]) == 0
    assert text in capsys.readouterr().out


def test_it_predicts_and_validates_like_its_weights(file, random_weights, dataset):
    image = generated_image(1, SIZE)
    settings = {"device": "cpu", "save": False, "verbose": False}
    (ours,), (theirs,) = (
        DetectionPredictor({**settings, "model": str(model)})(image)
        for model in (random_weights, file)
    )
    assert len(ours) > 0 and ours.labels == theirs.labels
    assert ours.boxes == pytest.approx(theirs.boxes, abs=0.1)

    overrides = {"split": "val", "plots": False, "device": "cpu"}
    first, second = (
        DetectionValidator(overrides=overrides)(model=model, data=dataset)
        for model in (random_weights, file)
    )
    assert first == pytest.approx(second, abs=1e-3)
    assert YOLO(file).val(data=dataset, **overrides) == second


def test_trace_reads_it_and_errors_know_it(file, random_weights, tmp_path):
    statements = file_statements(file, "best.toy")
    assert statements[0].facts["format"] == "toy" and len(statements) == 2
    with pytest.raises(ConfigError, match="64x64 only"):
        DetectionPredictor({"model": str(file), "imgsz": 96, "save": False})(
            generated_image(0, SIZE)
        )
    damaged = tmp_path / "d.toy"
    damaged.write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"d\.toy: damaged"):
        YOLO(damaged).predict(generated_image(0, SIZE))
    with pytest.raises(CheckpointError, match=r"known are \.pt, \.onnx, \.safetensors, \.toy"):
        DetectionPredictor({"model": "best.tflite", "save": False})(generated_image(0, SIZE))
    with pytest.raises(CheckpointError, match=r"weights are \.pt or \.safetensors files"):
        export(file, "onnx", tmp_path)
