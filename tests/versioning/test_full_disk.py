"""A disk that is full while a result is recorded. A limit on the size of files stands in for it:
one errno apart.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import WorkspaceError
from engine.files import described_full_disk

pytestmark = pytest.mark.system

pytest.importorskip("dvc")

ROOT = Path(__file__).resolve().parents[2]
DVC_YAML = "stages:\n  big:\n    cmd: 'true'\n    deps: [raw.txt]\n    outs: [big.bin]\n"
STEP = """
import os, resource, sys
from pathlib import Path
from engine.errors import WorkspaceError
from engine.versioning.dvc_repo import DvcStages

def make():
    Path("big.bin.tmp").write_bytes(os.urandom(3 << 20)); os.replace("big.bin.tmp", "big.bin")
    if "full" in sys.argv:  # from here on, as DVC copies the result into its cache
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))

try:
    print(DvcStages(Path.cwd()).run("big", make).status)
except WorkspaceError as error:
    sys.exit(f"WorkspaceError: {error}")
"""


@pytest.fixture
def step(tmp_path):
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("MLFLOW_", "DVC_", "DETECTFLOW_", "PREFECT_"))
    }
    env = {
        **kept,
        "PYTHONPATH": str(ROOT),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site"),
    }
    root = tmp_path / "project"
    root.mkdir()
    for name, text in {"dvc.yaml": DVC_YAML, "params.yaml": "{}\n", "raw.txt": "raw"}.items():
        (root / name).write_text(text)
    made = subprocess.run(
        [sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=root, env=env
    )
    assert made.returncode == 0
    (root / ".dvc" / "config").write_text("[core]\n    no_scm = True\n[cache]\n    type = copy\n")

    def run(*words):
        return subprocess.run(
            [sys.executable, "-c", STEP, *words], cwd=root, env=env, capture_output=True, text=True
        )

    run.root = root
    return run


def test_a_result_that_cannot_be_recorded_is_reported_and_the_next_run_starts_clean(step):
    failed = step("full")
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert (
        "WorkspaceError: stage big: big.bin did not get into" in failed.stderr
        and str(step.root) in failed.stderr
    )
    assert "Free some disk space and run again" in failed.stderr
    assert not (step.root / "dvc.lock").exists()  # nothing claims to be up to date
    again = step()
    assert (again.returncode, again.stdout.strip()) == (0, "ran"), again.stderr
    assert step().stdout.strip() == "skipped"


def test_only_a_full_disk_is_reported_as_one(tmp_path):
    with pytest.raises(
        WorkspaceError, match=r"stage x: No space left on device \(.*f\)\. Free some disk space"
    ):
        with described_full_disk("stage x"):
            raise OSError(28, "No space left on device", str(tmp_path / "f"))
    with pytest.raises(IsADirectoryError), described_full_disk("stage x"):
        open(tmp_path, "w")
