"""The detection trainer as a user meets it: the contract's scripts, what a run leaves behind,
fine-tuning, determinism.
"""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from engine import YOLO, Detector
from engine.config import DetectionTrainConfig
from engine.core.checkpoint import load_checkpoint
from engine.core.optim import freeze_parameters
from engine.core.results import read_results
from engine.detect import DetectionTrainer
from engine.errors import CheckpointError, ConfigError, TrainingError, cause_of
from engine.metrics.reported import headline_keys
from engine.models.yolov8 import build_model
from engine.models.yolov8.family import YOLOv8Family


def settings(shapes, tmp_path, **changes):
    return {
        "model": "yolov8n",
        "data": str(shapes),
        "imgsz": 64,
        "epochs": 1,
        "batch": 4,
        "project": str(tmp_path),
        "verbose": False,
        "device": "cpu",
        "plots": False,
        **changes,
    }


def test_it_learns_and_the_run_directory_is_as_promised(trained):
    trainer, result = trained
    assert result.metrics["metrics/mAP50"] > 0.3, result.metrics
    with open(result.save_dir / "results.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 30
    assert list(rows[0]) == [
        "epoch",
        "time_s",
        "train/box_loss",
        "train/cls_loss",
        "train/dfl_loss",
        "metrics/precision",
        "metrics/recall",
        "metrics/mAP50",
        "metrics/mAP50-95",
        "val/box_loss",
        "val/cls_loss",
        "val/dfl_loss",
        "lr/bias",
        "lr/weight",
        "lr/norm",
    ]
    promised = {
        "args.yaml",
        "weights",
        "results.csv",
        "per_class.csv",
        "train_batch0.jpg",
        "val_batch0_labels.jpg",
        "val_batch0_pred.jpg",
        "results.png",
        "confusion_matrix.png",
        "PR_curve.png",
        "F1_curve.png",
        "P_curve.png",
        "R_curve.png",
        "labels.png",
    }
    assert promised <= {p.name for p in result.save_dir.iterdir()}
    assert {p.name for p in (result.save_dir / "weights").iterdir()} >= {
        "last.pt",
        "last.json",
        "best.pt",
        "best.json",
    }
    again = DetectionTrainConfig.load(result.save_dir / "args.yaml")
    assert again.lr0 == trainer.args.lr0 and again.optimizer == "AdamW"


def test_the_weights_say_what_they_are_and_hold_no_path(trained, tmp_path):
    trainer, result = trained
    meta = load_checkpoint(result.best).meta
    assert (
        meta["names"] == ["square", "disc"]
        and meta["imgsz"] == [64, 64]
        and meta["model"] == "yolov8n"
    )
    assert meta["data_digest"] == result.data_digest != ""
    assert str(trainer.args.data) not in str(meta) and str(result.save_dir) not in str(meta)


def test_best_model_gives_the_best_weights(trained):
    trainer, result = trained
    model, saved = trainer.best_model(), load_checkpoint(result.best).weights
    assert not model.training
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_a_custom_trainer_with_a_torchvision_backbone_and_its_own_criterion(shapes, tmp_path):
    """The second script of the contract."""
    seen = []

    class CustomTrainer(DetectionTrainer):
        def get_model(self, cfg, weights):
            from dataclasses import replace

            from engine.models.yolov8 import find_spec

            return build_model(
                replace(find_spec(cfg), backbone="mobilenet_v3_large"), len(self.names)
            )

        def get_dataloader(self, dataset_path, batch_size, mode="train", rank=0):
            seen.append((mode, batch_size, rank))
            return super().get_dataloader(dataset_path, batch_size, mode, rank)

        def criterion(self, preds, batch):
            imgs, bboxes = batch["imgs"], batch["bboxes"]
            assert imgs is batch["img"] and imgs.dtype == torch.float32 and bboxes.shape[1] == 4
            loss, items = super().criterion(preds, batch)
            return 2 * loss, items

    uploaded = []

    def log_model(trainer):
        if (trainer.epoch + 1) % 2 == 0:
            uploaded.append(shutil.copy(trainer.last, tmp_path / f"epoch{trainer.epoch + 1}.pt"))

    trainer = CustomTrainer(overrides=settings(shapes, tmp_path, epochs=2))
    trainer.add_callback("on_train_epoch_end", log_model)
    trainer.train()
    assert seen[:2] == [("train", 4, 0), ("val", 4, 0)]
    assert [load_checkpoint(path).training["epoch"] for path in uploaded] == [1]
    assert isinstance(trainer.best_model(), nn.Module)


def test_workers_and_a_second_run_give_the_same_bits(shapes, tmp_path):
    for name, workers in (("a", 0), ("b", 2), ("c", 0)):
        changes = {
            "name": name,
            "workers": workers,
            "seed": 1 if name == "c" else 0,
            "mixup": 0.2,
            "multi_scale": 0.5,
        }
        DetectionTrainer(overrides=settings(shapes, tmp_path, **changes)).train()
    a, b, c = (load_checkpoint(tmp_path / name / "weights/last.pt") for name in "abc")
    assert all(
        torch.equal(a.model[k], b.model[k]) and torch.equal(a.ema[k], b.ema[k]) for k in a.model
    )
    assert not all(torch.equal(a.model[k], c.model[k]) for k in a.model)
    assert (tmp_path / "a/weights/best.pt").read_bytes() == (
        tmp_path / "b/weights/best.pt"
    ).read_bytes()


def test_an_interrupted_detector_resumes_to_the_same_bits(shapes, tmp_path):
    """Within an epoch, and exactly where mosaic ends: with processes, which are asked for the next
    epoch early, and without.
    """
    plan = settings(shapes, tmp_path, epochs=3, batch=6, close_mosaic=1, mixup=0.5)
    DetectionTrainer(overrides={**plan, "name": "whole"}).train()
    for event, workers in (
        ("on_train_batch_end", 0),
        ("on_fit_epoch_end", 0),
        ("on_fit_epoch_end", 2),
    ):
        name = f"{event}{workers}"
        cut = DetectionTrainer(overrides={**plan, "name": name, "workers": workers})

        def interrupt(trainer):
            if trainer.epoch == 1:
                raise KeyboardInterrupt

        cut.add_callback(event, interrupt)
        with pytest.raises(KeyboardInterrupt):
            cut.train()
        assert cut.train_loader.dataset.mosaic_until_epoch == 2
        DetectionTrainer(
            overrides={**plan, "name": name, "workers": workers, "resume": True}
        ).train()
        a, b = (load_checkpoint(tmp_path / run / "weights/last.pt") for run in ("whole", name))
        assert all(
            torch.equal(a.model[k], b.model[k]) and torch.equal(a.ema[k], b.ema[k]) for k in a.model
        )


def test_the_short_way_resumes_by_a_checkpoint(shapes, tmp_path):
    cut = DetectionTrainer(overrides=settings(shapes, tmp_path, epochs=2, name="cut"))
    cut.add_callback("on_train_batch_end", lambda t: 1 / 0 if t.epoch == 1 else None)
    with pytest.raises(ZeroDivisionError):
        cut.train()
    model = YOLO(cut.last)
    result = model.train(resume=True, device="cpu")
    assert result.save_dir == cut.save_dir and result.epochs == 2 and model.weights == cut.best
    with pytest.raises(
        ConfigError, match=r"the model is '.*last\.pt'; for another one make YOLO\('yolov8s'\)"
    ):
        model.train(model="yolov8s")


def test_mosaic_ends_when_it_should(shapes, tmp_path):
    """The last epoch of a run that closes mosaic shows single images: less is filled with
    others.
    """
    shown = {}
    for close in (0, 1):
        trainer = DetectionTrainer(
            overrides=settings(shapes, tmp_path, epochs=2, close_mosaic=close, lr0=1e-9, fliplr=0)
        )
        boxes = shown.setdefault(close, [0, 0])

        def count(t, boxes=boxes):
            boxes[t.epoch] += len(t.batch["cls"])

        trainer.add_callback("on_train_batch_end", count)
        trainer.train()
    assert shown[0][0] == shown[1][0] and shown[1][1] == 12 * 3 < shown[0][1]


def test_fine_tuning_finds_class_rows_by_name():
    old, new = build_model("yolov8n", 3), build_model("yolov8n", 2)
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    said = YOLOv8Family().transfer(
        new, old.state_dict(), ["cat", "dog", "cow"], ["cow", "hen"], new.spec.to_dict()
    )
    for i in range(3):
        mine, theirs = new.head.cls[i][2], old.head.cls[i][2]
        assert torch.equal(mine.weight[0], theirs.weight[2])
        assert torch.equal(mine.weight[1], fresh[f"head.cls.{i}.2.weight"][1])
    assert torch.equal(new.backbone.stem.conv.weight, old.backbone.stem.conv.weight)
    assert (
        said.classes == (("cow", 2, 0),)
        and said.new == ("hen",)
        and said.left == ("cat", "dog")
        and said.fresh == ()
    )


def test_starting_from_a_checkpoint_keeps_what_it_knew(trained, shapes, tmp_path):
    _, result = trained
    trainer = DetectionTrainer(
        overrides=settings(shapes, tmp_path, model=str(result.best), lr0=1e-7, epochs=1)
    )
    assert trainer.train().metrics["metrics/mAP50"] > 0.8 * result.metrics["metrics/mAP50"]
    assert load_checkpoint(trainer.best).meta["model"] == "yolov8n"


def test_the_short_way(shapes, tmp_path, trained):
    model = YOLO("yolov8n")
    with pytest.raises(ConfigError, match=r"no weights yet; .*YOLO\('path"):
        model.val(data=str(shapes))
    result = model.train(**settings(shapes, tmp_path, epochs=1))
    assert result.best.is_file() and model.weights == result.best
    known = YOLO(trained[1].best)
    assert known.val(data=str(shapes), plots=False)["metrics/mAP50"] > 0.2
    found = known(str(shapes / "images" / "test" / "test0.png"), conf=0.1)
    assert len(found) == 1 and found[0].size == (64, 64)


def test_the_short_way_to_any_network_knows_a_wrong_name_at_once():
    detector = Detector("torchvision:ssdlite320_mobilenet_v3_large")
    with pytest.raises(ConfigError, match=r"no weights yet; .*Detector\('path"):
        detector.export()
    for made in (Detector, YOLO):
        with pytest.raises(ConfigError, match="Did you mean 'torchvision:ssdlite320_mobilenet_v3"):
            made("torchvision:ssdlite")


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model": "yolo8n"}, ConfigError, "Did you mean 'yolov8n'"),
        ({"model": "nowhere/best.pt"}, CheckpointError, "no such checkpoint"),
        ({"class_weights": {"sqare": 2.0}}, ConfigError, "Did you mean 'square'"),
        ({"freeze": ["backbonne"]}, ConfigError, "no parameter starts with 'backbonne'"),
        (
            {"lr0": 1e9, "optimizer": "SGD", "clip_norm": 0, "epochs": 3, "warmup_epochs": 0},
            TrainingError,
            "not finite",
        ),
        ({"monitor": "metrics/map"}, ConfigError, "Did you mean 'metrics/mAP50'"),
    ],
)
def test_mistakes_are_explained(shapes, tmp_path, changes, error, said):
    with pytest.raises(error, match=said):
        DetectionTrainer(overrides=settings(shapes, tmp_path, **changes)).train()


