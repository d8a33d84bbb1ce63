"""Prepare in several processes: the same bytes as in one, whoever is killed or interrupted, and a source left alone."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_builders import make_voc, picture, put, tree, voc_xml

from engine.config import DataConfig
from engine.errors import WorkspaceError
from engine.parts.data import workers
from engine.parts.data.description import load_description
from engine.parts.data.looks import InTurn, Look, look_at_all
from engine.parts.data.prepare import prepare
from engine.parts.data.workers import LocalWorkers, Pool, Worker, WorkerDied

ROOT = Path(__file__).resolve().parents[2]
LENIENT = {"unreadable_image": "drop", "unreadable_annotation": "drop", "bad_entry": "drop", "unknown_class": "drop",
           "missing_image": "drop", "size_mismatch": "fix", "empty_image": "warn"}  # fmt: skip
IMAGES = 90


@pytest.fixture
def at_once(monkeypatch):
    """Workers are started after the first batch."""
    monkeypatch.setattr(workers, "PATIENCE_S", 0.0)


def damaged(root: Path) -> Path:
    """A dataset of several batches, with more findings of each kind than are kept; some by the reader, some by the checks."""
    make_voc(root, {f"i{k:03d}": [("cat", (4, 2, 20 + k % 7, 30))] for k in range(IMAGES)}, lists=False)
    for k in range(IMAGES):
        image, xml = root / f"JPEGImages/i{k:03d}.png", root / f"Annotations/i{k:03d}.xml"
        if k % 5 == 0:
            image.write_bytes(image.read_bytes()[: 100 + k])
        elif k % 7 == 0:
            image.unlink()
        elif k % 11 == 0:
            put(xml, "<annotation><object>")
        elif k % 4 == 0:
            put(xml, xml.read_text().replace(">4<", ">four<"))
        elif k % 3 == 0:
            put(xml, voc_xml(f"i{k:03d}", [("cat", (-4, 2, 20, 30)), ("dog", (1, 1, 1, 9))]))
    put(root / "JPEGImages/i091.png", picture("i001"))
    put(root / "Annotations/i091.xml", voc_xml("i091", []))
    return root


def run(source: Path, target: Path, mapper=None, progress=None, **settings):
    settings.setdefault("policies", LENIENT)
    return prepare(load_description(source), target, DataConfig(source=str(source), **settings), progress, mapper=mapper)


class Sevens(InTurn):
    """Batches of another size, looked at far ahead of their turn."""

    size = 7

    def map(self, function, batches):
        yield from [function(batch) for batch in batches]


# --- the same result ----------------------------------------------------------------------------------------------


def test_the_result_does_not_depend_on_who_looks(tmp_path, at_once):
    source = damaged(tmp_path / "voc")
    mappers = {"here": None, "one": LocalWorkers(1), "two": LocalWorkers(2), "three": LocalWorkers(3), "sevens": Sevens()}
    reports = {name: run(source, tmp_path / "out" / name, mapper) for name, mapper in mappers.items()}
    expected = reports["here"]
    assert all(expected.findings.counts[kind] > expected.findings.keep for kind in ("unreadable_image", "bad_entry", "zero_area"))
    for name, report in reports.items():
        assert report.summary() == expected.summary() and report.findings == expected.findings, name
        assert tree(tmp_path / "out" / name) == tree(tmp_path / "out" / "here"), name


def test_images_that_are_made_travel_to_the_workers(tmp_path, at_once):
    put(tmp_path / "d.yaml", "name: d\nformat: generated\ngenerator: digits\noptions: {train: 30, val: 10, test: 10}\n")
    one, two = (run(tmp_path / "d.yaml", tmp_path / f"out{n}", LocalWorkers(n), policies={}) for n in (1, 2))
    assert one.info == two.info and tree(tmp_path / "out1") == tree(tmp_path / "out2")


def test_progress_is_told_at_each_images_turn(tmp_path, at_once):
    calls = []
    run(damaged(tmp_path / "voc"), tmp_path / "out", LocalWorkers(2), calls.append)
    assert [call["done"] for call in calls] == sorted(call["done"] for call in calls)
    assert calls[-1]["done"] == calls[-1]["total"]


def test_small_datasets_are_done_before_a_worker_would_have_started(tmp_path, monkeypatch):
    def nobody(self):
        raise AssertionError("a worker was started")

    monkeypatch.setattr(Worker, "__init__", nobody)
    run(make_voc(tmp_path / "voc"), tmp_path / "out", LocalWorkers(2), policies={})


def test_the_source_is_only_read(tmp_path, at_once):
    source = damaged(tmp_path / "voc")
    paths = [source, *source.rglob("*")]
    for path in paths:
        os.utime(path, (1_000_000, 1_000_000))
        path.chmod(0o555 if path.is_dir() else 0o444)

    def state():
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_mode, p.stat().st_size) for p in [source, *source.rglob("*")]}

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

    for done, _ in enumerate(LocalWorkers(2).map(look_at_all, batches()), 1):
        ahead.append(taken - done)
    assert done == 60 and max(ahead) <= 2 * workers.AHEAD


# --- a worker -----------------------------------------------------------------------------------------------------


def test_a_worker_answers_and_passes_errors_on_and_may_print(capfd):
    with Pool(1) as pool:
        assert pool.submit(sorted, [2, 1]).result() == [1, 2]
        assert pool.submit(print, "hello").result() is None
        with pytest.raises(ValueError, match="invalid literal") as error:
            pool.submit(int, "x").result()
        assert "In a worker process" in error.value.__notes__[0]
        with pytest.raises(FileNotFoundError) as error:
            pool.submit(os.stat, "/nowhere").result()
        assert error.value.errno == 2 and error.value.filename == "/nowhere"
        assert pool.submit(sorted, [3]).result() == [3], "an error is not its end"
    assert "hello" in capfd.readouterr().err


def test_a_worker_imports_no_torch():
    with Pool(1) as pool:
        pool.submit(look_at_all, []).result()
        assert pool.submit(eval, "'torch' in __import__('sys').modules").result() is False


def test_prepare_needs_no_torch(tmp_path):
    """Its import takes seconds and 600 MB: prepare's memory is what it works with."""
    make_voc(tmp_path / "voc")
    code = (
        "import sys; from pathlib import Path; from engine.config import DataConfig\n"
        "from engine.parts.data.description import load_description; from engine.parts.data.prepare import prepare\n"
        f"prepare(load_description({str(tmp_path / 'voc')!r}), Path({str(tmp_path / 'out')!r}), DataConfig())\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_overlaps_are_those_of_the_engine():
    import torch

    from engine.boxes import pairwise_iou
    from engine.parts.data import intake

    corners = np.random.default_rng(0).uniform(0, 100, (60, 2, 2))
    boxes = np.concatenate((corners.min(1), corners.max(1)), 1)
    boxes[30:] = boxes[:30] + 0.5
    expected = pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    assert np.array_equal(intake.pairwise_iou(boxes), expected) and (expected > 0.9).sum() > 60


def test_no_worker_outlives_its_block():
    with pytest.raises(KeyError), Pool(2) as pool:
        processes = [worker.process for worker in pool._workers]
        pool.submit(time.sleep, 60)
        raise KeyError
    assert [process.returncode for process in processes] == [-signal.SIGKILL] * 2


def test_one_that_dies_is_told_by_its_signal_or_exit_code():
    with Pool(1) as pool, pytest.raises(WorkerDied, match="was ended by SIGKILL"):
        pool.submit(eval, "__import__('os').kill(__import__('os').getpid(), 9)").result()
    with Pool(1) as pool, pytest.raises(WorkerDied, match="ended with exit code 3"):
        pool.submit(os._exit, 3).result()


# --- killed, interrupted, full ------------------------------------------------------------------------------------


def test_a_killed_worker_ends_prepare_and_leaves_the_old_result(tmp_path, at_once, monkeypatch):
    content = {f"i{k:03d}": [("cat", (4, 2, 20, 30))] for k in range(160)}  # too many to be all on their way when it happens
    source = make_voc(tmp_path / "voc", content, lists=False)
    run(source, tmp_path / "out")
    before, started = tree(tmp_path / "out"), []
    begin = Worker.__init__
    monkeypatch.setattr(Worker, "__init__", lambda self: (begin(self), started.append(self.process))[0])

    def kill(values):
        if values["done"] == 20:
            started[0].kill()

    with pytest.raises(WorkspaceError, match=r"worker process was ended by SIGKILL while it looked at .*png.*workers=1"):
        run(source, tmp_path / "out", LocalWorkers(2), kill)
    assert tree(tmp_path / "out") == before and sorted(p.name for p in tmp_path.iterdir()) == ["out", "voc"]
    assert all(process.poll() is not None for process in started)


def test_a_full_disk_in_a_worker_is_told_as_such(tmp_path, at_once):
    source = make_voc(tmp_path / "voc", {f"i{k:03d}": [("cat", (4, 2, 20, 30))] for k in range(40)}, lists=False)
    put(source / "JPEGImages/i035.png", picture("big", 320, 640))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(WorkspaceError, match="File too large.*Free some disk space"):
            run(source, tmp_path / "out", LocalWorkers(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["voc"]


@pytest.fixture
def slow_project(tmp_path):
    """A workspace whose prepare takes at least ten seconds."""
    root = tmp_path / "project"
    put(root / "dvc.yaml", "stages:\n  prepare:\n    cmd: echo\n    params: [data]\n    outs: [data/prepared]\n")
    put(root / "params.yaml", "data: {source: data/d.yaml}\nflows: {prepare: {workers: 2}}\n")
    put(root / "data/d.yaml", "name: d\npath: ../../voc\n")
    blank = cv2.imencode(".png", np.zeros((1500, 1500, 3), np.uint8))[1].tobytes()  # small, and slow to decode
    for k in range(400):
        put(tmp_path / f"voc/JPEGImages/i{k:03d}.png", blank + str(k).encode())
        put(tmp_path / f"voc/Annotations/i{k:03d}.xml", voc_xml(f"i{k:03d}", [("cat", (4, 2, 20, 30))], (1500, 1500)))
    return root


def begin_stage(root: Path) -> subprocess.Popen:
    """`python -m engine.stages prepare` as a shell's foreground job has it; returned once its workers are at work."""
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.stages", "prepare"], cwd=root, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DETECTFLOW_TRACKING": "off"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (len(workers_of(process.pid)) == 2 and len(list((root / "data").glob(".prepared.new/incoming/*"))) > 24):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


def workers_of(parent: int) -> list[int]:
    """Workers among the children of a process."""
    found = []
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            if "engine.parts.data.workers" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
        except OSError:  # gone meanwhile
            continue
    return found


def is_gone(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_with_workers_nothing_is_left(signum, code, slow_project):
    process = begin_stage(slow_project)
    helpers = workers_of(process.pid)
    process.send_signal(signum)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code and "interrupted" in said and "Traceback" not in said, said
    assert [p.name for p in (slow_project / "data").iterdir()] == ["d.yaml"] and not (slow_project / "reports").exists()
    assert all(is_gone(pid, 1) for pid in helpers)


def test_killed_with_workers_they_end_too_and_the_next_run_is_clean(slow_project):
    process = begin_stage(slow_project)
    helpers = workers_of(process.pid)
    process.kill()
    process.communicate()
    assert all(is_gone(pid, 10) for pid in helpers)
    assert not (slow_project / "data/prepared").exists() and (slow_project / "data/.prepared.new").exists()
    for image in sorted((slow_project.parent / "voc/JPEGImages").iterdir())[10:]:
        image.unlink()
        (image.parents[1] / f"Annotations/{image.stem}.xml").unlink()
    settings = DataConfig(source=str(slow_project / "data/d.yaml"))
    prepare(load_description(slow_project / "data/d.yaml"), slow_project / "data/prepared", settings, mapper=LocalWorkers(2))
    assert sorted(p.name for p in (slow_project / "data").iterdir()) == ["d.yaml", "prepared"]


def test_a_script_without_a_guard_runs_once(tmp_path):
    """As scripts of notebooks' users are: `multiprocessing` would run it again in every worker."""
    damaged(tmp_path / "voc")
    script = f"""
from pathlib import Path
from engine.config import DataConfig
from engine.parts.data import workers
from engine.parts.data.description import load_description
from engine.parts.data.prepare import prepare

workers.PATIENCE_S = 0
print("begins")
settings = DataConfig(policies={LENIENT!r})
report = prepare(load_description("voc"), Path("out"), settings, mapper=workers.LocalWorkers(2))
print(report.info["digest"])
"""
    put(tmp_path / "script.py", script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, text=True, capture_output=True, timeout=120)
    assert done.stdout.split() == ["begins", json.loads((tmp_path / "out/dataset.json").read_text())["digest"]], done.stderr


# --- others who do not see the files ------------------------------------------------------------------------------


class Elsewhere(InTurn):
    """Somebody who sees no file of the dataset."""

    shared = True

    def map(self, function, batches):
        yield from ([Look(wrong="cannot be read", host="far")] * len(batch) for batch in batches)


def test_a_file_that_others_cannot_read_is_no_finding(tmp_path):
    source = make_voc(tmp_path / "voc")
    with pytest.raises(WorkspaceError, match=r"a.png: can be read here and not on far.*shared file system"):
        run(source, tmp_path / "out", Elsewhere())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["voc"]
    for image in (source / "JPEGImages").iterdir():
        image.unlink()
        image.symlink_to("nowhere")
    report = prepare_error(source, tmp_path / "out")
    assert "cannot be read" in report


def prepare_error(source: Path, target: Path) -> str:
    from engine.errors import DataError

    with pytest.raises(DataError) as error:
        run(source, target, Elsewhere(), policies={})
    return str(error.value)


# --- two at once --------------------------------------------------------------------------------------------------

PREPARE = """
import logging, sys
from pathlib import Path
from engine.config import DataConfig
from engine.parts.data.description import load_description
from engine.parts.data.prepare import prepare

logging.basicConfig(format="%(message)s", stream=sys.stdout)
def told(values):
    if values["done"] == 3:
        print("at work", flush=True)
        input()
prepare(load_description(sys.argv[1]), Path(sys.argv[2]), DataConfig(), told)
print("done")
"""


@pytest.mark.parametrize("ending", ["well", "killed"])
def test_two_who_prepare_into_one_folder_work_one_after_the_other(ending, tmp_path):
    source = make_voc(tmp_path / "voc")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", PREPARE, str(source), str(tmp_path / "out")]
    holder = subprocess.Popen(command, **pipes)
    assert holder.stdout.readline() == "at work\n"
    waiting = subprocess.Popen(command, **pipes)
    assert f"waiting for process {holder.pid}" in waiting.stdout.readline()
    if ending == "killed":
        holder.kill()
        holder.communicate()
    else:
        assert holder.communicate("\n")[0].endswith("done\n")
        assert len(tree(tmp_path / "out")) == 11
    assert waiting.communicate("\n")[0].endswith("done\n") and waiting.returncode == 0
    run(source, tmp_path / "expected", policies={})
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["expected", "out", "voc"]


# --- the command line ---------------------------------------------------------------------------------------------


def test_check_uses_workers_and_reports_the_same(tmp_path, at_once, monkeypatch, capsys):
    from engine.cli import main

    source = damaged(tmp_path / "voc")
    monkeypatch.chdir(tmp_path)
    words = [f"policies.{kind}={policy}" for kind, policy in LENIENT.items()]
    started = []
    begin = Worker.__init__
    monkeypatch.setattr(Worker, "__init__", lambda self: (begin(self), started.append(self))[0])
    reports = []
    for workers_wanted in (1, 2):
        code = main(["check", f"data={source}", f"workers={workers_wanted}", f"out=out{workers_wanted}", *words])
        reports.append((code, tree(tmp_path / f"out{workers_wanted}")))
        assert len(started) == (2 if workers_wanted == 2 else 0)
    assert reports[0] == reports[1]
    assert main(["check", f"data={source}", "workers=-1"]) == 2
    assert "check: workers: Input should be greater than or equal to 0" in capsys.readouterr().err
