"""A lock has one holder, which it names; it is free when that one ends, whatever it has started."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from engine.errors import WorkspaceError
from engine.locks import Lock, holder_of, locked


def test_one_holder_that_is_named(tmp_path):
    file = tmp_path / "lock"
    assert holder_of(file) is None and not file.exists(), "a question makes no file"
    with Lock(file) as first, Lock(file) as second:
        assert first.try_take("the first") and first.is_held
        assert not second.try_take("the second") and not second.is_held
        found = holder_of(file)
        assert (found.pid, found.command) == (os.getpid(), "the first")
        assert second.holder() == f"process {os.getpid()} (the first) since {found.since}"
        first.release()
        assert second.try_take() and holder_of(file).command == ""
    assert holder_of(file) is None and file.exists()


def test_who_waits_says_for_whom_and_gives_up_in_time(tmp_path):
    file, said = tmp_path / "lock", []
    with Lock(file) as first, Lock(file) as second:
        first.take("long work")
        began = time.monotonic()
        assert not second.take(timeout_s=0.4, waiting=said.append, again_s=0.15)
        assert 0.4 <= time.monotonic() - began < 5
        assert 2 <= len(said) <= 4 and all("(long work)" in text for text in said)
        said.clear()
        assert not second.take(timeout_s=0.3, waiting=said.append)
        assert len(said) == 1
        assert not second.take(timeout_s=0)


def test_a_transient_file_goes_with_its_lock_and_nobody_locks_a_file_that_is_gone(tmp_path):
    file = tmp_path / "lock"
    inside, most = [], []

    def work():
        for _ in range(30):
            with Lock(file, transient=True) as lock:
                lock.take()
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0005)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(most) == 1 and len(most) == 90 and not file.exists()


def test_a_child_of_a_killed_holder_does_not_keep_the_lock(tmp_path):
    file = tmp_path / "lock"
    code = (
        "import pathlib, subprocess, sys, time\nfrom engine.locks import Lock\n"
        f"lock = Lock(pathlib.Path({str(file)!r})); lock.take('parent')\n"
        "child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    try:
        assert holder_of(file).pid == parent.pid
        parent.kill()
        parent.wait()
        assert holder_of(file) is None
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_text_that_names_nobody_is_another_process(tmp_path):
    file = tmp_path / "lock"
    with Lock(file) as first, Lock(file) as second:
        first.take()
        for text in ("", "{half", "[]", '{"pid": 1}'):
            file.write_text(text)
            assert not second.try_take() and second.holder() == "another process"
            assert holder_of(file).pid == 0


def test_where_it_cannot_be_written_the_reason_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot be written"), locked(tmp_path / "file/lock"):
        pass
    with pytest.raises(OSError):
        Lock(tmp_path / "missing" / "lock").try_take()