def test_a_rate_far_too_high_ends_in_a_sentence_with_the_images(shapes, tmp_path):
    trainer = DetectionTrainer(overrides=settings(shapes, tmp_path, lr0=1e20, warmup_epochs=0))
    said = (
        r"at epoch 1, batch 2: box_loss nan.* was [\d.]+e\+19: lower lr0 \(now 1e\+20; try 0\.002\)"
    )
    with pytest.raises(TrainingError, match=said):
        trainer.train()
    written = json.loads((trainer.save_dir / "failed_batch.json").read_text())
    assert len(written["images"]) == 4 and all(Path(file).is_file() for file in written["images"])


def test_a_wrong_monitor_is_reported_before_anything_is_trained(shapes, tmp_path):
    trainer = DetectionTrainer(overrides=settings(shapes, tmp_path, monitor="metrics/mAP"))
    trainer.add_callback("on_train_start", lambda t: pytest.fail("it trains"))
    said = r"Did you mean 'metrics/mAP50'\? There are: metrics/precision, .*val/box_loss, .*lr/bias"
    with pytest.raises(ConfigError, match=said):
        trainer.train()
    assert not trainer.save_dir.exists()


def test_the_metrics_that_are_declared_are_those_that_come(trained):
    trainer, _ = trained
    assert set(trainer.validator.metric_names) == set(trainer.validator.metrics)


