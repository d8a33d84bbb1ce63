"""`YOLO`: what it keeps, what is changed in its network, what it writes and takes."""

import os
import shutil

import cv2
import numpy as np
import pytest
import torch
from detectors import NAMES, random_detector, save_detector

from engine import YOLO, Detector
from engine.core import checkpoint
from engine.detect import DetectionPredictor
from engine.detect.runtime import load_runtime
from engine.errors import CheckpointError, ConfigError

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


@pytest.fixture
def weights(random_weights, tmp_path):
    return shutil.copy(random_weights, tmp_path / "best.pt")


@pytest.fixture
def reads(monkeypatch):
    """The checkpoint files that were read, in order."""
    seen, load = [], torch.load

    def counted(path, *args, **kwargs):
        seen.append(path)
        return load(path, *args, **kwargs)

    monkeypatch.setattr(checkpoint.torch, "load", counted)
    return seen


def data_of(result):
    return result[0].boxes.data


def test_the_weights_are_read_once_whatever_the_settings_of_a_call(weights, reads):
    model = YOLO(weights)
    model(IMAGE)
    before = len(reads)
    for settings in ({}, {"conf": 0.6}, {"imgsz": 96}, {"classes": [0]}, {"device": "cpu"}):
        model(IMAGE, **settings)
    assert model.names == NAMES and model.model is model.model
    assert len(reads) == before


def test_it_finds_what_a_predictor_of_its_own_finds(weights):
    model = YOLO(weights)
    for conf in (0.25, 0.6):
        alone = DetectionPredictor(
            {"model": str(weights), "save": False, "verbose": False, "conf": conf}
        )
        assert torch.equal(data_of(model(IMAGE, conf=conf)), data_of(alone(IMAGE)))


def test_two_streams_at_a_time_do_not_disturb_each_other(weights):
    model = YOLO(weights)
    one, two = (model([IMAGE] * 3, stream=True, batch=1, conf=conf) for conf in (0.25, 0.6))
    pairs = [(len(a), len(b)) for a, b in zip(one, two)]
    assert len(set(pairs)) == 1 and pairs[0][0] > pairs[0][1]


def test_a_file_that_was_written_anew_is_read_again(weights):
    model = YOLO(weights)
    before = data_of(model(IMAGE))
    save_detector(weights, random_detector(2, seed=1))
    after = data_of(model(IMAGE))
    assert before.shape != after.shape or not torch.equal(before, after)
    assert torch.equal(after, data_of(YOLO(weights)(IMAGE)))
    os.remove(weights)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        model(IMAGE)


@pytest.mark.parametrize("way", ["in place", "put in place"])
def test_a_file_of_the_same_size_and_time_is_another(weights, tmp_path, way):
    other = save_detector(tmp_path / "other.pt", random_detector(2, seed=1))
    assert os.path.getsize(other) == os.path.getsize(weights), "or it says nothing"
    model, before = YOLO(weights), os.stat(weights)
    model(IMAGE)
    expected = data_of(YOLO(other)(IMAGE))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    if way == "put in place":
        os.replace(other, weights)
    else:
        with open(weights, "r+b") as file:
            file.write(other.read_bytes())
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert torch.equal(data_of(model(IMAGE)), expected)


def test_what_is_changed_in_the_network_counts_in_predict_and_save_and_is_refused_elsewhere(
    weights, tmp_path
):
    model = YOLO(weights)
    before = data_of(model(IMAGE))
    with torch.no_grad():
        for branch in model.model.head.cls:
            branch[-1].bias += 1
    after = data_of(model(IMAGE))
    assert len(after) > len(before)
    for verb in (model.val, model.export, model.train):
        with pytest.raises(ConfigError, match=r"changed in memory.*save\('changed.pt'\)"):
            verb(data="nowhere") if verb != model.export else verb()
    saved = model.save(tmp_path / "changed.pt")
    assert torch.equal(data_of(YOLO(saved)(IMAGE)), after)
    assert load_runtime(weights).names == NAMES, "its own file is as it was"
    assert model.names == NAMES, "which the change says nothing about"


def test_unchanged_weights_are_saved_as_the_very_bytes(weights, tmp_path):
    model = YOLO(weights)
    model(IMAGE)
    saved = model.save(tmp_path / "new" / "copy.pt")
    assert saved.read_bytes() == (tmp_path / "best.pt").read_bytes()
    with pytest.raises(ConfigError, match=r"another format is written by export\(format"):
        model.save(tmp_path / "copy.onnx")
    with pytest.raises(ConfigError, match="no weights yet"):
        YOLO("yolov8n").save()


