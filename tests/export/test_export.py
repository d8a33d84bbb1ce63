"""A file gets its name only after it has said the same as PyTorch; equal weights give equal bytes;
failures leave nothing. The comparison itself: test_parity.py; a format of one's own:
test_toy_format.py.
"""

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectors import DIGEST, NAMES, SIZE, random_detector, save_detector

from engine.config import ExportConfig, PredictConfig
from engine.data.manifest import class_hash
from engine.detect.runtime import Runtime, load_runtime
from engine.errors import CheckpointError, ConfigError, DataError, ExportError, WorkspaceError
from engine.export import FORMATS, Exporter, export
from engine.export.metadata import file_meta
from engine.export.parity_images import batches, generated_image, image_files
from engine.files import sha256_file
from engine.model_formats.base import Format, OpenFile
from engine.models.family import CandidateModule
from engine.models.nms import nms
from engine.models.yolov8.family import YOLOv8Family

CHECK_KEYS = [
    "origin",
    "images",
    "max_box_px",
    "max_score",
    "detections",
    "max_detection_px",
    "flips",
]
FEW = ExportConfig(check_images=4)


@pytest.fixture(scope="module")
def weights(random_weights) -> Path:
    return random_weights


@pytest.fixture(scope="module")
def reference(weights) -> Runtime:
    return load_runtime(weights, "cpu")


@pytest.fixture
def pickled(monkeypatch):
    """A format of a moment: the very module that a format is given, which may be a wrong one."""

    def write(job, path):
        torch.save({"module": job.module, "meta": dict(job.meta)}, path)

    def load(path, device):
        content = torch.load(path, weights_only=False)
        return OpenFile(content["module"], content["meta"], torch.device("cpu"))

    entry = Format("pickled", ".pickled", "for tests", write, read_meta=dict, load=load)
    monkeypatch.setitem(FORMATS, "pickled", entry)
    return "pickled"


def images_of(count, size=SIZE):
    return torch.cat(list(batches(None, count, size)))


def found(runtime, images, conf=0.25):
    return nms(*runtime(images), conf, 0.7)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_boxes_when_loaded_again(exported, reference, name):
    report = exported[name]
    assert report.path.name == f"best{FORMATS[name].suffix}" and report.sha256 == sha256_file(
        report.path
    )
    runtime = load_runtime(report.path, "cpu")
    for count in (1, 2, 5):  # the batch size is free
        images = images_of(count)
        ours, theirs = found(reference, images), found(runtime, images)
        assert sum(len(scores) for _, scores, _ in ours) > 0
        for (boxes, scores, classes), (boxes2, scores2, classes2) in zip(ours, theirs, strict=True):
            assert classes.tolist() == classes2.tolist()
            torch.testing.assert_close(boxes2, boxes, atol=0.02, rtol=0)
            torch.testing.assert_close(scores2, scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FORMATS)
def test_the_report_says_how_close_it_is(exported, name):
    check = exported[name].check
    assert list(check) == CHECK_KEYS and json.loads(json.dumps(check)) == check
    assert (
        check["images"] == 4 and check["detections"] > 0 and check["origin"] == "generated images"
    )
    assert (
        check["max_box_px"] < 0.02
        and check["max_score"] < 1e-4
        and check["max_detection_px"] <= 2 * check["max_box_px"]
    )
    if name == "safetensors":  # not fused, the same arithmetic
        assert check["max_box_px"] == check["max_score"] == check["flips"] == 0


@pytest.mark.parametrize("name", FORMATS)
def test_the_file_says_what_it_is(exported, weights, name):
    runtime = load_runtime(exported[name].path, "cpu")
    assert (runtime.names, runtime.imgsz, runtime.stride, runtime.fixed_batch) == (
        NAMES,
        SIZE,
        32,
        None,
    )
    meta = runtime.meta
    assert meta["weights_sha256"] == sha256_file(weights) and meta["data_digest"] == DIGEST
    assert (
        meta["class_hash"] == class_hash(NAMES)
        and meta["model"] == "yolov8n"
        and meta["architecture"]["width"] == 0.25
    )
    if name == "onnx":
        assert meta["opset"] >= 17
        assert meta["needs_nms"] is True and meta["family"] == "yolov8"
        assert meta["thresholds"] == PredictConfig().thresholds()
    assert str(weights.parent).encode() not in exported[name].path.read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in exported[name].path.read_bytes()


def test_a_file_says_how_its_weights_were_trained_without_the_machines_paths():
    config = {"epochs": 7, "model": "/home/me/models/start.pt", "pretrained": False, "freeze": []}
    meta = file_meta({"config": config}, NAMES, SIZE, 32, None, "12345")
    assert json.loads(meta["training"]) == {
        "epochs": 7,
        "freeze": [],
        "model": "start.pt",
        "pretrained": False,
    }
    assert json.loads(file_meta({}, NAMES, SIZE, 32, None, "12345")["training"]) == {}


