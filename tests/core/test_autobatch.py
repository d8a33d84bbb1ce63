"""How many images fit: the line through measurements by hand and by property, the search on a
memory that is made up.
"""

import logging

import pytest
import torch
from classifier import ClassifierTrainer, assert_same_run, make, settings_of
from hypothesis import given
from hypothesis import strategies as st

from engine.config import TrainConfig
from engine.core.autobatch import (
    PROBED_BATCHES,
    STEPS_PER_EPOCH,
    find_batch,
    fit_batch,
)
from engine.core.events import TRAIN_EVENTS
from engine.data.loader import scaled_size
from engine.detect import DetectionTrainer
from engine.errors import ConfigError, TrainingError

MIB = 2**20


def test_a_line_by_hand():
    # 100 bytes and 10 more for each image: 1000 bytes hold 90 images.
    assert fit_batch([(2, 120), (4, 140), (8, 180)], 1000) == 90
    assert fit_batch([(2, 120), (4, 140)], 1009) == 90
    assert fit_batch([(2, 120), (4, 140)], 109) == 0
    # Not on a line: least squares through (1, 10), (2, 40), (3, 40) is 15 x, and 100 / 15 is 6 and
    # something.
    assert fit_batch([(1, 10), (2, 40), (3, 40)], 100) == 6


def test_without_growth_no_more_is_claimed_than_was_measured():
    assert fit_batch([(2, 120)], 1000) == 2
    assert fit_batch([(2, 120)], 100) == 0
    assert fit_batch([(2, 120), (4, 120), (8, 120)], 1000) == 8
    assert fit_batch([(2, 140), (4, 130)], 135) == 4


