"""The same metrics alone and in training, whatever the batch size and the file; tables and
plots; classes that must agree; a split without boxes says nothing rather than 0.
"""

import csv
import logging

import numpy as np
import pytest
from detectors import random_detector, save_detector

from engine.config import DataConfig, ExportConfig
from engine.core.results import read_results
from engine.core.run_lock import LOCK_FILE
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.detect import DetectionTrainer, DetectionValidator
from engine.detect.batches import record_of
from engine.detect.model_io import load_model
from engine.errors import CheckpointError, ConfigError, DataError
from engine.export import export
from engine.metrics import MatchTable
from engine.models.yolov8.family import YOLOv8Family


@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_alone_and_in_training_the_metrics_are_the_same(trained, shapes, batch):
    _, result = trained
    alone = DetectionValidator(overrides={"split": "val", "batch": batch})(
        model=result.best, data=shapes
    )
    for name, value in alone.items():
        assert value == pytest.approx(result.metrics.get(name), abs=1e-6), name
    assert (
        alone["metrics/mAP50"] > 0.1
        and alone["metrics/AR100"] > 0.1
        and alone["metrics/mAP-large"] is None
    )


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (128, 64)])
def test_neither_batch_size_nor_a_rectangular_input_changes_the_metrics(
    trained, shapes, tmp_path, size
):
    weights = save_detector(tmp_path / "best.pt", load_model(trained[1].best).module, size=size)
    by_batch = {}
    for batch in (1, 3, 16):
        validator = DetectionValidator(overrides={"split": "test", "batch": batch})
        by_batch[batch] = validator(model=weights, data=shapes)
        assert next(iter(validator.loader))["img"].shape == (min(batch, 6), 3, *size)
    assert by_batch[1]["metrics/mAP50"] > 0.1
    for batch in (3, 16):
        assert by_batch[batch] == pytest.approx(by_batch[1], abs=1e-6)


def test_an_exported_file_has_the_metrics_of_its_weights(trained, shapes, tmp_path):
    weights = trained[1].best
    settings = {"split": "test", "batch": 4}
    truth = DetectionValidator(overrides=settings)(model=weights, data=shapes)
    file = export(
        weights, "onnx", tmp_path, ExportConfig(check_images=1, dynamic=False)
    ).path  # takes one image at a time
    assert DetectionValidator(overrides=settings)(model=file, data=shapes) == pytest.approx(
        truth, abs=1e-3
    )


def test_the_truth_of_a_batch_is_that_of_the_file(trained):
    trainer, _ = trained
    loader = trainer.validator.loader
    by_file = {str(r.file): r for r in loader.dataset.records}
    for batch in loader:
        for i, file in enumerate(batch["im_file"]):
            mine, truth = record_of(batch, i), by_file[file]
            assert (
                mine.boxes == pytest.approx(truth.boxes, abs=1e-3)
                and mine.classes.tolist() == truth.classes.tolist()
            )


