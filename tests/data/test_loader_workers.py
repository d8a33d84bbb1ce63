"""Loader processes that are killed while they work: the same batches, or in the end one
sentence.
"""

import hashlib
import logging
import multiprocessing
import os
import re
import signal

import cv2
import numpy as np
import pytest
import torch

from engine.data import loader as module
from engine.data.dataset import DetectionDataset
from engine.data.loader import build_loader
from engine.data.transforms import Augment
from engine.errors import DataError
from engine.types import ImageRecord

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    made = []
    for i in range(
        40
    ):  # 20 batches, of which 4 at most are ahead: a killed worker is always missed
        file = folder / f"{i}.png"
        cv2.imwrite(str(file), np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8))
        made.append(
            ImageRecord(
                file,
                hashlib.sha256(file.read_bytes()).hexdigest(),
                (48, 64),
                np.array([[4.0, 4, 40, 40]]),
                np.zeros(1, np.int64),
            )
        )
    return made


def batches(loader, kill_after=()):
    """(content, names) of each batch of epoch 1; after those of `kill_after` one worker is
    killed.
    """
    loader.sampler.set_epoch(1)
    found = []
    for number, batch in enumerate(loader):
        found.append((batch["img"].numpy().tobytes(), tuple(batch["im_file"])))
        if number in kill_after:
            mine = {worker.pid for worker in loader._iterator._workers}
            workers = [p.pid for p in multiprocessing.active_children() if p.pid in mine]
            if workers:  # those killed before may not have been missed yet
                os.kill(workers[number % len(workers)], signal.SIGKILL)
    return found


def make(records, workers, **options):
    return build_loader(
        DetectionDataset(records, 48, Augment(mixup=0.3), seed=5, mosaic_until_epoch=2),
        2,
        shuffle=True,
        workers=workers,
        **options,
    )


@pytest.mark.parametrize("pinned", [False, True])
def test_killed_workers_are_replaced_and_the_batches_are_the_same(records, caplog, pinned):
    expected = batches(make(records, 0))
    loader = make(records, 2, pin_memory=pinned and torch.cuda.is_available())
    with caplog.at_level(logging.WARNING, "detectflow"):
        assert batches(loader, kill_after=(1, 12)) == expected
    said = re.findall(
        r"loader process \d+ was ended by signal 9; new ones go on after batch (\d+)", caplog.text
    )
    assert len(said) == 2 and loader.sampler.start == 0
    assert batches(loader) == expected  # an epoch later nothing is left of it
    loader.close()


def test_a_worker_that_dies_again_and_again_is_reported(records, monkeypatch):
    monkeypatch.setattr(module, "MOST_DEATHS", 1)
    monkeypatch.setattr(module, "NOTICE_S", 5.0)
    loader = make(records, 2, prefetch_batches=1)
    said = (
        r"loader process \d+ was ended by signal 9, and 1 before it in this epoch: mostly because "
        r"memory runs out\. Give fewer"
    )
    with pytest.raises(DataError, match=said):
        batches(loader, kill_after=range(16))
    loader.close()


def test_an_error_of_another_kind_passes(records, monkeypatch):
    monkeypatch.setattr(module, "NOTICE_S", 0.1)
    loader = make(records, 0)
    loader.collate_fn = lambda samples: 1 / 0
    with pytest.raises(ZeroDivisionError):
        batches(loader)

    def broken(samples):
        raise RuntimeError("mine")

    loader = make(records, 0)
    loader.collate_fn = broken
    with pytest.raises(RuntimeError, match="mine"):
        batches(loader)