@pytest.mark.parametrize("name", FORMATS)
def test_equal_weights_give_equal_bytes_and_no_word_is_said(
    exported, weights, tmp_path, capfd, caplog, recwarn, name
):
    with caplog.at_level(logging.WARNING):
        again = export(weights, name, tmp_path / "other", FEW)
    assert (
        again.path.read_bytes() == exported[name].path.read_bytes()
        and again.check == exported[name].check
    )
    assert capfd.readouterr() == ("", "") and not caplog.records
    assert [str(w.message) for w in recwarn if w.category is not DeprecationWarning] == []
    assert [p.name for p in (tmp_path / "other").iterdir()] == [again.path.name]


def test_published_weights_are_whole_and_can_be_exported(exported, weights, pickled, tmp_path):
    original = torch.load(weights, weights_only=True)["model"]
    from engine.detect.model_io import load_model

    published = load_model(exported["safetensors"].path).state
    assert published.keys() == original.keys() and all(
        torch.equal(published[k], original[k]) for k in original
    )
    second = Exporter(FEW)(exported["safetensors"].path, pickled, tmp_path)
    assert second.check["max_box_px"] < 0.02


def test_a_fixed_batch_and_an_input_that_is_not_square(weights, reference, tmp_path):
    settings = ExportConfig(dynamic=False, batch=2, imgsz=(64, 96), check_images=3, opset=18)
    report = export(weights, "onnx", tmp_path, settings)
    runtime = load_runtime(report.path, "cpu")
    assert (runtime.fixed_batch, runtime.fixed_size, runtime.imgsz, runtime.meta["opset"]) == (
        2,
        (64, 96),
        (64, 96),
        18,
    )
    for count in (1, 2, 5):
        images = images_of(count, (64, 96))
        for found_there, expected in zip(runtime(images), reference(images), strict=True):
            torch.testing.assert_close(found_there, expected, atol=0.02, rtol=0)
    with pytest.raises(ConfigError, match="64x64 does not fit: this exported file takes 64x96"):
        runtime.input_size(64)


# -- what must fail --------------------------------------------------------------------------------


def half_a_percent_more(job, path):
    """A writer that is wrong: one layer's weights are scaled."""
    state = dict(job.raw_state)
    state["head.cls.0.2.weight"] = state["head.cls.0.2.weight"] * 1.005
    FORMATS["safetensors"].write(dataclasses.replace(job, raw_state=state), path)


def other_names(job, path):
    meta = {**job.meta, "names": '["disc", "square"]', "class_hash": class_hash(("disc", "square"))}
    FORMATS["safetensors"].write(dataclasses.replace(job, meta=meta), path)


@pytest.mark.parametrize(
    "writer, message",
    [
        (
            half_a_percent_more,
            r"differs from PyTorch: boxes by \S+ px \(at most 0.1\), scores by 0\.00\d+ \(at "
            r"most 0.001\)",
        ),
        (other_names, r"says names \('disc', 'square'\), the weights say \('square', 'disc'\)"),
    ],
)
def test_an_altered_file_is_caught_and_not_kept(weights, tmp_path, monkeypatch, writer, message):
    (tmp_path / "best.safetensors").write_text("the export before")
    altered = dataclasses.replace(FORMATS["safetensors"], name="altered", write=writer)
    monkeypatch.setitem(FORMATS, "altered", altered)
    with pytest.raises(ExportError, match=message):
        export(weights, "altered", tmp_path, FEW)
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]
    assert (tmp_path / "best.safetensors").read_text() == "the export before"


