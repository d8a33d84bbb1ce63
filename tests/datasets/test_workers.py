"""Prepare in several processes: the same bytes as in one, and a source left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dataset_builders import make_voc, put, tree
from joblib.externals.loky import process_executor
from many_images import LENIENT, at_once, damaged, is_gone, run

from engine.datasets import workers
from engine.datasets.image_scan import ScanRequest, SerialMapper, scan_batch
from engine.datasets.workers import LocalWorkers, worker_pool
from engine.errors import WorkspaceError

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["at_once"]  # a fixture


class Sevens(SerialMapper):
    """Batches of another size, looked at far ahead of their turn."""

    size = 7

    def map(self, function, batches):
        yield from [function(batch) for batch in batches]


# --- the same result ------------------------------------------------------------------------------


def test_the_result_does_not_depend_on_who_looks(tmp_path, at_once):
    source = damaged(tmp_path / "voc")
    mappers = {
        "here": None,
        "one": LocalWorkers(1),
        "two": LocalWorkers(2),
        "three": LocalWorkers(3),
        "sevens": Sevens(),
    }
    reports = {
        name: run(source, tmp_path / "out" / name, mapper) for name, mapper in mappers.items()
    }
    expected = reports["here"]
    assert all(
        expected.findings.counts[kind] > expected.findings.keep
        for kind in ("unreadable_image", "bad_entry", "zero_area")
    )
    for name, report in reports.items():
        assert report.summary() == expected.summary() and report.findings == expected.findings, name
        assert tree(tmp_path / "out" / name) == tree(tmp_path / "out" / "here"), name


def test_images_that_are_made_travel_to_the_workers(tmp_path, at_once):
    put(
        tmp_path / "d.yaml",
        "name: d\nformat: generated\ngenerator: digits\noptions: {train: 30, val: 10, test: 10}\n",
    )
    one, two = (
        run(tmp_path / "d.yaml", tmp_path / f"out{n}", LocalWorkers(n), policies={}) for n in (1, 2)
    )
    assert one.info == two.info and tree(tmp_path / "out1") == tree(tmp_path / "out2")


def test_progress_is_reported_at_each_images_turn(tmp_path, at_once):
    calls = []
    run(damaged(tmp_path / "voc"), tmp_path / "out", LocalWorkers(2), calls.append)
    assert [call["done"] for call in calls] == sorted(call["done"] for call in calls)
    assert calls[-1]["done"] == calls[-1]["total"]


def test_small_datasets_are_done_before_a_worker_would_have_started(tmp_path, monkeypatch):
    def nobody(workers):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(workers, "worker_pool", nobody)
    run(make_voc(tmp_path / "voc"), tmp_path / "out", LocalWorkers(2), policies={})


def test_the_source_is_only_read(tmp_path, at_once):
    source = damaged(tmp_path / "voc")
    paths = [source, *source.rglob("*")]
    for path in paths:
        os.utime(path, (1_000_000, 1_000_000))
        path.chmod(0o555 if path.is_dir() else 0o444)

    def state():
        return {
            str(p): (p.stat().st_mtime_ns, p.stat().st_mode, p.stat().st_size)
            for p in [source, *source.rglob("*")]
        }

    try:
        before = state()
        run(source, tmp_path / "out", LocalWorkers(2))
        assert state() == before
    finally:
        for path in paths:
            path.chmod(0o755)


def test_not_more_than_a_few_batches_are_taken_ahead(at_once):
    taken, ahead = 0, []

    def batches():
        nonlocal taken
        for _ in range(60):
            taken += 1
            yield []

    for done, _ in enumerate(LocalWorkers(2).map(scan_batch, batches()), 1):
        ahead.append(taken - done)
    assert done == 60 and max(ahead) <= 2 * workers.AHEAD


# --- a worker -------------------------------------------------------------------------------------


def test_a_worker_answers_and_passes_errors_on_and_may_print(capfd):
    with worker_pool(1) as pool:
        assert pool.submit(sorted, [2, 1]).result() == [1, 2]
        assert pool.submit(print, "hello").result() is None
        with pytest.raises(ValueError, match="invalid literal") as error:
            pool.submit(int, "x").result()
        assert "Traceback" in str(error.value.__cause__), "of the worker"
        with pytest.raises(FileNotFoundError) as error:
            pool.submit(os.stat, "/nowhere").result()
        assert error.value.errno == 2 and error.value.filename == "/nowhere"
        assert pool.submit(sorted, [3]).result() == [3], "an error is not its end"
    assert "hello" in capfd.readouterr().out


def test_a_worker_imports_no_torch():
    with worker_pool(1) as pool:
        pool.submit(scan_batch, []).result()
        assert pool.submit(eval, "'torch' in __import__('sys').modules").result() is False


def test_prepare_needs_no_torch(tmp_path):
    """Its import takes seconds and 600 MB: prepare's memory is what it works with."""
    make_voc(tmp_path / "voc")
    code = (
        "import sys; from pathlib import Path; from engine.config import DataConfig\n"
        "from engine.datasets.description import load_description; from engine.datasets.prepare "
        "import prepare\n"
        f"prepare(load_description({str(tmp_path / 'voc')!r}), Path({str(tmp_path / 'out')!r}), "
        "DataConfig())\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_overlaps_are_those_of_the_engine():
    import torch

    from engine.boxes import pairwise_iou
    from engine.datasets import label_checks

    corners = np.random.default_rng(0).uniform(0, 100, (60, 2, 2))
    boxes = np.concatenate((corners.min(1), corners.max(1)), 1)
    boxes[30:] = boxes[:30] + 0.5
    expected = pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    assert (
        np.array_equal([label_checks.iou_with(box, boxes) for box in boxes], expected)
        and (expected > 0.9).sum() > 60
    )


def test_no_worker_outlives_its_block():
    with pytest.raises(KeyError), worker_pool(2) as pool:
        pids = [pool.submit(os.getpid).result()]
        workers.wait_until_taken([pool.submit(time.sleep, 60)])
        raise KeyError
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("__import__('os').kill(__import__('os').getpid(), 9)", "SIGKILL"),
        ("__import__('os')._exit(3)", "3"),
    ],
)
def test_one_that_dies_is_reported_by_its_signal_or_exit_code(code, said, tmp_path, at_once):
    asked = ScanRequest(code, None)
    with pytest.raises(WorkspaceError, match=rf"unexpectedly \(.*{said}.*\) while .* scanned"):
        list(LocalWorkers(2).map(evaluated, [[ScanRequest("1", None)], [asked], [asked]]))


