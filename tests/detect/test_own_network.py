"""Networks of a user's own trainer class: which outputs are read, which losses are added, and what
is said of others.
"""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from engine.config import DetectionTrainConfig
from engine.detect import DetectionTrainer
from engine.detect.batches import image_targets
from engine.detect.candidates import read_candidates
from engine.detect.choose import make_trainer, trainer_class_of
from engine.detect.model_io import load_model
from engine.detect.validator import DetectionValidator
from engine.errors import CheckpointError, ConfigError, TrainingError
from engine.models.yolov8 import Preds, build_model
from engine.types import Batch


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


class ThreeTrainer(DerivedTrainer):
    """`candidates` of another form than validation takes."""

    def candidates(self, preds):
        boxes, scores = super().candidates(preds)
        return boxes, scores, scores.argmax(-1)


class TakesNoConfig(DerivedTrainer):
    def __init__(self, overrides):
        super().__init__(overrides)


class TakesNoWeights(DetectionTrainer):
    def get_model(self, cfg):
        return build_model(cfg, len(self.names))


class ModelOfOtherNames(DetectionTrainer):
    def forward(self, network, images):
        return network(images)


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


def test_candidates_of_another_form_stop_the_run_at_its_first_batch(shapes, tmp_path):
    trainer, batches = ThreeTrainer(overrides=settings(shapes, tmp_path, model="yolov8n")), []
    trainer.add_callback("on_train_batch_start", lambda t: batches.append(t.batch_index))
    with pytest.raises(
        TrainingError,
        match=r"ThreeTrainer.candidates returned tuple of Tensor \(4, 84, 4\), Tensor \(4, 84, 2\), "
        r"Tensor \(4, 84\)\. Wanted for a batch of 4 images and 2 classes: boxes \(4, N, 4\)",
    ):
        trainer.train()
    assert batches == [0]


class RawValidator(DetectionValidator):
    """Reads the output of the network itself: `candidates` is not asked."""

    def postprocess(self, preds):
        none = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
        return [none for _ in preds.scores]


class RawTrainer(ThreeTrainer):
    validator_class = RawValidator


def test_candidates_that_validation_does_not_ask_for_may_have_any_form(shapes, tmp_path):
    result = RawTrainer(overrides=settings(shapes, tmp_path, model="yolov8n")).train()
    assert result.metrics["metrics/mAP50"] == 0


def test_the_look_at_the_first_output_leaves_no_trace(shapes, tmp_path, monkeypatch):
    """Norms, modes and random numbers are as if it had not been."""
    plain = settings(shapes, tmp_path, model="yolov8n", freeze=["backbone"])
    looked = DerivedTrainer(overrides=plain).train()
    monkeypatch.setattr("engine.detect.first_output.is_built_in", lambda family: True)
    unlooked = DerivedTrainer(overrides=plain).train()
    ours, theirs = (load_model(result.best).state for result in (looked, unlooked))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("trainer_class", "said"),
    [
        (
            "TakesNoConfig",
            r"TakesNoConfig cannot be made with config=: .*overrides=None, config=No",
        ),
        ("TakesNoWeights", r"get_model is called with cfg, weights and cannot take them: .*"),
        ("ModelOfOtherNames", r"Write it as def forward\(self, model, batch\)"),
    ],
)
def test_a_method_that_cannot_be_called_is_named_before_anything_is_read(trainer_class, said):
    config = DetectionTrainConfig(
        model="yolov8n", data="nowhere", trainer=f"{__name__}:{trainer_class}"
    )
    with pytest.raises(ConfigError, match=said):
        make_trainer(config)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("torch.nn:Conv2d", "is the class Conv2d, not a class derived from a trainer"),
        ("math:pi", "is a value of type float, not a class derived from a trainer"),
        (
            "engine.models.yolov8.family:YOLOv8Family",
            "is a family of networks, not a trainer: give model=engine.models.yolov8.family:YOLOv8",
        ),
    ],
)
def test_what_is_no_trainer_is_named_and_a_family_sent_to_model(path, said):
    with pytest.raises(ConfigError, match=said):
        trainer_class_of(path)


def test_weights_of_a_class_that_cannot_be_made_say_so(shapes, tmp_path):
    result = TakesNoConfig(settings(shapes, tmp_path, model="yolov8n")).train()
    with pytest.raises(CheckpointError, match="cannot load its weights: TakesNoConfig cannot be"):
        load_model(result.best)


class ShortTrainer(DerivedTrainer):
    """Killed after its first epoch."""

    def save_model(self):
        super().save_model()
        raise KeyboardInterrupt


def test_a_run_of_a_class_resumed_without_it_says_how_to_go_on(shapes, tmp_path):
    """On the command line: `detectflow train project=... name=... resume=true`."""
    trainer = ShortTrainer(overrides=settings(shapes, tmp_path, model="yolov8n", epochs=2))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    again = {"project": str(tmp_path), "name": "train", "resume": True, "device": "cpu"}
    for more in ({}, {"model": str(trainer.last)}):
        with pytest.raises(ConfigError) as caught:
            trainer_class_of(None)(config=DetectionTrainConfig(**again, **more))
        assert (
            f"holds a network that the class {__name__}:ShortTrainer makes, and this is "
            "DetectionTrainer. Go on with that run in Python" in str(caught.value)
        )
        assert f"ShortTrainer(overrides={{'model': {str(trainer.last)!r}" in str(caught.value)
    assert ShortTrainer(overrides=again).network.family.name.endswith(":ShortTrainer")


def test_multi_scale_asks_the_network_which_sizes_it_takes():
    asked = {"model": "torchvision:ssd300_vgg16", "imgsz": 300, "multi_scale": 0.5, "device": "cpu"}
    trainer = DetectionTrainer(overrides={**asked, "data": "nowhere"})
    none = torch.zeros(0, 1), torch.zeros(0, 4), torch.zeros(0)
    images = torch.zeros(1, 3, 300, 300, dtype=torch.uint8)
    plain = Batch(img=images, cls=none[0], bboxes=none[1], batch_idx=none[2])
    seen = set()
    for trainer.batch_index in range(20):
        batch = trainer.preprocess_batch(plain)
        seen.add(tuple(batch["img"].shape[-2:]))
    assert min(seen) == (288, 288) and len(seen) > 3
    largest = trainer.probe_batch(plain)
    assert tuple(largest["img"].shape[-2:]) == (448, 448) >= max(seen)


def test_a_size_of_ones_own_stride_is_checked_before_data_are_read(tmp_path):
    with pytest.raises(ConfigError, match="multiple of 32.*got 80, try 64 or 96"):
        DerivedTrainer(overrides={"model": "yolov8n", "imgsz": 80, "data": str(tmp_path)})
