"""A run folder has one writer at a time, and SIGTERM leaves one that can be resumed."""

import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from classifier import assert_same_run, csv_cells, make, settings_of

from engine.core.checkpoint import load_checkpoint
from engine.core.run_lock import LOCK_FILE, RunLock
from engine.errors import WorkspaceError

# A run that says how far it is and then takes its time; what it does comes as JSON.
SCRIPT = """
import json, sys, time
from pathlib import Path
from classifier import ClassifierTrainer
job = json.loads(sys.argv[1])
if job.get("own_handler"):
    import signal
    signal.signal(signal.SIGTERM, lambda *_: Path(job["seen"]).write_text("mine"))
trainer = ClassifierTrainer(job["overrides"])
trainer.add_callback("teardown", lambda t: Path(job["seen"]).write_text(t.stop_reason))
def wait(t):
    if t.epoch == 2:
        print("in epoch 3", flush=True)
        time.sleep(job["wait_s"])
trainer.add_callback("on_train_batch_end", wait)
try:
    trainer.train()
finally:
    print("finally", flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Start that script and wait until it is in its third epoch."""
    running = []

    def started(wait_s=60, **job):
        job = {
            "overrides": settings_of(tmp_path, name="run", epochs=5),
            "seen": str(tmp_path / "seen"),
            "wait_s": wait_s,
            **job,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(job)],
            cwd=Path(__file__).parent,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        running.append(process)
        assert process.stdout.readline() == "in epoch 3\n", process.stderr.read()
        return process

    yield started
    for process in running:
        process.kill()
        process.communicate()


# --- one writer -----------------------------------------------------------------------------------


def test_a_second_process_is_refused_with_who_writes_and_a_kill_frees_the_folder(tmp_path, start):
    make(tmp_path, name="whole", epochs=5).train()
    writer = start()
    said = rf"run: process {writer.pid} on {re.escape(os.uname().nodename)} since 20.*\+00:00 is writing this run"
    for changes in ({"resume": True}, {"exist_ok": True}):
        with pytest.raises(WorkspaceError, match=said):
            make(tmp_path, name="run", epochs=5, **changes).train()
    assert (
        load_checkpoint(tmp_path / "run/weights/last.pt").training["epoch"] == 1
    )  # who only reads may
    writer.kill()
    writer.wait(10)
    assert (tmp_path / "run" / LOCK_FILE).exists()  # it had no time to tidy up
    make(tmp_path, name="run", epochs=5, resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_two_new_runs_of_one_name_do_not_meet(tmp_path):
    """Both find the name free; whoever writes later takes the next number."""
    first, second = make(tmp_path, name="run"), make(tmp_path, name="run")
    assert first.save_dir == second.save_dir
    first.add_callback("on_train_start", lambda t: second.train())
    first.train()
    assert (first.save_dir.name, second.save_dir.name) == ("run", "run2")
    assert all(
        len(csv_cells(tmp_path / name)) == 4 and (tmp_path / name / "weights/best.pt").exists()
        for name in ("run", "run2")
    )
    third = make(tmp_path, name="late")
    make(tmp_path, name="late", seed=3).train()  # done before the third begins
    third.train()
    assert third.save_dir.name == "late2"


def test_a_run_that_never_began_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError):
        trainer = make(tmp_path / "a" / "b", name="run")
        trainer.add_callback("on_pretrain_routine_start", lambda t: 1 / 0)
        trainer.train()
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with pytest.raises(ZeroDivisionError):
        trainer = make(tmp_path, name="mine", exist_ok=True)
        trainer.add_callback("on_pretrain_routine_start", lambda t: 1 / 0)
        trainer.train()
    assert not list((tmp_path / "mine").iterdir())  # it was there before and stays


def test_many_that_want_one_folder_never_have_it_together(tmp_path):
    """Processes that take and release as fast as they can; each writes its number and finds it
    again.
    """
    work = (
        "import os, sys, time\nfrom pathlib import Path\nfrom engine.core.run_lock import RunLock\n"
        "folder, me, had = Path(sys.argv[1]), sys.argv[2], 0\n"
        "end = time.monotonic() + 2\n"
        "while time.monotonic() < end:\n"
        "    with RunLock() as lock:\n"
        "        if lock.take(folder): continue\n"
        "        (folder.parent / 'owner').write_text(me)\n"
        "        time.sleep(0.001)\n"
        "        assert (folder.parent / 'owner').read_text() == me\n"
        "        had += 1\n"
        "print(had)\n"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", work, str(tmp_path / "run"), str(i)], stdout=subprocess.PIPE
        )
        for i in range(3)
    ]
    counts = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0] and sum(counts) > 50
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert make(tmp_path, name="run").train().stop_reason == "done"
    assert f"{tmp_path / 'run'}: this file system has no locks (No locks available)" in caplog.text


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WorkspaceError, match="file/run: the run directory cannot be made"):
        make(tmp_path / "file", name="run").train()


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs a folder in which nothing can be made"
)
def test_a_folder_that_is_never_there_after_it_was_made_is_an_error_and_not_waited_for(tmp_path):
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for folder in (Path("/proc/x/y"), tmp_path / "nowhere"):
        with (
            RunLock() as lock,
            pytest.raises(
                WorkspaceError, match=f"{folder}: the run directory cannot be made: .*project="
            ),
        ):
            lock.take(folder)


def test_a_folder_that_goes_while_it_is_made_is_made_again(tmp_path, monkeypatch):
    """`mkdir` met the folder of another, who removes it before `mkdir` looks what it met."""
    mkdir, met = Path.mkdir, []

    def meet(self, *args, **kwargs):
        if not met:
            met.append(self)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))
        return mkdir(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", meet)
    with RunLock() as lock:
        assert lock.take(tmp_path / "run") == "" and met == [tmp_path / "run"]


def test_a_holder_without_a_name_is_another_process(tmp_path):
    with RunLock() as lock, RunLock() as late:
        assert lock.take(tmp_path) == ""
        (tmp_path / LOCK_FILE).write_text("{half")
        assert late.take(tmp_path) == "another process"


# --- SIGTERM --------------------------------------------------------------------------------------


def test_sigterm_reaches_teardown_and_the_run_goes_on_to_the_same_bits(tmp_path, start):
    make(tmp_path, name="whole", epochs=5).train()
    process = start()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143 and out == "finally\n" and err == ""
    assert (tmp_path / "seen").read_text() == "interrupted"
    assert not (tmp_path / "run" / LOCK_FILE).exists()
    make(tmp_path, name="run", epochs=5, resume=True).train()
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_handler_of_ones_own_is_left_alone(tmp_path, start):
    process = start(wait_s=0.5, own_handler=True)
    process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 20
    while not (tmp_path / "seen").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (tmp_path / "seen").read_text() == "mine"
    process.communicate(timeout=60)
    assert process.returncode == 0 and (tmp_path / "seen").read_text() == "done"


def test_after_a_run_sigterm_is_as_it_was(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    make(tmp_path).train()
    assert signal.getsignal(signal.SIGTERM) is before
