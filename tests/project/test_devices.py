"""Two workspaces of one machine do not take the same GPU: the lock itself, with made-up GPUs (the
tests have none).
"""

import subprocess
import sys

import pytest

from engine.config import Params
from engine.errors import ConfigError, WorkspaceError
from engine.project import gpu_lock

GPU = "GPU-5c0ffee0"
HOLD = (
    "import sys; from engine.project.gpu_lock import gpu_lock\n"
    "with gpu_lock(sys.argv[1], 'stage train of /elsewhere'):\n"
    "    print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A process of another workspace that holds the GPU until its input ends."""
    monkeypatch.setenv(gpu_lock.FOLDER_VARIABLE, str(tmp_path / "locks"))
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, GPU], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline().strip() == "held"
    yield other
    other.kill()
    other.wait()


def test_the_second_waits_and_reports_for_whom(elsewhere):
    with pytest.raises(
        WorkspaceError,
        match=rf"the GPU {GPU} is held by process {elsewhere.pid} \(stage train of /elsewhere\)",
    ):
        with gpu_lock.gpu_lock(GPU, "mine", timeout_s=0.3):
            pass
    elsewhere.stdin.close()
    with gpu_lock.gpu_lock(GPU, "mine", timeout_s=20):
        pass


def test_another_gpu_is_free_and_a_killed_holder_leaves_nothing(elsewhere):
    with gpu_lock.gpu_lock("GPU-other", "mine", timeout_s=0):
        pass
    elsewhere.kill()
    with gpu_lock.gpu_lock(GPU, "mine", timeout_s=20):
        pass


def test_a_stage_holds_the_gpu_it_computes_on_and_a_cpu_is_nobodys(
    elsewhere, monkeypatch, tmp_path, caplog
):
    params = Params.build({"train": {"device": "cuda:1"}, "validate": {"device": "cpu"}})
    monkeypatch.setattr(gpu_lock, "gpu_id", {"cuda:1": GPU, "cpu": None}.get)
    monkeypatch.setattr(
        "engine.project.workspace_lock.logger.warning", lambda text: elsewhere.stdin.close()
    )
    for stage in ("prepare", "validate", "export", "register"):
        with gpu_lock.gpu_of_stage(stage, params, tmp_path):
            assert not elsewhere.stdin.closed, f"{stage} waited"
    with gpu_lock.gpu_of_stage("train", params, tmp_path):
        assert elsewhere.stdin.closed, "it went on before the other one had left"


def test_switched_off(elsewhere, monkeypatch):
    monkeypatch.setenv(gpu_lock.FOLDER_VARIABLE, "off")
    with gpu_lock.gpu_lock(GPU, "mine", timeout_s=0):
        pass


def test_the_id_of_a_cpu_and_of_a_device_that_is_not_there():
    assert gpu_lock.gpu_id("cpu") is None
    with pytest.raises(ConfigError, match="cuda:77"):
        gpu_lock.gpu_id("cuda:77")
