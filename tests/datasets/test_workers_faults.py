"""Prepare in several processes when something happens to them: killed, interrupted, a full disk,
two at once.
"""

from __future__ import annotations

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
from dataset_builders import image_bytes, make_voc, put, tree, voc_xml
from many_images import at_once, is_gone, run, workers_of

from engine.config import DataConfig
from engine.datasets.description import load_description
from engine.datasets.image_scan import ScanResult, SerialMapper
from engine.datasets.prepare import prepare
from engine.datasets.workers import LocalWorkers
from engine.errors import DataError, WorkspaceError

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
__all__ = ["at_once"]  # a fixture


# --- killed, interrupted, full --------------------------------------------------------------------


def test_a_killed_worker_ends_prepare_and_leaves_the_old_result(tmp_path, at_once):
    content = {
        f"i{k:03d}": [("cat", (4, 2, 20, 30))] for k in range(160)
    }  # too many to be all on their way when it happens
    source = make_voc(tmp_path / "voc", content, lists=False)
    run(source, tmp_path / "out")
    before, started = tree(tmp_path / "out"), []

    def kill(values):
        if values["done"] == 20:
            started.extend(workers_of(os.getpid()))
            os.kill(started[0], signal.SIGKILL)

    with pytest.raises(
        WorkspaceError,
        match=r"worker process ended unexpectedly .*SIGKILL.* while .*png.* scanned.*workers=1",
    ):
        run(source, tmp_path / "out", LocalWorkers(2), kill)
    assert tree(tmp_path / "out") == before and sorted(p.name for p in tmp_path.iterdir()) == [
        "out",
        "voc",
    ]
    assert started and all(is_gone(pid, 1) for pid in started)


def test_a_full_disk_in_a_worker_is_reported_as_such(tmp_path, at_once):
    source = make_voc(
        tmp_path / "voc", {f"i{k:03d}": [("cat", (4, 2, 20, 30))] for k in range(40)}, lists=False
    )
    put(source / "JPEGImages/i035.png", image_bytes("big", 320, 640))
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
    put(
        root / "dvc.yaml",
        "stages:\n  prepare:\n    cmd: echo\n    params: [data]\n    outs: [data/prepared]\n",
    )
    put(root / "params.yaml", "data: {source: data/d.yaml}\nflows: {prepare: {workers: 2}}\n")
    put(root / "data/d.yaml", "name: d\npath: ../../voc\n")
    blank = cv2.imencode(".png", np.zeros((1500, 1500, 3), np.uint8))[
        1
    ].tobytes()  # small, and slow to decode
    for k in range(400):
        put(tmp_path / f"voc/JPEGImages/i{k:03d}.png", blank + str(k).encode())
        put(
            tmp_path / f"voc/Annotations/i{k:03d}.xml",
            voc_xml(f"i{k:03d}", [("cat", (4, 2, 20, 30))], (1500, 1500)),
        )
    return root


def begin_stage(root: Path) -> subprocess.Popen:
    """`python -m engine.stages prepare` as a shell's foreground job has it; returned once its
    workers are at work.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.stages", "prepare"],
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DETECTFLOW_TRACKING": "off"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not (
        len(workers_of(process.pid)) == 2
        and len(list((root / "data").glob(".prepared.new/incoming/*"))) > 24
    ):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_with_workers_nothing_is_left(signum, code, slow_project):
    process = begin_stage(slow_project)
    helpers = workers_of(process.pid)
    process.send_signal(signum)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code and "interrupted" in said and "Traceback" not in said, said
    assert [p.name for p in (slow_project / "data").iterdir()] == ["d.yaml"] and not (
        slow_project / "reports"
    ).exists()
    assert all(is_gone(pid, 1) for pid in helpers)


def test_killed_with_workers_they_end_too_and_the_next_run_is_clean(slow_project):
    process = begin_stage(slow_project)
    helpers = workers_of(process.pid)
    process.kill()
    process.communicate()
    assert all(is_gone(pid, 10) for pid in helpers)
    assert (
        not (slow_project / "data/prepared").exists()
        and (slow_project / "data/.prepared.new").exists()
    )
    for image in sorted((slow_project.parent / "voc/JPEGImages").iterdir())[10:]:
        image.unlink()
        (image.parents[1] / f"Annotations/{image.stem}.xml").unlink()
    settings = DataConfig(source=str(slow_project / "data/d.yaml"))
    prepare(
        load_description(slow_project / "data/d.yaml"),
        slow_project / "data/prepared",
        settings,
        mapper=LocalWorkers(2),
    )
    assert sorted(p.name for p in (slow_project / "data").iterdir()) == ["d.yaml", "prepared"]


# --- others who do not see the files --------------------------------------------------------------


class Elsewhere(SerialMapper):
    """Somebody who sees no file of the dataset."""

    shared = True

    def map(self, function, batches):
        yield from (
            [ScanResult(wrong="cannot be read", host="far")] * len(batch) for batch in batches
        )


def test_a_file_that_others_cannot_read_is_no_finding(tmp_path):
    source = make_voc(tmp_path / "voc")
    with pytest.raises(
        WorkspaceError, match=r"a.png: can be read here and not on far.*shared file system"
    ):
        run(source, tmp_path / "out", Elsewhere())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["voc"]
    for image in (source / "JPEGImages").iterdir():
        image.unlink()
        image.symlink_to("nowhere")
    report = prepare_error(source, tmp_path / "out")
    assert "cannot be read" in report


def prepare_error(source: Path, target: Path) -> str:
    with pytest.raises(DataError) as error:
        run(source, target, Elsewhere(), policies={})
    return str(error.value)


# --- two at once ----------------------------------------------------------------------------------

PREPARE = """
import logging, sys
from pathlib import Path
from engine.config import DataConfig
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare

logging.basicConfig(format="%(message)s", stream=sys.stdout)
def reported(values):
    if values["done"] == 3:
        print("at work", flush=True)
        input()
prepare(load_description(sys.argv[1]), Path(sys.argv[2]), DataConfig(), reported)
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
        assert len(tree(tmp_path / "out")) == 12
    assert waiting.communicate("\n")[0].endswith("done\n") and waiting.returncode == 0
    run(source, tmp_path / "expected", policies={})
    assert tree(tmp_path / "out") == tree(tmp_path / "expected")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["expected", "out", "voc"]