def evaluated(batch):
    """What a worker is asked to do instead of a scan."""
    return [eval(each.name) for each in batch]


# --- scripts and the command line -----------------------------------------------------------------


def test_a_script_without_a_guard_runs_once(tmp_path):
    """As scripts of notebooks' users are: `multiprocessing` would run it again in every worker."""
    damaged(tmp_path / "voc")
    script = f"""
from pathlib import Path
from engine.config import DataConfig
from engine.datasets import workers
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare

workers.PATIENCE_S = 0
print("begins")
settings = DataConfig(policies={LENIENT!r})
report = prepare(load_description("voc"), Path("out"), settings, mapper=workers.LocalWorkers(2))
print(report.info["digest"])
"""
    put(tmp_path / "script.py", script)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, text=True, capture_output=True, timeout=120
    )
    assert done.stdout.split() == [
        "begins",
        json.loads((tmp_path / "out/dataset.json").read_text())["digest"],
    ], done.stderr


def test_check_uses_workers_and_reports_the_same(tmp_path, at_once, monkeypatch, capsys):
    from engine.cli import main

    source = damaged(tmp_path / "voc")
    monkeypatch.chdir(tmp_path)
    words = [f"policies.{kind}={policy}" for kind, policy in LENIENT.items()]
    started = []
    begin = workers.worker_pool
    monkeypatch.setattr(workers, "worker_pool", lambda n: (started.append(n), begin(n))[1])
    reports = []
    for workers_wanted in (1, 2):
        code = main(
            [
                "check",
                f"data={source}",
                f"workers={workers_wanted}",
                f"out=out{workers_wanted}",
                *words,
            ]
        )
        reports.append((code, tree(tmp_path / f"out{workers_wanted}")))
        assert started == ([2] if workers_wanted == 2 else [])
    assert reports[0] == reports[1]
    assert main(["check", f"data={source}", "workers=-1"]) == 2
    assert "check: workers: Input should be greater than or equal to 0" in capsys.readouterr().err


def test_a_signal_while_the_workers_are_started_ends_them_too(tmp_path, at_once, monkeypatch):
    """Ctrl-C in the moment in which loky's thread is started, before it runs."""
    thread = process_executor._ExecutorManagerThread
    start, started = thread.start, []

    def interrupted(self):
        # a process just forked bears its parent's name in /proc
        started.extend(self.processes)
        signal.raise_signal(signal.SIGINT)
        start(self)

    monkeypatch.setattr(thread, "start", interrupted)
    source = make_voc(
        tmp_path / "voc", {f"i{k:03d}": [("cat", (4, 2, 20, 30))] for k in range(40)}, lists=False
    )
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", LocalWorkers(2))
    assert len(started) == 2 and all(is_gone(pid, 1) for pid in started)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["voc"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
