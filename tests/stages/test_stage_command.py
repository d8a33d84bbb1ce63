"""`python -m engine.stages NAME` as a process: how it ends is what DVC and a shell learn of it."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.project.workspace_lock import workspace_lock

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("sent, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_exit_code_shows_the_signal(project, sent, code):
    command = [sys.executable, "-m", "engine.stages", "prepare"]
    with workspace_lock(project, "the test"):  # it waits, which is when the signal comes
        stage = subprocess.Popen(
            command,
            cwd=project,
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=as_in_a_terminal,
        )
        while "Waiting" not in stage.stderr.readline():
            assert stage.poll() is None
        stage.send_signal(sent)
        reported = stage.communicate(timeout=30)[1]
    assert stage.returncode == code
    assert (
        "was interrupted; what was prepared before is kept, run it again" in reported
        and "Traceback" not in reported
    )


def as_in_a_terminal():
    """A shell lets what it runs in the background ignore Ctrl-C, and these tests may be run that
    way.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment():
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("MLFLOW_", "DVC_", "DETECTFLOW_", "PREFECT_"))
    }
    return {**kept, "PYTHONPATH": str(ROOT)}
