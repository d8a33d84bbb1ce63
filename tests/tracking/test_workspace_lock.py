"""One holder at a time; it is named, waited for or refused, and its death frees the lock."""

import os
import signal
import subprocess
import sys
import time

import pytest

from engine.errors import WorkspaceError
from engine.tracking.workspace import holder, workspace_lock

HOLD = """
import sys, time, pathlib
from engine.tracking.workspace import workspace_lock
with workspace_lock(pathlib.Path(sys.argv[1]), "the other one"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def other(root, seconds):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(root), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "held"
    return process


def test_no_wait_names_the_holder(tmp_path):
    process = other(tmp_path, 60)
    try:
        with pytest.raises(WorkspaceError, match=rf"process {process.pid} \(the other one\) since 20"):
            with workspace_lock(tmp_path, wait=False):
                pass
        assert holder(tmp_path).pid == process.pid
    finally:
        process.kill()
        process.wait()


def test_waiting_says_so_once_and_gets_the_lock(tmp_path):
    process = other(tmp_path, 1.0)
    told = []
    with workspace_lock(tmp_path, tell=told.append):
        pass
    process.wait()
    assert len(told) == 1 and "the other one" in told[0]


def test_a_holder_killed_without_mercy_leaves_no_lock(tmp_path):
    process = other(tmp_path, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert holder(tmp_path) is None
    started = time.monotonic()
    with workspace_lock(tmp_path, wait=False):
        assert holder(tmp_path).pid == os.getpid()
    assert time.monotonic() - started < 1


def test_the_holder_may_enter_again(tmp_path):
    with workspace_lock(tmp_path, wait=False):
        with workspace_lock(tmp_path, wait=False):
            pass
        assert holder(tmp_path) is not None
    assert holder(tmp_path) is None


def test_a_timeout_ends_the_wait(tmp_path):
    process = other(tmp_path, 60)
    try:
        with pytest.raises(WorkspaceError, match="held by"), workspace_lock(tmp_path, timeout_s=0.3):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    with workspace_lock(tmp_path, wait=False):
        child = os.fork()
        if child == 0:
            time.sleep(5)
            os._exit(0)
    try:
        assert holder(tmp_path) is None
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
