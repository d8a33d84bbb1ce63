"""One holder at a time; it is named, waited for or refused, and its death frees the lock."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import engine.project.workspace_lock as lock_module
from engine.errors import WorkspaceError
from engine.project.gpu_lock import FOLDER_VARIABLE, gpu_lock
from engine.project.workspace_lock import holder, require_writable, workspace_lock

HOLD = """
import sys, time, pathlib
from engine.project.workspace_lock import workspace_lock
with workspace_lock(pathlib.Path(sys.argv[1]), "the other one"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def other(root, seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "held"
    return process


def test_no_wait_names_the_holder(tmp_path):
    process = other(tmp_path, 60)
    try:
        with pytest.raises(
            WorkspaceError, match=rf"process {process.pid} \(the other one\) since 20"
        ):
            with workspace_lock(tmp_path, wait=False):
                pass
        assert holder(tmp_path).pid == process.pid
    finally:
        process.kill()
        process.wait()


def test_waiting_says_so_once_and_gets_the_lock(tmp_path):
    process = other(tmp_path, 1.0)
    reported = []
    with workspace_lock(tmp_path, emit=reported.append):
        pass
    process.wait()
    assert len(reported) == 1 and "the other one" in reported[0]


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
        with (
            pytest.raises(WorkspaceError, match="held by"),
            workspace_lock(tmp_path, timeout_s=0.3),
        ):
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
class TestTwoUsers:
    @pytest.fixture
    def folder(self):
        """Where everybody may look, which pytest's own folders do not allow."""
        made = Path(tempfile.mkdtemp())
        made.chmod(0o755)
        yield made
        shutil.rmtree(made)

    def as_nobody(self, action):
        """What `action` returns, or the words of its error, as the user `nobody`."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            lock_module._held.clear()  # a process of its own holds nothing
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            try:
                reported = str(action())
            except WorkspaceError as error:
                reported = f"WorkspaceError: {error}"
            except BaseException as error:
                reported = repr(error)
            os.write(writer, reported.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as said:
            reported = said.read()
        os.waitpid(child, 0)
        return reported

    def locked(self, lock):
        with lock:
            return "had it"

    def test_the_workspace_of_another_is_refused_in_words(self, folder):
        require_writable(folder)
        wanted = (
            "may not be written (it belongs to root, and you are nobody). A run writes into its "
            "workspace: ask for write"
        )
        assert f"{folder}: {wanted}" in self.as_nobody(lambda: require_writable(folder))
        with workspace_lock(folder):
            pass
        reported = self.as_nobody(lambda: self.locked(workspace_lock(folder)))
        assert (
            reported.startswith("WorkspaceError: ")
            and "the workspace cannot be locked" in reported
            and wanted in reported
        )

    def test_in_a_folder_for_all_a_gpu_is_held_for_all(self, folder, monkeypatch):
        folder.chmod(0o1777)
        monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
        with gpu_lock("GPU-1", "stage train of root's"):
            reported = self.as_nobody(lambda: self.locked(gpu_lock("GPU-1", "mine", timeout_s=0.3)))
            assert (
                "the GPU GPU-1 is held by process" in reported
                and "stage train of root's" in reported
            )
        assert self.as_nobody(lambda: self.locked(gpu_lock("GPU-1", "mine"))) == "had it"
        assert self.as_nobody(lambda: self.locked(gpu_lock("GPU-2", "mine"))) == "had it"
        with gpu_lock("GPU-2", "root's", timeout_s=1):
            pass
