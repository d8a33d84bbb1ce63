"""What a person sees of a training: what begins, a line every 30 s where there is no terminal, the
number of the best epoch.
"""

import csv
import json
import re

import pytest
import torch
from classifier import make

from engine.core import progress
from engine.core.checkpoint import load_checkpoint, read_sidecar, save_checkpoint, write_sidecar
from engine.core.distributed import World
from engine.core.progress import LINE_EVERY_S, EpochProgress, ProgressLines, log_start
from engine.core.results import numbered_from_one, read_results

LOSS = torch.tensor([1.25])


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def lines(caplog, monkeypatch):
    """The log lines so far, in a list that grows."""
    caplog.set_level("INFO", "detectflow")
    said = []
    # taken back at the end: pytest has one handler for all tests
    monkeypatch.setattr(caplog.handler, "emit", lambda record: said.append(record.getMessage()))
    return said


def run_epoch(seconds_per_batch, batches, shown=True):
    clock = Clock()
    with EpochProgress(range(batches), 1, 3, ("box_loss",), shown, clock) as bar:
        for _ in bar:
            clock.now += seconds_per_batch
            bar.show(LOSS)


def test_a_long_epoch_says_every_30_s_how_far_it_is(lines):
    run_epoch(10, 10)  # 100 s
    assert lines == [
        "epoch 2/3  batch 3 of 10  box 1.250  30 s, about 70 s left",
        "epoch 2/3  batch 6 of 10  box 1.250  60 s, about 40 s left",
        "epoch 2/3  batch 9 of 10  box 1.250  90 s, about 10 s left",
    ]


def test_a_slow_batch_has_one_line_and_a_quick_epoch_none(lines):
    run_epoch(100, 3)
    assert [line.split("  ")[1] for line in lines] == ["batch 1 of 3", "batch 2 of 3"]
    lines.clear()
    run_epoch(0.1, 200)
    assert lines == []


@pytest.mark.parametrize(("shown", "terminal"), [(False, False), (True, True)])
def test_a_bar_or_silence_has_no_lines(lines, monkeypatch, shown, terminal):
    monkeypatch.setattr(progress, "has_terminal", lambda: terminal)
    run_epoch(100, 3, shown)
    assert lines == []


def test_of_what_has_no_length_only_what_is_done_is_said(lines):
    clock = Clock()
    some = ProgressLines("predict", None, "image", clock=clock)
    clock.now = LINE_EVERY_S
    some.show(7)
    assert lines == ["predict  image 7  30 s"]


