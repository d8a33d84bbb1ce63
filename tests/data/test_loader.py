"""The order of batches (seed, epoch, rank, resume), the same bytes from any number of workers, and
their clean end.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.dataset import DetectionDataset
from engine.data.loader import EpochSampler, build_loader, class_balance_weights, scaled_size
from engine.data.transforms import Augment
from engine.errors import ConfigError, DataError
from engine.types import ImageRecord


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("data")
    made = []
    for i in range(10):
        file = folder / f"{i}.png"
        cv2.imwrite(str(file), rng.integers(0, 256, (48, 64, 3), np.uint8))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        boxes = np.array([[4, 4, 40, 40], [20, 10, 60, 44]], np.float64)[: i % 3]
        made.append(ImageRecord(file, digest, (48, 64), boxes, np.arange(len(boxes))))
    return made


def batches(loader, epoch: int, start: int = 0) -> list[tuple]:
    """Everything a batch holds, comparable."""
    loader.sampler.set_epoch(epoch)
    loader.sampler.set_start(start)
    return [
        tuple(
            v.numpy().tobytes() if isinstance(v, torch.Tensor) else v
            for _, v in sorted(batch.items())
        )
        for batch in loader
    ]


def training(records, **options) -> DetectionDataset:
    return DetectionDataset(
        records, 48, Augment(mixup=0.3), **{"seed": 5, "mosaic_until_epoch": 2, **options}
    )


# --- order ----------------------------------------------------------------------------------------


def sampler(n, batch_size, epoch=0, **options) -> EpochSampler:
    made = EpochSampler(n, batch_size, **{"shuffle": True, **options})
    made.set_epoch(epoch)
    return made


def test_an_epoch_is_a_permutation_of_its_own():
    orders = [list(sampler(50, 4, epoch)) for epoch in range(3)]
    assert all(sorted(orders[e]) == [(e, i) for i in range(50)] for e in range(3))
    assert len({tuple(i for _, i in order) for order in orders}) == 3
    assert list(sampler(50, 4, 1)) == orders[1]
    assert list(sampler(50, 4, 1, seed=1)) != orders[1]


def test_validation_is_in_order_and_keeps_its_last_batch():
    assert list(sampler(10, 4, 7, shuffle=False)) == [(7, i) for i in range(10)]


def test_drop_last_drops_only_where_something_is_left():
    assert len(list(sampler(10, 4, drop_last=True))) == len(sampler(10, 4, drop_last=True)) == 8
    assert len(list(sampler(3, 4, drop_last=True))) == 3


@pytest.mark.parametrize(("n", "b", "world"), [(17, 16, 1), (33, 16, 2), (1, 4, 1), (5, 2, 2)])
def test_a_last_batch_has_at_least_two_images_to_learn_from(n, b, world):
    ranks = [list(sampler(n, b, rank=r, world_size=world, least=2)) for r in range(world)]
    last = [chunks(keys, b)[-1] for keys in ranks]
    assert sum(map(len, last)) >= 2 and all(last)
    for r, keys in enumerate(ranks):
        assert len(keys) == len(sampler(n, b, rank=r, world_size=world, least=2))
    whole = list(sampler(17, 16, least=2))
    assert whole[17:] == whole[:1] and len(list(sampler(17, 16, least=2, shuffle=False))) == 17
    assert list(sampler(18, 16, least=2)) == list(sampler(18, 16)), "nothing else changes"
    assert len(list(sampler(3, 1, least=2))) == 3, "batch=1 stays what it is"


def chunks(keys: list, size: int) -> list:
    return [keys[i : i + size] for i in range(0, len(keys), size)]


@settings(deadline=None, max_examples=100)
@given(
    n=st.integers(1, 60),
    b=st.integers(1, 5),
    world=st.integers(1, 4),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
)
def test_slices_of_the_ranks_make_up_the_global_batches(n, b, world, epoch, shuffle, drop_last):
    options = {"shuffle": shuffle, "drop_last": drop_last}
    whole = chunks(list(sampler(n, b * world, epoch, **options)), b * world)
    ranks = [
        chunks(list(sampler(n, b, epoch, rank=r, world_size=world, **options)), b)
        for r in range(world)
    ]
    for k, batch in enumerate(whole):
        union = [key for rank in ranks for key in (rank[k] if k < len(rank) else [])]
        if shuffle and len(batch) < world:  # filled up, so that no rank stays without a batch
            assert union[: len(batch)] == batch and len(union) == world
        else:
            assert union == batch
    if shuffle:
        assert {len(rank) for rank in ranks} == {len(whole)}
    assert all(
        sum(map(len, ranks[r])) == len(sampler(n, b, rank=r, world_size=world, **options))
        for r in range(world)
    )


def test_two_ranks_by_hand():
    def keys(rank):
        return [i for _, i in sampler(11, 2, shuffle=False, rank=rank, world_size=2)]

    assert keys(0) == [0, 1, 4, 5, 8, 9]
    assert keys(1) == [2, 3, 6, 7, 10]


def test_resume_within_an_epoch_leaves_out_what_was_seen():
    whole = list(sampler(23, 4, 3))
    resumed = sampler(23, 4, 3)
    resumed.set_start(2)
    assert list(resumed) == whole[8:] and len(resumed) == 23
    resumed.set_epoch(4)  # the next epoch is whole again
    assert list(resumed) == list(sampler(23, 4, 4))


def test_the_sampler_is_read_when_iteration_starts():
    made = sampler(10, 2, 1)
    iterator = iter(made)
    made.set_epoch(2)
    assert next(iterator)[0] == 1


def test_impossible_ranks_are_refused():
    for options in ({"rank": 2, "world_size": 2}, {"rank": -1}):
        with pytest.raises(ConfigError, match="rank"):
            sampler(10, 2, **options)
    with pytest.raises(ConfigError, match="batch_size"):
        sampler(10, 0)


def test_balanced_epochs_show_rare_classes_more_often():
    empty = np.zeros((0, 4))
    classes = [[0]] * 90 + [[0, 1]] * 10 + [[]] * 10
    records = [ImageRecord(Path("x"), "", (8, 8), empty, np.array(c, np.int64)) for c in classes]
    weights = class_balance_weights(records)
    np.testing.assert_allclose(
        weights[[0, 90, 100]] / weights[0], [1, 10, 1]
    )  # 100 boxes of class 0, 10 of class 1
    drawn = [i for epoch in range(20) for _, i in sampler(110, 8, epoch, weights=weights)]
    rare = np.mean([90 <= i < 100 for i in drawn])
    assert abs(rare - 0.5) < 0.05  # 10 * 10 / (90 + 100 + 10)
    assert list(sampler(110, 8, 3, weights=weights)) == list(sampler(110, 8, 3, weights=weights))


def test_multi_scale_sizes():
    sizes = [scaled_size((320, 480), 0.5, seed=0, epoch=1, batch_index=k) for k in range(100)]
    assert sizes == [
        scaled_size((320, 480), 0.5, seed=0, epoch=1, batch_index=k) for k in range(100)
    ]
    assert len(set(sizes)) > 4 and all(
        h % 32 == 0 == w % 32 and 160 <= h <= 480 and 240 <= w <= 736 for h, w in sizes
    )
    assert scaled_size((320, 480), 0, seed=0, epoch=1, batch_index=3) == (320, 480)
    assert scaled_size((32, 32), 0.9, seed=0, epoch=1, batch_index=3) >= (32, 32)


def test_multi_scale_sizes_are_such_that_the_network_takes():
    """Multiples of its stride, and not below its smallest side: 268 px in steps of 48 is 288."""
    sizes = {
        scaled_size((300, 400), 0.6, seed=0, epoch=1, batch_index=k, stride=48, least=268)
        for k in range(100)
    }
    assert len(sizes) > 4 and all(side % 48 == 0 and side >= 288 for size in sizes for side in size)


# --- batches --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expected(records):
    loader = build_loader(training(records, cache="none"), 4, shuffle=True, seed=5)
    return [batches(loader, epoch) for epoch in range(3)]


@pytest.mark.parametrize(
    "workers, cache", [(0, "ram"), (0, "disk"), (1, "none"), (2, "ram"), (2, "disk")]
)
def test_the_same_bytes_from_any_number_of_workers_and_any_cache(
    records, expected, tmp_path, workers, cache
):
    loader = build_loader(
        training(records, cache=cache, cache_dir=tmp_path), 4, shuffle=True, seed=5, workers=workers
    )
    try:
        assert [batches(loader, epoch) for epoch in range(3)] == expected
        assert (
            batches(loader, 1, start=1) == expected[1][1:]
        )  # resumed within epoch 1, in an old process
    finally:
        loader.close()
    fresh = build_loader(training(records), 4, shuffle=True, seed=5)
    assert batches(fresh, 2, start=2) == expected[2][2:]  # and in a new one
    assert len(loader) == 3 and len(expected[0]) == 3


def test_leaving_an_epoch_early_does_not_disturb_the_next(records, expected):
    loader = build_loader(training(records), 4, shuffle=True, seed=5, workers=2)
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        next(iter(loader))
    assert batches(loader, 2) == expected[2]
    loader.close()


def test_another_seed_gives_other_batches(records, expected):
    other = build_loader(training(records, seed=6), 4, shuffle=True, seed=5)
    assert batches(other, 0) != expected[0]
    other = build_loader(training(records), 4, shuffle=True, seed=6)
    assert batches(other, 0) != expected[0]


def test_iterating_leaves_the_global_generators_alone(records):
    torch.manual_seed(1)
    np.random.seed(1)
    loader = build_loader(training(records), 4, shuffle=True)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches(loader, 0)
    assert (
        torch.equal(torch.get_rng_state(), before[0])
        and (np.random.get_state()[1] == before[1]).all()
    )


def test_an_unreadable_image_is_named_in_one_line_also_from_a_worker(records, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    bad = [ImageRecord(broken, "0" * 64, (8, 8), np.zeros((0, 4)), np.zeros(0, np.int64))]
    for workers in (0, 1):
        loader = build_loader(DetectionDataset(bad, 32), 1, shuffle=False, workers=workers)
        with pytest.raises(DataError) as caught:
            list(loader)
        assert str(caught.value).startswith(str(broken)) and "\n" not in str(caught.value)
        loader.close()


# --- processes ------------------------------------------------------------------------------------


def test_workers_stay_over_epochs_and_end_with_close(records):
    loader = build_loader(training(records), 4, shuffle=True, workers=2)
    alive = []
    for epoch in range(2):
        batches(loader, epoch)
        alive.append(
            {p.pid for p in multiprocessing.active_children() if "detectflow-loader" in p.name}
        )
    assert len(alive[0]) == 2 and alive[0] == alive[1]
    loader.close()
    assert not [p for p in multiprocessing.active_children() if p.pid in alive[0]]
    loader.close()  # twice is no harm
    assert len(batches(loader, 0)) == 3
    loader.close()


SCRIPT = """
    # No `if __name__ == "__main__"`: the engine's documented scripts have none.
    import multiprocessing, sys, time
    import cv2, numpy as np
    from pathlib import Path
    from engine.data.dataset import DetectionDataset
    from engine.data.loader import build_loader
    from engine.types import ImageRecord

    file = Path(sys.argv[1]) / "a.png"
    cv2.imwrite(str(file), np.zeros((32, 32, 3), np.uint8))
    record = ImageRecord(file, "", (32, 32), np.zeros((0, 4)), np.zeros(0, np.int64))
    loader = build_loader(DetectionDataset([record] * 4, 32), 1, shuffle=False, workers=2)
    batches = iter(loader)
    next(batches)
    print("pids", *[p.pid for p in multiprocessing.active_children()], flush=True)
    if sys.argv[2] == "hang":
        time.sleep(60)
    print("batches", 1 + len(list(batches)), flush=True)
"""


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int], timeout_s: float = 10) -> list[int]:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and any(map(running, pids)):
        time.sleep(0.05)
    return [pid for pid in pids if running(pid)]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize("end", ["by itself", "killed"])
def test_a_plain_script_works_and_leaves_no_worker_behind(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), str(tmp_path), "hang" if end == "killed" else "finish"]
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    ) as process:
        pids = [int(word) for word in process.stdout.readline().split()[1:]]
        assert len(pids) == 2
        if end == "killed":
            process.send_signal(signal.SIGKILL)
        else:
            assert process.stdout.read().split() == ["batches", "4"]
        process.wait(timeout=20)
        assert process.returncode == (-signal.SIGKILL if end == "killed" else 0)
    assert wait_until_gone(pids) == []
