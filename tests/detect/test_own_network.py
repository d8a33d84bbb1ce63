"""Networks of a user's own trainer class: which outputs are read, which losses are added, and what
is said of others.
"""

import pytest
import torch
import torchvision
from torch import nn

from engine.detect import DetectionTrainer
from engine.detect.batches import image_targets
from engine.detect.candidates import read_candidates
from engine.detect.model_io import load_model
from engine.errors import CheckpointError, ConfigError, TrainingError
from engine.models.yolov8 import Preds, build_model


class StockTrainer(DetectionTrainer):
    """A detector of torchvision's as it comes: its losses in training, its dictionaries in eval
    mode.
    """

    loss_names = ("bbox_regression", "classification")

    def get_model(self, cfg, weights):
        model = torchvision.models.get_model(
            cfg, weights=None, weights_backbone=None, num_classes=len(self.names) + 1
        )
        model.transform.fixed_size = self.args.input_size[::-1]
        return model

    def forward(self, model, batch):
        return model(list(batch["img"]), image_targets(batch) if model.training else None)


class UntoldTrainer(StockTrainer):
    loss_names = ("box", "class")


class DerivedTrainer(DetectionTrainer):
    """A network that changes ours: it is its own, although it is made of our parts."""

    def get_model(self, cfg, weights):
        class Doubled(type(build_model("yolov8n", 1))):
            def forward(self, x):
                preds = super().forward(x)
                return preds._replace(scores=2 * preds.scores)

        from engine.models.yolov8 import find_spec

        return Doubled(find_spec(cfg), len(self.names))


class WrongTrainer(DetectionTrainer):
    def get_model(self, cfg, weights):
        return nn.Conv2d(3, 8, 3)


def settings(shapes, tmp_path, **changes):
    return {
        "model": "ssdlite320_mobilenet_v3_large",
        "data": str(shapes),
        "imgsz": 64,
        "epochs": 1,
        "batch": 4,
        "fraction": 0.5,
        "project": str(tmp_path),
        "verbose": False,
        "device": "cpu",
        "plots": False,
        **changes,
    }


def test_a_stock_detector_of_torchvision_needs_no_more_code(shapes, tmp_path):
    trainer = StockTrainer(overrides=settings(shapes, tmp_path))
    result = trainer.train()
    assert set(trainer.rows[0]) >= {"train/bbox_regression", "train/classification"}
    assert not [name for name in trainer.rows[0] if name.startswith("val/")]  # eval gives boxes
    assert result.metrics["metrics/mAP50"] is not None
    loaded = load_model(result.best)
    assert loaded.family.name == f"{__name__}:StockTrainer" and loaded.names == ("square", "disc")
    boxes, scores = loaded.family.candidates(
        loaded.family.forward(loaded.module, {"img": torch.rand(2, 3, 64, 64)})
    )
    assert boxes.shape == (*scores.shape[:2], 4) and scores.shape[-1] == 2


def test_losses_of_other_names_are_named_as_they_are_to_be_written(shapes, tmp_path):
    with pytest.raises(TrainingError) as caught:
        UntoldTrainer(overrides=settings(shapes, tmp_path)).train()
    assert str(caught.value).endswith("loss_names = ('bbox_regression', 'classification')")


def test_an_output_that_nobody_reads_is_answered_with_the_method_to_override(shapes, tmp_path):
    with pytest.raises(TrainingError, match=r"Tensor \(4, 8, 62, 62\).*override criterion\(preds"):
        WrongTrainer(overrides=settings(shapes, tmp_path)).train()
    with pytest.raises(TrainingError, match=r"Tensor \(1, 8\).*Override candidates\(preds\)"):
        read_candidates(torch.zeros(1, 8), 2)
    pair = torch.zeros(1, 5, 4), torch.zeros(1, 5, 3)
    with pytest.raises(TrainingError, match="scores for 3 classes, and there are 2"):
        read_candidates(pair, 2)
    assert read_candidates(pair, 3)[1].shape == (1, 5, 3)


def test_a_network_derived_from_ours_is_not_taken_for_ours(shapes, tmp_path):
    result = DerivedTrainer(overrides=settings(shapes, tmp_path, model="yolov8n")).train()
    loaded = load_model(result.best)
    assert loaded.family.name.endswith(":DerivedTrainer")
    images = torch.rand(1, 3, 64, 64)
    plain = build_model("yolov8n", 2).eval()
    plain.load_state_dict(loaded.module.state_dict())
    with torch.no_grad():
        assert isinstance(plain(images), Preds)
        assert torch.equal(loaded.module(images).scores, 2 * plain(images).scores)


def test_a_class_within_a_function_trains_and_its_file_says_why_it_cannot_be_loaded(
    shapes, tmp_path
):
    class Local(DerivedTrainer):
        pass

    result = Local(overrides=settings(shapes, tmp_path, model="yolov8n")).train()
    with pytest.raises(
        CheckpointError, match="Local, and that code is not at hand: .*package.module:Name"
    ):
        load_model(result.best)


def test_a_size_of_ones_own_stride_is_checked_before_data_are_read(tmp_path):
    with pytest.raises(ConfigError, match="multiple of 32.*got 80, try 64 or 96"):
        DerivedTrainer(overrides={"model": "yolov8n", "imgsz": 80, "data": str(tmp_path)})