def test_fused_it_finds_the_same_up_to_rounding(weights, tmp_path):
    plain, fused = YOLO(weights), YOLO(weights).fuse()
    mine, theirs = data_of(plain(IMAGE, conf=0.5)), data_of(fused(IMAGE, conf=0.5))
    assert len(mine) and torch.allclose(mine, theirs, atol=1e-2, rtol=1e-3)
    assert fused.info(verbose=False)[1] < plain.info(verbose=False)[1]
    assert fused.save(tmp_path / "x.pt").read_bytes() == (tmp_path / "best.pt").read_bytes()


def change(network, by=1):
    """More of everything is found."""
    with torch.no_grad():
        for branch in network.head.cls:
            branch[-1].bias += by


def test_a_network_taken_before_fuse_counts_after_it(weights, tmp_path):
    model = YOLO(weights)
    network = model.model
    change(network, 0.5)
    model.fuse()
    for _ in range(2):  # before it was fused, and after
        found = data_of(model(IMAGE))
        saved = model.save(tmp_path / "changed.pt")
        expected = data_of(YOLO(saved)(IMAGE))
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-2, rtol=1e-3)
        with pytest.raises(ConfigError, match=r"val: .* changed in memory.*save\('changed.pt'\)"):
            model.val(data="nowhere")
        fused = model.model
        change(network, 0.5)
    assert model.model is fused is not network and len(data_of(model(IMAGE))) > len(found)


def test_a_change_of_the_fused_network_counts_in_predict_and_is_refused_where_it_would_be_lost(
    weights, tmp_path
):
    model = YOLO(weights)
    before = len(data_of(model(IMAGE)))
    network = model.model
    change(model.fuse().model)
    assert len(data_of(model(IMAGE))) > before
    for verb in (model.val, model.export, model.train, model.benchmark, model.save):
        with pytest.raises(ConfigError, match="fused network was changed.*before fuse"):
            verb()
    assert not (tmp_path / "saved_model.pt").exists()
    change(network)
    with pytest.raises(ConfigError, match="both changed in memory"):
        model(IMAGE)


def test_fused_again_where_layers_were_put_in_place_of_others(weights):
    model = YOLO(weights)
    network = model.model
    before = data_of(model.fuse()(IMAGE))
    network.head.cls[0][-1] = torch.nn.Conv2d(network.head.cls[0][-1].in_channels, 2, 1, bias=False)
    after = data_of(model(IMAGE))
    assert before.shape != after.shape or not torch.equal(before, after)


def test_a_second_training_begins_with_the_best_of_the_first(make_shapes, tmp_path, caplog):
    data = make_shapes(tmp_path / "data", {"train": 2, "val": 2, "test": 2})
    given = {"data": data, "imgsz": 64, "epochs": 1, "batch": 2, "device": torch.device("cpu")}
    given |= {"project": tmp_path / "runs", "plots": False, "verbose": False}
    given |= {"lr0": 1e-9, "ema": False}  # the weights stay what they are, up to rounding
    model = YOLO("yolov8n")
    caplog.set_level("INFO")
    first = model.train(**given, seed=1)
    assert "starting from" not in caplog.text
    assert model.train(**given, seed=2).best != first.best  # another folder
    assert model.trainer.args.model == str(first.best)
    assert f"starting from {first.best}" in caplog.text
    was, now = (YOLO(best).state_dict() for best in (first.best, model.weights))
    assert all(torch.allclose(was[k], now[k], atol=1e-6) for k in was if "weight" in k)
    change(model.model)
    with pytest.raises(ConfigError, match="train: the network was changed in memory"):
        model.train(**given)
    model = YOLO("yolov8n").load(first.best)
    again = {**given, "exist_ok": True, "name": first.save_dir.name}
    with pytest.raises(ConfigError, match="the weights to start from would be lost"):
        model.train(**again)
    assert first.best.is_file()
    model.train(**given, model=first.best)
    with pytest.raises(ConfigError, match=r"make YOLO\('yolov8s'\)"):
        model.train(**given, model="yolov8s")


def test_load_takes_weights_of_the_same_network_only(weights, tmp_path):
    model = Detector("yolov8n.yaml").load(weights)
    assert torch.equal(data_of(model(IMAGE)), data_of(YOLO(weights)(IMAGE)))
    with pytest.raises(ConfigError, match=r"holds a yolov8n, and this is a yolov8s.*Detector\('"):
        Detector("yolov8s").load(weights)


