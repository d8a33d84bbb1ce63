"""Two processes do what one does: the same losses, weights and metrics; events on both, files from
one, one decision to stop.

`together.py` runs once under torchrun and once alone; every test looks at what the processes wrote
down.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ddp_toys import Classifier, settings
from detectors import random_detector, save_detector

from engine.core.checkpoint import load_checkpoint
from engine.core.results import read_results

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
DIGITS = """
name: digits
format: generated
generator: digits
options: {train: 19, val: 7, test: 1, size: 64, max_px: 48}
names: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
licence: test
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(what the process alone saw, [what rank 0 saw, what rank 1 saw], the folder)"""
    folder = tmp_path_factory.mktemp("together")
    (folder / "digits.yaml").write_text(DIGITS)
    names = tuple("0123456789")
    save_detector(folder / "random.pt", random_detector(len(names)), names)
    environment = {
        **os.environ,
        "DETECTFLOW_STATE": str(folder / "state"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)]),
    }
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    for name, start in (("alone", [sys.executable]), ("both", torchrun)):
        (folder / name).mkdir()
        done = subprocess.run(
            [*start, str(HERE / "together.py"), str(folder / name)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    files = ("alone/rank0.pt", "both/rank0.pt", "both/rank1.pt")
    alone, *both = (torch.load(folder / name, weights_only=False) for name in files)
    return alone, both, folder


def worst(a, b):
    """Largest relative difference of two nested structures of the same shape."""
    if isinstance(a, dict):
        assert list(a) == list(b)
        return max(worst(a[key], b[key]) for key in a if key != "time_s")
    if isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        return max(map(worst, a, b))
    a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
    return float(((a - b).abs() / (a.abs() + 1e-3)).max()) if a.numel() else 0.0


def test_a_detector_learns_the_same_from_the_same_images(runs):
    alone, both, _ = runs
    one, two = alone["detector"], both[0]["detector"]
    assert (
        len(one["steps"]) == 10 and len(one["names"][4]) == 3
    )  # 19 images in batches of 4: the last is split 2 and 1
    for step, names in enumerate(one["names"]):
        assert (
            sorted(both[0]["detector"]["names"][step] + both[1]["detector"]["names"][step]) == names
        )
    differences = {key: worst(one[key], two[key]) for key in ("steps", "rows", "weights", "ema")}
    print(json.dumps(differences))
    assert worst(one["steps"][0], two["steps"][0]) < 1e-12
    assert max(differences.values()) < 1e-5, differences
    assert worst(two["weights"], both[1]["detector"]["weights"]) == 0
    assert {"train/box_loss", "val/dfl_loss", "metrics/mAP50"} <= set(two["rows"][0])


def test_sharded_validation_gives_the_same_metrics_to_the_bit(runs):
    alone, both, _ = runs
    for split, images in (("val", [4, 3]), ("test", [1, 0])):
        one = alone["ap"][split]
        for rank in (0, 1):
            assert both[rank]["ap"][split]["metrics"] == one["metrics"]
            assert both[rank]["ap"][split]["per_image"] == one["per_image"]
        assert [both[rank]["ap"][split]["images"] for rank in (0, 1)] == images
    assert alone["ap"]["val"]["metrics"]["metrics/mAP50"] > 0
    assert sorted(both[0]["seen"] + both[1]["seen"]) == list(range(9))  # each image once


def test_a_classifier_of_the_core_learns_the_same(runs):
    alone, both, folder = runs
    assert worst(alone["linear"][0], both[0]["linear"][0]) < 1e-4
    one, two = (
        read_results(folder / name / "runs/linear/results.csv") for name in ("alone", "both")
    )
    assert worst(one, two) < 1e-4


def test_a_layer_that_takes_part_in_nothing_may_be_there(runs):
    alone, both, _ = runs
    assert worst(alone["left_out"], both[0]["left_out"]) < 1e-4


def test_events_fire_on_every_rank_and_the_save_on_rank_0(runs):
    alone, both, _ = runs
    epoch, events = both[0]["events"]
    assert (epoch, events) == alone["events"]
    own_batches = {
        "on_val_batch_start",
        "on_val_batch_end",
    }  # 9 images in parts of 4: rank 1 has one batch less
    expected = [event for event in events if event not in own_batches | {"on_model_save"}]
    assert [event for event in both[1]["events"][1] if event not in own_batches] == expected
    assert [each["events"][1].count("on_val_batch_end") for each in both] == [3 * 2, 3 * 1]


def test_only_rank_0_writes(runs):
    _, both, folder = runs
    assert both[1]["written"] == []
    assert any(path.endswith("results.csv") or "results" in path for path in both[0]["written"])
    names = {path.name for path in (folder / "both" / "runs").iterdir()}
    assert names == {
        "events",
        "linear",
        "half",
        "dropout",
        "resumed",
        "left_out",
        "one_fails",
        "stopped",
        "detector",
    }


def test_a_stop_that_one_rank_asks_for_is_made_by_all(runs):
    alone, both, _ = runs
    assert alone["stopped"] == both[0]["stopped"] == both[1]["stopped"] == (1, "stopped")


def test_a_resumed_run_of_two_processes_is_the_uninterrupted_one_to_the_bit(runs):
    _, _, folder = runs
    whole, resumed = (
        load_checkpoint(folder / "both/runs" / name / "weights/last.pt")
        for name in ("dropout", "resumed")
    )
    for part in ("model", "ema"):
        ours, theirs = getattr(whole, part), getattr(resumed, part)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part
    rows = [
        [
            {k: v for k, v in row.items() if k != "time_s"}
            for row in read_results(folder / "both/runs" / name / "results.csv")
        ]
        for name in ("dropout", "resumed")
    ]
    assert rows[0] == rows[1]
    best = [
        (folder / "both/runs" / name / "weights/best.pt").read_bytes()
        for name in ("dropout", "resumed")
    ]
    assert best[0] == best[1]


def test_one_process_goes_on_with_a_run_of_two(runs, tmp_path):
    _, _, folder = runs
    shutil.copytree(
        folder / "both/runs/one_fails", tmp_path / "one_fails"
    )  # one epoch of it is done
    trainer = Classifier(overrides=settings(tmp_path, name="one_fails", resume=True))
    assert trainer.train().epochs == 4
    assert worst(trainer.model.state_dict(), runs[1][0]["linear"][0]) < 1e-4


def test_the_others_learn_who_failed_and_can_train_again(runs):
    alone, both, _ = runs
    assert alone["one_fails"][:2] == both[1]["one_fails"][:2] == ("EngineError", "only here")
    kind, text, code = both[0]["one_fails"]
    assert kind == "PeerError" and "rank 1 failed: EngineError: only here" in text and code == 1
