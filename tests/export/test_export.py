"""A file gets its name only after it has said the same as PyTorch; equal weights give equal bytes;
failures leave nothing.
"""

import dataclasses
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectors import DIGEST, NAMES, SIZE, random_detector, save_detector

from engine.config import ExportConfig
from engine.data.manifest import class_hash
from engine.detect.runtime import Runtime, load_runtime, split_raw
from engine.errors import CheckpointError, ConfigError, DataError, ExportError, WorkspaceError
from engine.export import FORMATS, Exporter, export, exporter, parity
from engine.export.job import file_meta
from engine.export.parity import BOX_PX, SCORE, Agreement, check_agreement
from engine.export.parity_images import batches, image_files, made_picture
from engine.files import sha256_file
from engine.models.yolov8.decode import nms

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
def weights(tmp_path_factory) -> Path:
    return save_detector(tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.fixture(scope="module")
def reference(weights) -> Runtime:
    return load_runtime(weights, "cpu")


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    """Every format, written and checked once."""
    folder = tmp_path_factory.mktemp("exported")
    return {name: export(weights, name, folder, FEW) for name in FORMATS}


def pictures(count, size=SIZE):
    return torch.cat(list(batches(None, count, size)))


def found(runtime, images, conf=0.25):
    return nms(*split_raw(runtime(images)), conf, 0.7)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_boxes_when_loaded_again(exported, reference, name):
    report = exported[name]
    assert report.path.name == f"best{FORMATS[name][0]}" and report.sha256 == sha256_file(
        report.path
    )
    runtime = load_runtime(report.path, "cpu")
    for count in (1, 2, 5):  # the batch size is free
        images = pictures(count)
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
    assert check["images"] == 4 and check["detections"] > 0 and check["origin"] == "made pictures"
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


def test_training_can_start_from_published_weights(exported, weights):
    original = torch.load(weights, weights_only=True)["model"]
    from engine.detect.model_io import load_model

    published = load_model(exported["safetensors"].path).state
    assert published.keys() == original.keys() and all(
        torch.equal(published[k], original[k]) for k in original
    )
    second = Exporter(FEW)(
        exported["safetensors"].path, "torchscript", exported["safetensors"].path.parent / "second"
    )
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
        images = pictures(count, (64, 96))
        torch.testing.assert_close(runtime(images), reference(images), atol=0.02, rtol=0)
    with pytest.raises(ConfigError, match="64x64 does not fit: this exported file takes 64x96"):
        runtime.input_size(64)


# -- what must fail --------------------------------------------------------------------------------


def half_a_percent_more(job, path):
    """A writer that is wrong: one layer's weights are scaled."""
    state = dict(job.raw_state)
    state["head.cls.0.2.weight"] = state["head.cls.0.2.weight"] * 1.005
    FORMATS["safetensors"][1](dataclasses.replace(job, raw_state=state), path)


def other_names(job, path):
    meta = {**job.meta, "names": '["disc", "square"]', "class_hash": class_hash(("disc", "square"))}
    FORMATS["safetensors"][1](dataclasses.replace(job, meta=meta), path)


@pytest.mark.parametrize(
    "writer, message",
    [
        (
            half_a_percent_more,
            r"disagrees with PyTorch: boxes by \S+ px \(at most 0.1\), scores by 0\.00\d+ \(at "
            r"most 0.001\)",
        ),
        (other_names, r"says names \('disc', 'square'\), the weights say \('square', 'disc'\)"),
    ],
)
def test_an_altered_file_is_caught_and_not_kept(weights, tmp_path, monkeypatch, writer, message):
    (tmp_path / "best.safetensors").write_text("the export before")
    monkeypatch.setitem(exporter.FORMATS, "altered", (".safetensors", writer))
    with pytest.raises(ExportError, match=message):
        export(weights, "altered", tmp_path, FEW)
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]
    assert (tmp_path / "best.safetensors").read_text() == "the export before"


