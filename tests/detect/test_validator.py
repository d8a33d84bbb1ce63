"""The same figures alone and in training, whatever the batch size; tables and pictures; classes that must agree."""

import csv

import pytest

from engine.detect import DetectionTrainer, DetectionValidator
from engine.detect.batches import record_of
from engine.errors import CheckpointError, ConfigError, DataError


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_alone_and_in_training_the_figures_are_the_same(trained, shapes, batch):
    _, result = trained
    alone = DetectionValidator(overrides={"split": "val", "batch": batch})(model=result.best, data=shapes)
    for name, value in alone.items():
        assert value == pytest.approx(result.metrics[name], abs=1e-6), name


def test_the_truth_of_a_batch_is_that_of_the_file(trained):
    trainer, _ = trained
    loader = trainer.validator.loader
    by_file = {str(r.file): r for r in loader.dataset.records}
    for batch in loader:
        for i, file in enumerate(batch["im_file"]):
            mine, truth = record_of(batch, i), by_file[file]
            assert mine.boxes == pytest.approx(truth.boxes, abs=1e-3) and mine.classes.tolist() == truth.classes.tolist()


def test_tables_and_pictures_are_written(trained, shapes, tmp_path):
    validator = DetectionValidator(overrides={"split": "test"}, save_dir=tmp_path / "new")
    figures = validator(model=trained[1].best, data=shapes)
    assert {p.name for p in (tmp_path / "new").iterdir()} == {
        "per_class.csv", "per_image.csv", "PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png", "confusion_matrix.png",
        "val_batch0_labels.jpg", "val_batch0_pred.jpg",
    }  # fmt: skip
    with open(tmp_path / "new" / "per_class.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["square", "disc"]
    assert sum(float(row["ap"]) for row in rows) / 2 == pytest.approx(figures["metrics/mAP50-95"], abs=1e-5)
    assert validator.scores.images == 6 and validator.speed_ms["inference"] > 0


def test_other_classes_are_refused_by_name(trained, make_shapes, tmp_path):
    other = make_shapes(tmp_path / "other", {"train": 2, "val": 2, "test": 2}, names=("disc", "square"))
    with pytest.raises(DataError, match="Model: square, disc. Dataset: disc, square"):
        DetectionValidator()(model=trained[1].best, data=other)


def test_a_model_of_one_class_does_not_merge_the_classes_of_others(shapes, make_shapes, tmp_path):
    with pytest.raises(DataError, match="Model: blob. Dataset: square, disc"):
        from engine.detect.model_io import model_meta
        from engine.kernel.checkpoint import Checkpoint, save_checkpoint
        from engine.parts.model import build_model

        model = build_model("yolov8n", 1)
        meta = model_meta(model.spec, ("blob",), (64, 64), "", "")
        save_checkpoint(Checkpoint(meta, {}, model.state_dict()), tmp_path / "one.pt")
        DetectionValidator()(model=tmp_path / "one.pt", data=shapes)


def test_mistakes_are_explained(tmp_path, shapes):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        DetectionValidator()(model=tmp_path / "no.pt", data=shapes)
    with pytest.raises(ConfigError, match="Did you mean 'split'"):
        DetectionValidator(overrides={"splitt": "val"})


def test_one_class_for_all(shapes, tmp_path):
    trainer = DetectionTrainer(overrides={
        "data": str(shapes), "imgsz": 64, "epochs": 1, "batch": 4, "project": str(tmp_path), "single_cls": True,
        "verbose": False, "device": "cpu", "plots": False,
    })  # fmt: skip
    result = trainer.train()
    assert trainer.names == ("object",)
    alone = DetectionValidator(overrides={"split": "val"})(model=result.best, data=shapes)
    assert alone["metrics/mAP50"] == pytest.approx(result.metrics["metrics/mAP50"], abs=1e-6)