def test_a_training_and_its_validations_have_such_lines(tmp_path, lines, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    make(tmp_path, verbose=True, epochs=1).train()
    said = [line.partition("  ")[0] for line in lines]
    assert said.count("epoch 1/1") == 3  # after two of its three batches, and at its end
    assert said.count("validation") == 8  # four of five batches, in the epoch and at the end
    quiet = len(lines)
    make(tmp_path, verbose=False, epochs=1, name="quiet").train()
    assert len(lines) == quiet


class Loader:
    def __init__(self, samples, batches):
        self.dataset, self.batches = [0] * samples, batches

    def __len__(self):
        return self.batches


def test_the_first_line_says_what_begins(lines):
    start = (Loader(480, 30), Loader(60, 2), 16)
    log_start(*start, (1, 40), torch.device("cpu"), World(), "runs/train", "images")
    log_start(*start, (3, 40), torch.device("cpu"), World(0, 4, 0), "runs/train", "images")
    threads = f"{torch.get_num_threads()} threads"
    what = "training on 480 images (60 for validation):"
    assert lines == [
        f"{what} 40 epochs of 30 steps, batch 16, on cpu ({threads}), into runs/train",
        f"{what} epochs 3 to 40 of 30 steps, batch 16, on 4 x cpu ({threads}), into runs/train",
    ]


def test_a_loader_of_the_users_own_may_not_say_how_many(tmp_path, lines):
    make(tmp_path, verbose=True, epochs=1).train()
    assert re.match(
        r"training: 1 epoch of 3 steps, batch 16, on cpu \(\d+ threads\), into ", lines[0]
    )


# --- the number of an epoch -----------------------------------------------------------------------


def test_the_best_epoch_has_one_number(tmp_path, lines):
    trainer = make(tmp_path, verbose=True, epochs=6)
    seen = []
    trainer.add_callback("on_fit_epoch_end", lambda t: seen.append((t.epoch, t.metrics["epoch"])))
    result = trainer.train()
    rows = list(csv.DictReader(trainer.paths.results_csv.open()))
    values = [float(row["metrics/accuracy"]) for row in rows]
    best = rows[values.index(max(values))]["epoch"]
    last_said = [line for line in lines if " best " in line][-1]
    assert [row["epoch"] for row in rows] == list("123456")
    assert seen == [(i, i + 1) for i in range(6)]
    assert last_said.startswith(f"epoch {best}/6 ")
    assert (
        read_sidecar(result.best)["epoch"] == result.best_epoch == trainer.best_epoch == int(best)
    )


def as_older_versions_wrote(run):
    """Epochs from 0 in what the checkpoint and the files beside it hold."""
    last = run / "weights" / "last.pt"
    checkpoint, about = load_checkpoint(last), read_sidecar(last)
    training = checkpoint.training
    del training["first_epoch"]
    training["best_epoch"] -= 1
    training["rows"] = [{**row, "epoch": row["epoch"] - 1} for row in training["rows"]]
    save_checkpoint(checkpoint, last)
    if "row" in about:
        row = {**about["row"], "epoch": about["row"]["epoch"] - 1}
        write_sidecar(last, {**read_sidecar(last), "row": row, "stop": about["stop"]})


@pytest.mark.parametrize("event", ["on_train_epoch_end", "on_fit_epoch_end", "on_train_batch_end"])
def test_a_run_that_an_older_version_began_goes_on_and_counts_from_1(tmp_path, event):
    make(tmp_path, name="whole", epochs=4).train()
    cut = make(tmp_path, name="cut", epochs=4)

    def stop(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    cut.add_callback(event, stop)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    as_older_versions_wrote(tmp_path / "cut")
    resumed = make(tmp_path, name="cut", epochs=4, resume=True)
    result = resumed.train()
    whole = make(tmp_path, name="again", epochs=4)
    expected = whole.train()
    assert [row["epoch"] for row in read_results(resumed.paths.results_csv)] == [1, 2, 3, 4]
    assert result.best_epoch == expected.best_epoch
    assert [{k: v for k, v in row.items() if k != "time_s"} for row in resumed.rows] == [
        {k: v for k, v in row.items() if k != "time_s"} for row in whole.rows
    ]
    best = [json.loads((tmp_path / n / "weights/best.json").read_text()) for n in ("cut", "again")]
    assert best[0]["sha256"] == best[1]["sha256"] and best[0]["epoch"] == best[1]["epoch"]


def test_an_older_table_is_read_from_1_and_a_new_one_as_it_is(tmp_path):
    table = tmp_path / "results.csv"
    table.write_text("epoch,train/loss\n0,1.5\n1,1.25\n")
    assert read_results(table) == [
        {"epoch": 1, "train/loss": 1.5},
        {"epoch": 2, "train/loss": 1.25},
    ]
    table.write_text("epoch,train/loss\n1,1.5\n2,1.25\n")
    assert read_results(table) == [
        {"epoch": 1, "train/loss": 1.5},
        {"epoch": 2, "train/loss": 1.25},
    ]
    assert numbered_from_one([{"epoch": "0", "a": "x"}]) == [{"epoch": "1", "a": "x"}]
    assert numbered_from_one([]) == [] and numbered_from_one([{"a": 1}]) == [{"a": 1}]