@given(
    base=st.integers(0, 10**10),
    each=st.integers(1, 10**9),
    budget=st.integers(0, 10**12),
    sizes=st.sets(st.integers(1, 64), min_size=2),
)
def test_on_a_line_the_answer_is_exact(base, each, budget, sizes):
    found = fit_batch([(n, base + each * n) for n in sizes], budget)
    assert found == max((budget - base) // each, 0)


class Memory:
    """A made-up GPU: `base` bytes and `each` more per image; more than `capacity` is out of
    memory.
    """

    def __init__(self, capacity, base=100 * MIB, each=10 * MIB):
        self.capacity, self.base, self.each = capacity, base, each
        self.peak, self.steps = 0, []

    def capacity_bytes(self):
        return self.capacity

    def start(self):
        self.peak = 0

    def peak_bytes(self):
        return self.peak

    def step(self, images):
        self.steps.append(images)
        if self.base + self.each * images > self.capacity:
            raise torch.OutOfMemoryError("made up")
        self.peak = self.base + self.each * images


def test_a_fraction_of_the_memory_is_filled():
    memory = Memory(10_000 * MIB)
    assert find_batch(memory.step, memory, most=5000, fraction=0.7) == int(
        (10_000 * 0.7 - 100) // 10
    )
    assert memory.steps == list(PROBED_BATCHES)
    assert find_batch(memory.step, memory, most=5000, fraction=0.7, later_bytes=1000 * MIB) == int(
        (10_000 * 0.7 - 1100) // 10
    )
    assert find_batch(memory.step, memory, most=50, fraction=0.7) == 50
    assert find_batch(memory.step, memory, most=5000, fraction=0.5) == int((5000 - 100) // 10)


def test_it_stops_growing_where_the_memory_ends():
    memory = Memory(190 * MIB)  # 8 images are 180 MiB, 16 do not fit; 0.7 of it is 133
    assert find_batch(memory.step, memory, most=100, fraction=0.7) == 3
    assert memory.steps == [2, 4]
    tight = Memory(150 * MIB, base=0, each=40 * MIB)
    assert find_batch(tight.step, tight, most=100, fraction=0.7) == 2
    assert tight.steps == [2, 4]


def test_a_few_images_are_all_there_is_to_measure():
    memory = Memory(10_000 * MIB)
    assert find_batch(memory.step, memory, most=5, fraction=0.7) == 5
    assert memory.steps == [2, 4]
    assert find_batch(memory.step, memory, most=1, fraction=0.7) == 1


def test_a_gpu_that_holds_nothing_is_an_error():
    for memory in (Memory(50 * MIB), Memory(130 * MIB)):
        with pytest.raises(
            TrainingError,
            match=r"not even a batch of 2 fits the GPU's memory \(0\.[01] GiB are free\)",
        ):
            find_batch(memory.step, memory, most=100, fraction=0.7)


# --- in a run -------------------------------------------------------------------------------------


class Measured(ClassifierTrainer):
    """A classifier on a made-up GPU that sees how many images come."""

    def __init__(self, overrides, memory):
        super().__init__(overrides)
        self.meter = memory

    def probe_batch(self, batch):
        self.meter.step(len(batch["img"]))
        return super().probe_batch(batch)


def test_the_batch_that_was_found_makes_the_same_run_when_it_is_given(tmp_path, caplog):
    memory = Memory(
        180 * MIB
    )  # 2 * 10 + 100 <= 0.7 * 180 < 3 * 10 + 100; the weights need next to nothing
    trainer = Measured(settings_of(tmp_path, batch=-1, name="found"), memory)
    with caplog.at_level(logging.INFO, "detectflow"):
        trainer.train()
    assert trainer.batch_size == 2 and trainer.args.batch == -1
    assert "auto batch: 2 (as many as fit in 70 % of free GPU memory)" in caplog.text
    assert TrainConfig.load(tmp_path / "found" / "args.yaml").batch == 2
    make(tmp_path, batch=2, name="given").train()
    assert_same_run(tmp_path / "found", tmp_path / "given")


def test_an_epoch_keeps_some_steps_whatever_would_fit(tmp_path, caplog):
    trainer = Measured(settings_of(tmp_path, batch=-1), Memory(2**40))
    with caplog.at_level(logging.INFO, "detectflow"):
        trainer.train()
    assert trainer.batch_size == 40 // STEPS_PER_EPOCH
    assert (
        "auto batch: 4 (40 fit in 70 % of free GPU memory; limited to keep 10 steps per epoch)"
        in caplog.text
    )


def test_a_found_batch_resumes_with_the_same_words(tmp_path):
    plan = settings_of(tmp_path, batch=-1, epochs=4)
    Measured({**plan, "name": "whole"}, Memory(180 * MIB)).train()
    cut = Measured({**plan, "name": "cut"}, Memory(180 * MIB))
    cut.add_callback("on_fit_epoch_end", interrupt_after(2))
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    memory = Memory(10**12)  # now there is room for more: it is not asked again
    Measured({**plan, "name": "cut", "resume": True}, memory).train()
    assert not memory.steps
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def interrupt_after(epochs):
    def interrupt(trainer):
        if trainer.epoch + 1 == epochs:
            raise KeyboardInterrupt

    return interrupt


def test_a_detector_is_measured_at_the_largest_size_that_may_come(tmp_path):
    targets = {"cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4), "batch_idx": torch.zeros(0)}
    for gain in (0.0, 0.3, 0.5):
        trainer = DetectionTrainer(
            {"imgsz": (64, 96), "multi_scale": gain, "project": str(tmp_path), "device": "cpu"}
        )
        batch = {"img": torch.zeros(2, 3, 64, 96, dtype=torch.uint8), **targets}
        sizes = [scaled_size((64, 96), gain, seed=0, epoch=0, batch_index=i) for i in range(500)]
        probed = tuple(trainer.probe_batch(batch)["img"].shape[2:])
        assert (
            probed == max(sizes)
            and probed[0] == max(h for h, _ in sizes)
            and probed[1] == max(w for _, w in sizes)
        )


def test_without_a_gpu_a_number_is_asked_for(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"this run computes on a CPU: give a number, for example batch=16",
    ):
        make(tmp_path, batch=-1).train()


class TooBig(ClassifierTrainer):
    """Runs out of memory with more than `room` images, from some epoch on."""

    room, from_epoch = 8, 0

    def criterion(self, preds, batch):
        if len(preds) > self.room and self.epoch >= self.from_epoch and self.model.training:
            raise torch.OutOfMemoryError("made up")
        return super().criterion(preds, batch)


def without_batch(project, **changes):
    return {k: v for k, v in settings_of(project, **changes).items() if k != "batch"}


def test_out_of_memory_once_the_run_starts_again_with_half(tmp_path, caplog):
    trainer = TooBig(without_batch(tmp_path, name="halved"))
    starts = []
    trainer.add_callback("on_train_start", lambda t: starts.append(t.batch_size))
    trainer.train()
    assert starts == [16, 8] and trainer.batch_size == 8
    assert (
        "out of memory at epoch 1, batch 1, with batch=16; starting the run again with batch=8"
        in caplog.text
    )
    assert TrainConfig.load(tmp_path / "halved" / "args.yaml").batch == 8
    make(tmp_path, batch=8, name="given").train()
    assert_same_run(tmp_path / "halved", tmp_path / "given")


def test_what_fires_again_when_a_run_starts_over(tmp_path):
    """From the moment on at which model and optimizer are ready, for they are new; everything else
    exactly once.
    """
    trainer = TooBig(without_batch(tmp_path, epochs=1, warmup_epochs=0))
    seen, models = [], []
    for name in TRAIN_EVENTS:
        if "batch" not in name and name not in ("optimizer_step", "on_before_zero_grad"):
            trainer.add_callback(name, lambda _, name=name: seen.append(name))
    trainer.add_callback("on_pretrain_routine_end", lambda t: models.append(t.model))
    trainer.train()
    begin = ["on_pretrain_routine_end", "on_train_start", "on_train_epoch_start"]
    val = ["on_val_start", "on_val_end"]
    assert seen == [
        "on_pretrain_routine_start",
        *begin,
        *begin,
        "on_train_epoch_end",
        *val,
        "on_model_save",
        "on_fit_epoch_end",
        *val,
        "on_final_eval_end",
        "on_train_end",
        "teardown",
    ]
    assert len(models) == 2 and models[0] is not models[1] is trainer.model


def test_out_of_memory_after_the_first_epoch_was_recorded_leaves_no_line_of_it(tmp_path):
    """A callback at the end of the epoch may need the memory that is not there."""
    trainer = ClassifierTrainer(without_batch(tmp_path, name="run"))
    fails = iter([True])

    def draw(t):
        if next(fails, False):
            raise torch.OutOfMemoryError("made up")

    trainer.add_callback("on_fit_epoch_end", draw)
    result = trainer.train()
    assert [row["epoch"] for row in trainer.rows] == [1, 2, 3] and result.epochs == 3
    make(tmp_path, batch=8, name="given").train()
    assert_same_run(tmp_path / "run", tmp_path / "given")


def test_out_of_memory_twice_is_an_error(tmp_path):
    trainer = TooBig(without_batch(tmp_path))
    trainer.room = 7
    with pytest.raises(
        TrainingError, match="out of memory at epoch 1, batch 1, with batch=8: try batch=4"
    ):
        trainer.train()
    assert trainer.stop_reason == "exception"


def test_a_given_batch_is_never_changed(tmp_path):
    trainer = TooBig(settings_of(tmp_path, batch=16))
    with pytest.raises(TrainingError, match="with batch=16: try batch=8"):
        trainer.train()
    assert trainer.batch_size == 16


def test_the_error_names_what_fits_where_it_can_be_measured(tmp_path):
    class Both(Measured, TooBig):
        pass

    trainer = Both(settings_of(tmp_path, batch=16), Memory(200 * MIB))
    with pytest.raises(TrainingError, match="with batch=16: batch=3 fits"):
        trainer.train()


def test_out_of_memory_later_keeps_the_checkpoint_and_says_so(tmp_path):
    trainer = TooBig(without_batch(tmp_path, batch=16))
    trainer.from_epoch = 1
    with pytest.raises(
        TrainingError,
        match=r"at epoch 2, batch 1, with batch=16: try batch=8.* Weights so far: model=.*last\.pt",
    ):
        trainer.train()
    assert trainer.last.exists()