def test_batch_norms_folded_with_a_wrong_epsilon_are_caught(weights, tmp_path, monkeypatch):
    from engine.models.yolov8 import fuse

    def wrong(model):
        copy = random_detector()
        copy.load_state_dict(model.state_dict())
        for module in copy.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 1e-5
        return fuse(copy)

    monkeypatch.setattr(exporter, "fuse", wrong)
    with pytest.raises(ExportError, match="disagrees with PyTorch"):
        export(weights, "torchscript", tmp_path, FEW)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(weights, tmp_path, monkeypatch):
    def interrupted(job, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setitem(exporter.FORMATS, "onnx", (".onnx", interrupted))
    with pytest.raises(KeyboardInterrupt):
        export(weights, "onnx", tmp_path / "new", FEW)
    assert not list((tmp_path / "new").iterdir())


def test_a_model_that_cannot_be_expressed_names_the_format(weights, tmp_path, monkeypatch):
    class Branching(torch.nn.Module):
        def forward(self, images):
            raise RuntimeError("cannot be followed\nlong story")

    monkeypatch.setattr(exporter, "fuse", lambda model: Branching())
    for name in ("onnx", "torchscript"):
        with pytest.raises(ExportError, match=rf"^{name}: .*RuntimeError: cannot be followed\."):
            export(weights, name, tmp_path, FEW)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_explained(weights, tmp_path):
    def refused(error, match, file=weights, format="onnx", folder=tmp_path / "out", **settings):
        with pytest.raises(error, match=match):
            export(file, format, folder, ExportConfig(**settings))

    foreign, text = tmp_path / "foreign.pt", tmp_path / "file"
    torch.save({"model": {"a": torch.zeros(1)}}, foreign)
    text.write_text("not a folder")
    refused(ConfigError, "no export format 'onx'. Did you mean 'onnx'.*torchscript", format="onx")
    refused(CheckpointError, "no.pt: no such", file=tmp_path / "no.pt")
    refused(CheckpointError, "not a DetectFlow checkpoint", file=foreign)
    refused(CheckpointError, "best.onnx: weights are", file=tmp_path / "best.onnx")
    refused(
        WorkspaceError, "file: cannot be written.*choose another", format="safetensors", folder=text
    )
    refused(ConfigError, "100x100 is no multiple of the stride 32", imgsz=100)
    with pytest.raises(DataError):
        export(weights, "safetensors", tmp_path / "out", FEW, data=tmp_path / "nothing")
    assert not list((tmp_path / "out").iterdir())


def test_the_source_is_never_overwritten(exported):
    path = exported["safetensors"].path
    with pytest.raises(ExportError, match="in this format already"):
        export(path, "safetensors", path.parent)


# -- the comparison itself, on answers written by hand ---------------------------------------------


def answers(raw, **other):
    """A runtime that always says `raw` (B, 4 + C, A)."""
    settings = {"names": ("a",), "imgsz": (32, 32), "device": torch.device("cpu"), **other}
    return Runtime(lambda images: raw, **settings)


def raw_of(*rows):
    """(1, 5, A) from rows of x, y, w, h, score."""
    return torch.tensor(rows, dtype=torch.float32).T[None]


FAR_APART = ((10, 10, 8, 8, 0.9), (100, 100, 8, 8, 0.6), (200, 10, 8, 8, 0.1))


def compare(ours, theirs, **other):
    return check_agreement(
        answers(ours), answers(theirs, **other), [torch.zeros(1, 3, 32, 32)], "a.onnx"
    )


def test_differences_are_the_largest_over_all_points():
    ours, theirs = raw_of(*FAR_APART), raw_of(*FAR_APART)
    theirs[0, 2, 2] += 0.05  # a box below the confidence counts too
    theirs[0, 4, 0] -= 0.0005
    theirs[0, 0, 1] += 0.02
    figures = compare(ours, theirs).figures()
    assert figures == {
        "images": 1,
        "max_box_px": 0.05,
        "max_score": 0.0005,
        "detections": 2,
        "max_detection_px": 0.02,
        "flips": 0,
    }


@pytest.mark.parametrize(
    "row, by, message",
    [(0, 1.5 * BOX_PX, "boxes by 0.15 px"), (4, 1.5 * SCORE, "scores by 0.0015")],
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_difference_beyond_the_tolerance_fails_with_both_numbers(row, by, message, sign):
    theirs = raw_of(*FAR_APART)
    theirs[0, row, 1] += sign * by
    with pytest.raises(ExportError, match=f"a.onnx: .*{message}"):
        compare(raw_of(*FAR_APART), theirs)


def test_what_is_not_finite_and_other_shapes_fail():
    good, bad = raw_of(*FAR_APART), raw_of(*FAR_APART)
    bad[0, 0, 0] = torch.nan
    with pytest.raises(ExportError, match="boxes by nan px"):
        compare(good, bad)
    with pytest.raises(ExportError, match="weights are damaged"):
        compare(bad, good)
    with pytest.raises(ExportError, match=r"gives \(1, 5, 2\) where PyTorch gives \(1, 5, 3\)"):
        compare(good, good[..., :2])
    with pytest.raises(ExportError, match="stride 16, the weights say 32"):
        compare(good, good, stride=16)


def test_rounding_at_a_threshold_is_no_failure():
    above, below = (
        raw_of((10, 10, 8, 8, 0.9), (50, 50, 8, 8, 0.2502)),
        raw_of((10, 10, 8, 8, 0.9), (50, 50, 8, 8, 0.2498)),
    )
    assert compare(above, below).flips == compare(below, above).flips == 1
    # Two boxes over each other change places when their scores do.
    first = raw_of((10, 10, 8, 8, 0.7001), (10.5, 10, 8, 8, 0.7))
    assert compare(first, raw_of((10, 10, 8, 8, 0.7), (10.5, 10, 8, 8, 0.7001))).flips == 2
    # Boxes of width 10 moved by 1.764 and 1.768: IoU .7001 and .6997.
    over, under = (
        raw_of((10, 10, 10, 9, 0.9), (10 + moved, 10, 10, 9, 0.8)) for moved in (1.764, 1.768)
    )
    assert compare(over, under).flips == compare(under, over).flips == 1


def test_a_detection_without_counterpart_fails():
    """Raw outputs that agree cannot get here; the comparison after NMS must not rely on it."""
    two, one = raw_of(*FAR_APART[:2]), raw_of(FAR_APART[0], (100, 100, 8, 8, 0.2))
    moved = raw_of(FAR_APART[0], (101, 100, 8, 8, 0.6))
    none = two * torch.tensor([1, 1, 1, 1, 0.0])[:, None]
    for ours, theirs, counts in (
        (two, one, "2 .* file 1; 1"),
        (one, two, "1 .* file 2; 1"),
        (two, none, "2 .* file 0; 2"),
    ):
        with pytest.raises(ExportError, match=f"PyTorch has {counts} of them have no counterpart"):
            parity._compare_detections(ours, theirs, Agreement(), "a.onnx")
    parity._compare_detections(two, moved, so_far := Agreement(), "a.onnx")
    assert so_far.flips == 2  # over each other: NMS would have kept either


def test_where_nothing_is_confident_the_best_are_compared():
    weak = raw_of((10, 10, 8, 8, 0.02), (50, 50, 8, 8, 0.015), (90, 90, 8, 8, 0.001))
    assert compare(weak, weak).detections == 2


# -- pictures, events, stage -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """A small YOLO folder."""
    folder = tmp_path_factory.mktemp("dataset")
    for first, (split, count) in enumerate({"train": 3, "val": 5, "test": 3}.items()):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(
                str(folder / "images" / split / f"{split}{i}.png"),
                made_picture(10 * first + i, (48, 80)),
            )
            (folder / "labels" / split / f"{split}{i}.txt").write_text(
                f"{i % 2} 0.5 0.5 0.25 0.25\n"
            )
    splits = "".join(f"{split}: images/{split}\n" for split in ("train", "val", "test"))
    (folder / "data.yaml").write_text(f"path: .\n{splits}names: [square, disc]\n")
    return folder


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path_factory.getbasetemp() / "state"))


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
    assert not np.array_equal(made_picture(0, (32, 64)), made_picture(1, (32, 64)))


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


def test_the_stage_writes_the_folder_and_the_report_whole(dataset, tmp_path):
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
    params = Params.build(
        {"export": {"formats": ["safetensors", "torchscript"], "check_images": 2}}
    )
    summary = run(params, tmp_path, steps.append)
    assert sorted(p.name for p in layout.export.iterdir()) == [
        "best.safetensors",
        "best.torchscript",
    ]
    assert json.loads(layout.summary("export").read_text()) == summary
    assert summary["weights_sha256"] == sha256_file(layout.best) and [s["done"] for s in steps] == [
        1,
        2,
    ]
    entry = summary["files"]["torchscript"]
    assert entry["file"] == "export/best.torchscript" and entry["sha256"] == sha256_file(
        tmp_path / entry["file"]
    )
    assert entry["images"] == 2 and entry["max_box_px"] < 0.02
