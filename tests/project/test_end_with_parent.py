"""`engine.project.parent_process`: a stage ends when the command that started it is killed, with or
without a shell between them.
"""

import os
import shutil
import subprocess
import sys
import time

import pytest

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the Linux kernel"),
]

STAGE = f"""{sys.executable} -c '
import os, time
from engine.project.parent_process import end_with_parent
end_with_parent()
print(os.getpid(), flush=True)
time.sleep(60)'"""
# dash hands its process over only by exec; every shell stays when something follows.
STAYING, LEAVING = f"{STAGE}; true", f"exec {STAGE}"


def started_by(shell, command, **env):
    """(the process that started the shell, the stage's id), the stage having asked for its end."""
    starter = f"import subprocess, sys; subprocess.run([{shell!r}, '-c', sys.argv[1]])"
    outer = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    process = subprocess.Popen(
        [sys.executable, "-c", starter, command],
        stdout=subprocess.PIPE,
        text=True,
        env=outer | env,
        stderr=subprocess.DEVNULL,
    )
    return process, int(process.stdout.readline())


def runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def ends(pid, within_s):
    deadline = time.monotonic() + within_s
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not runs(pid)


@pytest.mark.parametrize("shell", ["sh", "bash", "dash"])
@pytest.mark.parametrize("command", [STAYING, LEAVING], ids=["shell stays", "shell leaves"])
def test_under_dvc_a_stage_ends_with_the_process_above_its_shell(shell, command):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    starter, stage = started_by(shell, command, DVC_STAGE="train")
    assert not ends(stage, 0.3)
    starter.kill()
    starter.wait()
    assert ends(stage, 10)


def test_a_stage_started_by_hand_outlives_the_terminal_above_its_shell():
    process, stage = started_by("bash", STAYING)
    process.kill()
    process.wait()
    try:
        assert not ends(stage, 1)
    finally:
        os.kill(stage, 9)