def test_tables_and_pictures_are_written(trained, shapes, tmp_path):
    validator = DetectionValidator(overrides={"split": "test"}, save_dir=tmp_path / "new")
    metrics = validator(model=trained[1].best, data=shapes)
    assert {p.name for p in (tmp_path / "new").iterdir()} == {
        "per_class.csv",
        "per_image.csv",
        "matches.npz",
        "PR_curve.png",
        "F1_curve.png",
        "P_curve.png",
        "R_curve.png",
        "confusion_matrix.png",
        "confusion_matrix.csv",
        "val_batch0_labels.jpg",
        "val_batch0_pred.jpg",
    }
    with open(tmp_path / "new" / "per_class.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["square", "disc"]
    assert sum(float(row["ap"]) for row in rows) / 2 == pytest.approx(
        metrics["metrics/mAP50-95"], abs=1e-5
    )
    assert validator.scores.images == 6
    assert (
        set(validator.speed_ms) == {"preprocess", "inference", "postprocess"}
        and min(validator.speed_ms.values()) > 0
    )
    with open(tmp_path / "new" / "per_image.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["name", "n_gt", "n_pred", "tp", "fp", "fn", "ap50"]
    assert len(rows) == 6 and all(int(r["tp"]) + int(r["fn"]) == int(r["n_gt"]) == 3 for r in rows)
    table = MatchTable.load(tmp_path / "new" / "matches.npz")
    assert table.mean_ap() == pytest.approx(metrics["metrics/mAP50-95"], abs=1e-12)
    assert [r["name"] for r in rows] == list(table.images) and table.names == ("square", "disc")
    with open(tmp_path / "new" / "confusion_matrix.csv") as stream:
        head, *body = csv.reader(stream)
    assert head == ["true", "square", "disc", "background"] and [r[0] for r in body] == head[1:]
    assert [[int(n) for n in row[1:]] for row in body] == validator.scores.confusion.tolist()
    first = np.arange(6) == 0
    assert float(rows[0]["ap50"]) == pytest.approx(table.mean_ap(first, iou=0.5), abs=1e-5)


@pytest.fixture
def unlabelled(make_shapes, tmp_path):
    """Prepared shapes whose validation and test images have no boxes."""
    folder = make_shapes(tmp_path / "bare", {"train": 4, "val": 3, "test": 3})
    for split in ("val", "test"):
        for label in (folder / "labels" / split).iterdir():
            label.write_text("")
    settings = DataConfig(policies={"split_without_boxes": "warn"})
    prepare(load_description(folder), tmp_path / "prepared", settings)
    return tmp_path / "prepared"


def test_nothing_to_find_is_none_and_a_sentence_never_zero(trained, unlabelled, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        metrics = DetectionValidator(overrides={"split": "test"}, save_dir=tmp_path / "out")(
            model=trained[1].best, data=unlabelled
        )
    assert set(metrics.values()) == {None} and {
        "metrics/mAP50",
        "metrics/mAP50-95",
        "metrics/F1",
    } <= set(metrics)
    assert "split 'test': no boxes to find in its 3 images" in caplog.text
    with open(tmp_path / "out" / "per_image.csv") as stream:
        assert {(row["n_gt"], row["ap50"]) for row in csv.DictReader(stream)} == {("0", "")}
    plots = {file.name for file in (tmp_path / "out").iterdir() if file.suffix in {".png", ".jpg"}}
    assert {
        "PR_curve.png",
        "F1_curve.png",
        "confusion_matrix.png",
        "val_batch0_pred.jpg",
    } <= plots
    assert {
        row["ap"]
        for row in csv.DictReader((tmp_path / "out" / "per_class.csv").read_text().splitlines())
    } == {""}


def test_training_without_anything_to_validate_on_keeps_its_newest_weights(
    unlabelled, tmp_path, caplog
):
    trainer = DetectionTrainer(
        overrides={
            "data": str(unlabelled),
            "imgsz": 64,
            "epochs": 2,
            "batch": 4,
            "project": str(tmp_path),
            "device": "cpu",
        }
    )
    with caplog.at_level(logging.INFO):
        result = trainer.train()
    assert (
        "precision - recall - mAP50 - mAP50-95 -" in caplog.text
        and (result.save_dir / "results.png").exists()
    )
    assert caplog.text.count("no boxes to find") == 1 and result.best_epoch == 2
    assert "metrics/mAP50" not in result.metrics
    rows = read_results(result.save_dir / "results.csv")
    assert (
        len(rows) == 2
        and "metrics/mAP50" not in rows[0]
        and "metrics/mAP50" in ((result.save_dir / "results.csv").read_text().splitlines()[0])
    )


def test_other_classes_are_refused_by_name(trained, make_shapes, tmp_path):
    other = make_shapes(
        tmp_path / "other", {"train": 2, "val": 2, "test": 2}, names=("disc", "square")
    )
    with pytest.raises(DataError, match="Model: square, disc. Dataset: disc, square"):
        DetectionValidator()(model=trained[1].best, data=other)


def test_a_model_of_one_class_does_not_merge_the_classes_of_others(shapes, make_shapes, tmp_path):
    with pytest.raises(DataError, match="Model: blob. Dataset: square, disc"):
        from engine.core.checkpoint import Checkpoint, save_checkpoint
        from engine.detect.model_io import model_meta
        from engine.models.yolov8 import build_model

        model = build_model("yolov8n", 1)
        meta = model_meta(YOLOv8Family(), model.spec.to_dict(), "yolov8n", ("blob",), (64, 64), "")
        save_checkpoint(Checkpoint(meta, {}, model.state_dict()), tmp_path / "one.pt")
        DetectionValidator()(model=tmp_path / "one.pt", data=shapes)


def test_a_split_without_images_names_those_that_have_some(trained, make_shapes, tmp_path):
    folder = make_shapes(tmp_path / "two", {"train": 4, "val": 3})
    said = (
        r"no images in the split 'test'\. There are: train \(4 images\), val \(3 images\)\. Choose "
        r"one with split="
    )
    with pytest.raises(DataError, match=said):
        DetectionValidator()(model=trained[1].best, data=folder)


def test_the_weights_of_a_run_under_way_can_be_validated(shapes, tmp_path):
    """The run holds the lock of its folder; reading neither needs it nor leaves anything there."""
    trainer = DetectionTrainer(
        overrides={
            "data": str(shapes),
            "imgsz": 64,
            "epochs": 1,
            "batch": 4,
            "project": str(tmp_path),
            "device": "cpu",
            "plots": False,
            "verbose": False,
        }
    )
    metrics = []

    def validate(t):
        before = sorted(t.save_dir.rglob("*"))
        metrics.append(
            DetectionValidator(overrides={"split": "val"})(model=t.best, data=shapes)[
                "metrics/mAP50"
            ]
        )
        assert (t.save_dir / LOCK_FILE).exists() and sorted(t.save_dir.rglob("*")) == before

    trainer.add_callback("on_fit_epoch_end", validate)
    assert metrics == [trainer.train().metrics["metrics/mAP50"]]


def test_mistakes_are_explained(tmp_path, shapes):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        DetectionValidator()(model=tmp_path / "no.pt", data=shapes)
    with pytest.raises(ConfigError, match="nothing to validate: give model="):
        DetectionValidator()(data=shapes)
    with pytest.raises(ConfigError, match=r"not known: DetectionValidator\(names=...\)"):
        DetectionValidator()(model=random_detector(), data=shapes)
    with pytest.raises(ConfigError, match="Did you mean 'split'"):
        DetectionValidator(overrides={"splitt": "val"})


def test_one_class_for_all(shapes, tmp_path):
    trainer = DetectionTrainer(
        overrides={
            "data": str(shapes),
            "imgsz": 64,
            "epochs": 1,
            "batch": 4,
            "project": str(tmp_path),
            "single_cls": True,
            "verbose": False,
            "device": "cpu",
            "plots": False,
        }
    )
    result = trainer.train()
    assert trainer.names == ("object",)
    alone = DetectionValidator(overrides={"split": "val"})(model=result.best, data=shapes)
    assert alone["metrics/mAP50"] == pytest.approx(result.metrics["metrics/mAP50"], abs=1e-6)