def test_any_figure_of_validation_may_decide(shapes, tmp_path):
    trainer = DetectionTrainer(overrides=settings(shapes, tmp_path, monitor="metrics/F1", epochs=2))
    result = trainer.train()
    columns = read_results(trainer.paths.results_csv)[0]
    assert list(columns)[5:10] == [*headline_keys(), "metrics/F1"]
    assert result.metrics["metrics/F1"] == pytest.approx(
        max(row["metrics/F1"] for row in trainer.rows)
    )


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(RuntimeError) as caught:
        build_model("yolov8n", 2).load_state_dict({"extra.weight": torch.zeros(1)}, strict=True)
    assert cause_of(caught.value).startswith(
        ("Missing key(s) in state_dict", "Unexpected key(s) in state_dict")
    )


@pytest.mark.parametrize("freeze", [["backbone."], 10])
def test_frozen_parts_do_not_move(freeze, shapes, tmp_path):
    """The first ten layers of the family are its backbone."""
    trainer = DetectionTrainer(overrides=settings(shapes, tmp_path, freeze=freeze, ema=False))
    seen = {}
    trainer.add_callback(
        "on_train_start",
        lambda t: seen.update({k: v.clone() for k, v in t.model.state_dict().items()}),
    )
    trainer.train()
    after = trainer.model.state_dict()
    assert all(torch.equal(seen[k], after[k]) for k in seen if k.startswith("backbone."))
    assert not torch.equal(seen["head.cls.0.2.bias"], after["head.cls.0.2.bias"])
    assert not torch.equal(seen["neck.up4.cv1.conv.weight"], after["neck.up4.cv1.conv.weight"])


def test_numbered_layers_are_all_of_the_network_once():
    model = build_model("yolov8n", 2)
    layers = [layer for layer in model.numbered_layers if layer]
    for name, _ in model.named_parameters():
        assert sum(name.startswith(layer) for layer in layers) == 1, name
    assert len(model.numbered_layers) == 23 and layers[-1] == "head."
    learning = build_model("yolov8n", 2)
    frozen = freeze_parameters(learning, (0, 22))
    assert {name.split(".")[0] + "." for name in frozen} == {"backbone.", "head."}
    assert "backbone.stage2.0.conv.weight" not in frozen
    assert freeze_parameters(build_model("yolov8n", 2), (10, 11)) == []  # without parameters
    with pytest.raises(ConfigError, match="there is no layer 23: DetectionModel has 23 layers"):
        freeze_parameters(build_model("yolov8n", 2), (23,))
    with pytest.raises(ConfigError, match="layers of Linear have no numbers; name what does not"):
        freeze_parameters(torch.nn.Linear(2, 2), 1)