def test_info_counts_as_the_papers_do(capsys):
    layers, parameters, gradients, gflops = YOLO("yolov8n").info()
    # 3.2 M parameters and 8.7 GFLOPs at 640 px with 80 classes, as published for the network.
    assert round(parameters / 1e6, 1) == 3.2 and gflops == pytest.approx(8.7, abs=0.2)
    assert parameters == gradients and "3,1" in capsys.readouterr().out and layers > 100


def test_a_file_of_a_network_that_is_named_like_ours_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert YOLO("yolov8n.yaml").info(verbose=False)[1] > 3e6
    (tmp_path / "yolov8n.yaml").write_text("depth: 0.33\nwidth: 0.125\nmax_channels: 512\n")
    assert YOLO("yolov8n.yaml").info(verbose=False)[1] < 2e6
    (tmp_path / "net.yaml").write_text("nc: 80\nscales: {n: [1, 1, 1]}\nbackbone: []\nhead: []\n")
    with pytest.raises(ConfigError, match="layer by layer.*yolov8n"):
        YOLO("net.yaml")


def test_weights_in_another_format_find_the_same(weights, tmp_path):
    file = YOLO(weights).export("safetensors", folder=tmp_path, check_images=1)
    assert torch.equal(data_of(YOLO(file)(IMAGE)), data_of(YOLO(weights)(IMAGE)))


def test_to_a_device_that_is_not_there(weights):
    model = YOLO(weights).to("cpu")
    assert model.device == torch.device("cpu") and model.cpu() is model
    with pytest.raises(ConfigError, match="device 'cuda:99' is not there"):
        model.to(99)
    with pytest.raises(ConfigError, match="device 'gpu' is unknown"):
        model.to("gpu")


def test_hasattr_says_no(weights):
    model = YOLO(weights)
    assert not hasattr(model, "embed") and hasattr(model, "fuse")
    assert not hasattr(model(IMAGE)[0], "pandas") and not hasattr(model(IMAGE)[0].boxes, "names")


def test_a_path_is_as_it_was_named_and_stays_that_file(weights, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), IMAGE)
    (tmp_path / "list.txt").write_text("photos/a.png\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    model, whole = YOLO(weights), str(tmp_path / "photos" / "a.png")
    named = {
        "photos/a.png": "photos/a.png",
        "./photos/a.png": "photos/a.png",
        "photos": "photos/a.png",
        "photos/*.png": "photos/a.png",
        "photos/../photos": "photos/../photos/a.png",
        "list.txt": "photos/a.png",
        whole: whole,
        str(tmp_path / "photos"): whole,
        str(tmp_path / "photos" / "*.png"): whole,
        str(tmp_path / "list.txt"): whole,
    }
    found = {}
    for source, expected in named.items():
        (found[source],) = model(source)
        assert found[source].path == found[source].source == expected, source
        assert model(source, stream=True).__next__().path in {expected}
    monkeypatch.chdir(tmp_path / "elsewhere")
    for result in found.values():
        assert np.array_equal(result[:1].orig_img, IMAGE)


def test_labels_that_are_written_are_read_as_labels(weights, tmp_path, monkeypatch):
    """`save_txt` is the YOLO format: the reader of this project finds the same boxes."""
    from engine.datasets.open import open_dataset

    monkeypatch.chdir(tmp_path)
    for split in ("train", "val", "test"):
        (tmp_path / "set" / "images" / split).mkdir(parents=True)
        image = np.random.default_rng(len(split)).integers(0, 255, (48, 64, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "set" / "images" / split / f"{split}.png"), image)
    model, found = YOLO(weights), {}
    for split in ("train", "val", "test"):
        source = tmp_path / "set" / "images" / split
        out = tmp_path / "set" / "labels"
        (result,) = model(
            source, save_txt=True, project=str(tmp_path / "out"), name=split, max_det=3
        )
        found[split] = result
        out.mkdir(exist_ok=True)
        shutil.copytree(tmp_path / "out" / split / "labels", out / split)
    entries = "".join(f"{split}: images/{split}\n" for split in found)
    (tmp_path / "set" / "data.yaml").write_text(f"path: .\n{entries}names: [square, disc]\n")
    data = open_dataset(tmp_path / "set")
    for split, result in found.items():
        (record,) = data.records(split)
        order = np.lexsort(result.xyxy.T), np.lexsort(record.boxes.T)
        assert len(result), "or nothing is compared"
        np.testing.assert_allclose(result.xyxy[order[0]], record.boxes[order[1]], atol=1e-3)
        assert sorted(result.classes) == sorted(record.classes)
