"""Batches from a loader of the user's own: what is needed, what is filled in, and what an executor
must not do to them.
"""

import pytest
import torch

from engine.boxes import xywh_to_xyxy
from engine.detect import DetectionTrainer
from engine.detect.batches import image_targets, to_device
from engine.errors import ConfigError, DataError
from engine.types import Batch

CPU = torch.device("cpu")


def own_batch(**changes):
    """Two images of 64 x 96 px, one box in the first and two in the second, in a plain
    dictionary.
    """
    return {
        "imgs": torch.full((2, 3, 64, 96), 51, dtype=torch.uint8),
        "bboxes": torch.tensor(
            [[0.5, 0.5, 0.25, 0.5], [0.25, 0.5, 0.5, 1.0], [0.75, 0.25, 0.5, 0.5]]
        ),
        "cls": torch.tensor([[1.0], [0.0], [1.0]]),
        "batch_idx": torch.tensor([0.0, 1.0, 1.0]),
        **changes,
    }


class Loader(list):
    """Batches in a list: the plainest loader there is."""


def trainer_with(batches_by_mode, overrides):
    class Trainer(DetectionTrainer):
        def get_dataloader(self, dataset_path, batch_size, mode="train", rank=0):
            return Loader(batches_by_mode[mode])

    return Trainer(overrides=overrides)


def test_bytes_are_scaled_floats_are_taken_as_they_are_and_the_loaders_own_batch_stays():
    mine = own_batch()
    ready = to_device(mine, CPU)
    assert (
        isinstance(ready, Batch)
        and ready["imgs"] is ready["img"]
        and ready["img"].dtype == torch.float32
    )
    assert (
        torch.allclose(ready["img"], torch.tensor(0.2))
        and mine["imgs"].dtype == torch.uint8
        and "img" not in mine
    )
    assert torch.equal(to_device(own_batch(imgs=ready["img"]), CPU)["img"], ready["img"])
    assert ready["ori_shape"] == ((64, 96),) * 2 and ready["ratio_pad"][0].ratio == (1, 1)


def test_image_targets_are_in_pixels_with_labels_from_one():
    first, second = image_targets(to_device(own_batch(), CPU))
    assert first["boxes"].tolist() == [[36, 16, 60, 48]] and first["labels"].tolist() == [2]
    assert second["boxes"].tolist() == [[0, 0, 48, 64], [48, 0, 96, 32]] and second[
        "labels"
    ].tolist() == [1, 2]
    empty = own_batch(bboxes=torch.zeros(0, 4), cls=torch.zeros(0, 1), batch_idx=torch.zeros(0))
    assert [one["boxes"].shape for one in image_targets(to_device(empty, CPU))] == [(0, 4), (0, 4)]
    assert image_targets(to_device(own_batch(), CPU), first_label=0)[1]["labels"].tolist() == [0, 1]


@pytest.mark.parametrize("key", ["imgs", "cls", "bboxes", "batch_idx"])
def test_a_missing_key_is_named(key):
    mine = own_batch()
    del mine[key]
    with pytest.raises(
        DataError, match=f"lacks {key.removesuffix('s') if key == 'imgs' else key}; it has "
    ):
        to_device(mine, CPU)


def test_a_list_of_batches_trains_and_validates_epoch_after_epoch(tiny):
    """The same objects come again every epoch, so nothing may be written into them."""
    train, val = (
        [own_batch(), own_batch()],
        [own_batch(im_file=["a", "b"]), own_batch(im_file=["c", "d"])],
    )
    trainer = trainer_with(
        {"train": train, "val": val}, tiny(epochs=2, imgsz=[64, 96], multi_scale=0.5)
    )
    shown = []
    trainer.add_callback("on_train_batch_end", lambda t: shown.append(float(t.batch["img"].mean())))
    result = trainer.train()
    assert shown == pytest.approx([0.2] * 4) and train[0]["imgs"].dtype == torch.uint8
    assert trainer.validator.scores.images == 4 and trainer.validator.scores.instances == 6
    assert result.epochs == 2


def test_the_truth_of_such_a_batch_is_its_boxes_in_pixels(tiny):
    from engine.detect.batches import record_of

    record = record_of(to_device(own_batch(im_file=["a", "b"]), CPU), 1)
    boxes = xywh_to_xyxy(own_batch()["bboxes"][1:]) * torch.tensor([96, 64, 96, 64])
    assert (
        record.boxes == pytest.approx(boxes.numpy())
        and record.classes.tolist() == [0, 1]
        and record.size == (64, 96)
    )


def test_validation_wants_to_know_the_images_apart(tiny):
    trainer = trainer_with({"train": [own_batch()], "val": [own_batch()]}, tiny(imgsz=[64, 96]))
    with pytest.raises(DataError, match="lacks im_file, one path or name for each image"):
        trainer.train()


@pytest.mark.parametrize("names", [("low", "high"), ()])
def test_a_dataset_of_ones_own_sets_the_class_names(tiny, names):
    class Trainer(DetectionTrainer):
        def get_dataset(self, data):
            assert data == "nowhere on disk"
            self.names = names
            return {"train": [own_batch()], "val": [own_batch(im_file=["a", "b"])]}

        def get_dataloader(self, dataset_path, batch_size, mode="train", rank=0):
            return Loader(dataset_path)

    trainer = Trainer(overrides=tiny(data="nowhere on disk", imgsz=[64, 96], plots=True))
    if not names:
        with pytest.raises(
            ConfigError, match="no class names: a get_dataset of your own sets self.names"
        ):
            trainer.train()
        return
    result = trainer.train()
    assert result.data_digest == "" and trainer.validator.scores.instances == 3
    assert {row["name"] for row in trainer.validator.scores.per_class} == set(names)
    assert (result.save_dir / "train_batch0.jpg").is_file() and (
        result.save_dir / "val_batch0_pred.jpg"
    ).is_file()