def test_batch_norms_folded_with_a_wrong_epsilon_are_caught(
    weights, pickled, tmp_path, monkeypatch
):
    from engine.models.yolov8 import fuse

    def wrong(family, model, size):
        copy = random_detector()
        copy.load_state_dict(model.state_dict())
        for module in copy.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 1e-5
        return CandidateModule(family, fuse(copy)).eval()

    monkeypatch.setattr(YOLOv8Family, "export_module", wrong)
    with pytest.raises(ExportError, match="differs from PyTorch"):
        export(weights, pickled, tmp_path, FEW)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(weights, tmp_path, monkeypatch):
    def interrupted(job, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    broken = dataclasses.replace(FORMATS["onnx"], write=interrupted)
    monkeypatch.setitem(FORMATS, "onnx", broken)
    with pytest.raises(KeyboardInterrupt):
        export(weights, "onnx", tmp_path / "new", FEW)
    assert not list((tmp_path / "new").iterdir())


def test_a_model_that_cannot_be_expressed_names_the_format(weights, tmp_path, monkeypatch):
    class Branching(torch.nn.Module):
        def forward(self, images):
            raise RuntimeError("cannot be followed\nlong story")

    monkeypatch.setattr(YOLOv8Family, "export_module", lambda *given: Branching())
    with pytest.raises(ExportError, match=r"^onnx: .*RuntimeError: cannot be followed\."):
        export(weights, "onnx", tmp_path, FEW)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_explained(weights, tmp_path):
    def refused(error, match, file=weights, format="onnx", folder=tmp_path / "out", **settings):
        with pytest.raises(error, match=match):
            export(file, format, folder, ExportConfig(**settings))

    foreign, text = tmp_path / "foreign.pt", tmp_path / "file"
    torch.save({"model": {"a": torch.zeros(1)}}, foreign)
    text.write_text("not a folder")
    refused(ConfigError, "no export format 'onx'. Did you mean 'onnx'.*safetensors", format="onx")
    refused(
        ConfigError, "torchscript is no longer an export format: use onnx", format="torchscript"
    )
    refused(CheckpointError, "no.pt: no such", file=tmp_path / "no.pt")
    refused(CheckpointError, "not a DetectFlow checkpoint", file=foreign)
    refused(CheckpointError, "best.onnx: weights are", file=tmp_path / "best.onnx")
    refused(
        WorkspaceError, "file: cannot be written.*choose another", format="safetensors", folder=text
    )
    refused(ConfigError, r"multiple of 32.*got 100, try 96 or 128", imgsz=100)
    with pytest.raises(DataError):
        export(weights, "safetensors", tmp_path / "out", FEW, data=tmp_path / "nothing")
    assert not list((tmp_path / "out").iterdir())


def test_the_source_is_never_overwritten(exported):
    path = exported["safetensors"].path
    with pytest.raises(ExportError, match="in this format already"):
        export(path, "safetensors", path.parent)


# -- images, events, stage -----------------------------------------------------------------------


def test_the_check_runs_on_images_of_the_dataset(weights, dataset, tmp_path):
    check = export(
        weights, "safetensors", tmp_path, ExportConfig(check_images=100), data=dataset
    ).check
    assert (
        check["origin"] == "images of the dataset" and check["images"] == 5
    )  # all there are for validation
    files = image_files(dataset, 3)
    assert len(set(files)) == 3 and all("val" in file.name for file in files)


def test_batches_begin_with_one_image_then_several():
    assert [len(images) for images in batches(None, 12, (32, 64))] == [1, 7, 4]
    assert [len(images) for images in batches(None, 1, (32, 64))] == [1]
    first, again = (torch.cat(list(batches(None, 9, (32, 64)))) for _ in range(2))
    assert (
        first.shape == (9, 3, 32, 64)
        and torch.equal(first, again)
        and 0 <= first.min()
        and first.max() <= 1
    )
    assert not np.array_equal(generated_image(0, (32, 64)), generated_image(1, (32, 64)))


def test_events_and_what_is_there_when_they_fire(weights, tmp_path):
    seen = []
    task = Exporter(FEW)
    task.add_callback(
        "on_export_start",
        lambda e: seen.append(("start", e.job.size, e.report, list(tmp_path.iterdir()))),
    )
    task.add_callback("on_export_end", lambda e: seen.append(("end", e.report.path.is_file())))
    report = task(weights, "safetensors", tmp_path)
    assert seen == [("start", SIZE, None, []), ("end", True)] and report is task.report
    with pytest.raises(ConfigError, match="Did you mean 'on_export_end'"):
        task.add_callback("on_export_ende", print)


def test_the_stage_writes_the_folder_and_the_report_whole(dataset, pickled, tmp_path):
    from engine.config import DataConfig, Params
    from engine.datasets.description import load_description
    from engine.datasets.prepare import prepare
    from engine.stages.export import run
    from engine.stages.layout import Layout

    layout = Layout(tmp_path)
    prepare(load_description(dataset), layout.prepared, DataConfig())
    save_detector(layout.best)
    layout.export.mkdir()
    (layout.export / "stale.onnx").write_text("of other weights")
    steps = []
    params = Params.build({"export": {"formats": ["safetensors", pickled], "check_images": 2}})
    summary = run(params, tmp_path, steps.append)
    assert sorted(p.name for p in layout.export.iterdir()) == [
        "best.pickled",
        "best.safetensors",
    ]
    assert json.loads(layout.summary("export").read_text()) == summary
    assert summary["weights_sha256"] == sha256_file(layout.best) and [s["done"] for s in steps] == [
        1,
        2,
    ]
    entry = summary["files"][pickled]
    assert entry["file"] == "export/best.pickled" and entry["sha256"] == sha256_file(
        tmp_path / entry["file"]
    )
    assert entry["images"] == 2 and entry["max_box_px"] < 0.02
