"""A network of `transformers` through training, exact resume, fine-tuning, files and predictions."""

import logging
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import fake_hub
import hf_networks

from engine import YOLO
from engine.core.checkpoint import load_checkpoint
from engine.detect import DetectionTrainer, DetectionValidator
from engine.errors import ConfigError
from engine.export import export
from engine.model_formats.metadata import decode_meta
from engine.model_formats.table import FORMATS
from engine.models.hub import files as hub_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hf")
    hf_networks.save(path, "d_fine", ("blue", "cat"))
    return path


@pytest.fixture
def start(folder, tiny):
    return lambda **changes: tiny(model=f"hf:{folder}", imgsz=64, lr0=0.003, **changes)


def test_it_trains_resumes_to_the_bit_and_needs_its_folder_no_more(folder, start, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="detectflow"):
        whole = DetectionTrainer(overrides=start(epochs=4, name="whole")).train()
    assert "classes by name: blue (0 -> 1); new classes: red" in caplog.text

    def cut(trainer):
        if trainer.epoch == 2:
            raise RuntimeError("cut")

    first = DetectionTrainer(overrides=start(epochs=4, name="cut"))
    first.add_callback("on_train_epoch_start", cut)
    with pytest.raises(RuntimeError, match="cut"):
        first.train()
    origins = load_checkpoint(first.last).meta["origins"]
    folder.rename(tmp_path / "moved")
    try:
        again = DetectionTrainer(overrides=start(epochs=4, name="cut", resume=True)).train()
    finally:
        (tmp_path / "moved").rename(folder)
    assert load_checkpoint(again.last).meta["origins"] == origins
    one, other = (load_checkpoint(result.last) for result in (whole, again))
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(one.weights[key], other.weights[key]) for key in one.weights)
    header = (whole.save_dir / "results.csv").read_text().splitlines()[0]
    assert "train/loss_vfl" in header and "train/dn_loss" in header and "lr/weight x 0.1" in header


def test_a_run_that_goes_on_asks_no_hub(folder, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_files, "_newest", {})
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def cut(trainer):
        if trainer.epoch == 1:
            raise RuntimeError("cut")

    with fake_hub.running() as (hub, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        hub.models["org/net"] = {"a" * 40: folder}
        settings = tiny(model="hf:org/net", imgsz=64, epochs=2, name="hub")
        first = DetectionTrainer(overrides=settings)
        first.add_callback("on_train_epoch_start", cut)
        with pytest.raises(RuntimeError, match="cut"):
            first.train()
        meta = load_checkpoint(first.last).meta
        asked = len(hub.asked)
        assert asked and meta["origins"][0]["name"] == "hf:org/net@" + "a" * 40
        # a new process, another day
        monkeypatch.setattr(hub_files, "_newest", {})
        hf_networks.save(tmp_path / "newer", "d_fine", ("blue", "cat"), seed=1)
        hub.models["org/net"]["b" * 40] = tmp_path / "newer"
        shutil.rmtree(tmp_path / "state")
        again = DetectionTrainer(overrides=settings | {"resume": True}).train()
        assert len(hub.asked) == asked
    after = load_checkpoint(again.last).meta
    assert (after["origins"], after["architecture"]) == (meta["origins"], meta["architecture"])


def test_rf_detr_trains_with_each_term_in_a_column_and_its_file_agrees(tiny, tmp_path, squares):
    hf_networks.save(tmp_path / "network", "rf_detr", ("blue", "cat"))
    start = tiny(model=f"hf:{tmp_path / 'network'}", imgsz=64, epochs=2)
    result = DetectionTrainer(overrides=start).train()
    columns = (result.save_dir / "results.csv").read_text().splitlines()[0].split(",")
    terms = ("loss_ce", "loss_bbox", "loss_giou", "aux_loss", "cardinality_error")
    assert {f"{kind}/{term}" for kind in ("train", "val") for term in terms} <= set(columns)
    assert export(result.last, "onnx", tmp_path / "out", data=squares).check["images"] > 1
    with pytest.raises(ConfigError, match="takes squares only: try 64 or 96"):
        DetectionTrainer(overrides=start | {"imgsz": (64, 96), "data": "nowhere.yaml"}).train()


class Growing:
    """A made-up GPU of 100 units, of which each image that was measured takes ten."""

    def __init__(self):
        self.images = 0

    def capacity_bytes(self):
        return 10**12

    def start(self):
        self.images = 0

    def peak_bytes(self):
        return self.images * 10**10


def test_the_batch_is_found_by_steps_that_leave_no_trace_or_a_number_is_asked_for(start, caplog):
    with pytest.raises(ConfigError, match="computes on a CPU: give a number, for example batch=16"):
        DetectionTrainer(overrides=start(batch=-1, name="cpu")).train()

    class Measured(DetectionTrainer):
        def probe_batch(self, batch):
            self.meter.images = len(batch["img"])
            return super().probe_batch(batch)

    with caplog.at_level(logging.INFO, logger="detectflow"):
        found = Measured(overrides=start(batch=-1, name="found"))
        found.meter = Growing()
        weights = found.train().last
    assert "auto batch: " in caplog.text
    given = DetectionTrainer(overrides=start(batch=found.batch_size, name="given")).train().last
    one, other = (load_checkpoint(path).weights for path in (weights, given))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_recipe_is_written_down_and_a_given_value_stays(start):
    trainer = DetectionTrainer(overrides=start(clip_norm=3.0))
    assert (trainer.args.clip_norm, trainer.args.optimizer) == (3.0, "AdamW")
    result = trainer.train()
    text = (result.save_dir / "args.yaml").read_text()
    assert "clip_norm: 3.0" in text and "model.backbone.: 0.1" in text


def test_a_trained_network_is_a_start_and_a_file_and_a_predictor(start, squares, tmp_path):
    first = DetectionTrainer(overrides=start(epochs=30, name="first", batch=8)).train()
    network = DetectionTrainer(
        overrides=start(name="second") | {"model": str(first.best), "epochs": 1}
    ).train()
    meta = load_checkpoint(network.best).meta
    assert meta["family"] == "hf"
    origins = load_checkpoint(first.best).meta["origins"]
    assert meta["origins"] == origins and len(origins[0]["digest"]) == 64, "over generations"
    assert origins[0]["name"].startswith("hf:")
    metrics = DetectionValidator(overrides={"device": "cpu", "plots": False})(
        model=first.best, data=squares
    )
    assert metrics["metrics/mAP50"] is not None
    made = export(first.best, "onnx", tmp_path / "out", data=squares)
    found = DetectionValidator(overrides={"device": "cpu", "plots": False})(
        model=made.path, data=squares
    )
    assert found["metrics/mAP50-95"] == pytest.approx(metrics["metrics/mAP50-95"], abs=1e-3)
    written = FORMATS["onnx"].read_meta(made.path)
    assert decode_meta(written, made.path)["origins"] == origins
    [result] = YOLO(str(made.path)).predict(
        str(squares / "images/test/test0.png"), conf=0.0001, save=False
    )
    assert len(result.boxes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"box": 5.0}, "has no use for it"),
        ({"imgsz": 32}, "at least 64"),
        ({"freeze": ("backbone",)}, "They start with: model"),
        ({"slow": {"backbone": 0.1}}, "They start with: model"),
    ],
)
def test_settings_it_cannot_heed_are_refused(start, changes, said):
    with pytest.raises(ConfigError, match=said):
        DetectionTrainer(overrides=start() | changes).train()
