"""What goes wrong around a run: said in words, with what to do, and no result or file of the user's
lost. DVC is real.

The pipeline is the small one of test_dvc_adapter.py. docs/howto/troubleshooting.md has the table of
what is seen here.
"""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest
from test_dvc_adapter import Project

from engine.errors import ConfigError, EngineError, WorkspaceError
from engine.stages.runner import run_stage
from engine.versioning.stage_inputs import load_definitions

pytestmark = pytest.mark.system

pytest.importorskip("dvc")

MERGE = "<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> other\n"
DEAD_PID = 2**22 + 1  # above what Linux gives


@pytest.fixture
def project(tmp_path, monkeypatch):
    """In git, without any commit, and with a first run."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    root = tmp_path / "project"
    root.mkdir()
    made = Project(root, monkeypatch)
    subprocess.run(["git", "init", "-q"], check=True)
    made.dvc("init", "-q")
    assert made.flow() == ["ran", "ran"]
    made.ran()
    return made


def outputs(project):
    return {file.name: file.read_text() for file in (project.root / "doubled").iterdir()} | {
        "total": project.total
    }


@pytest.mark.parametrize(
    "file, content, error, words",
    [
        ("dvc.lock", "", WorkspaceError, r"dvc\.lock.*git checkout dvc\.lock.*delete it"),
        ("dvc.lock", MERGE, WorkspaceError, r"dvc\.lock.*Settle a merge"),
        ("dvc.lock", "schema: '2.0'\nstages: 5\n", WorkspaceError, r"dvc\.lock.*git checkout"),
        ("dvc.lock", "\0\1", WorkspaceError, r"dvc\.lock.*git checkout"),
        ("dvc.yaml", "", ConfigError, r"dvc\.yaml: no stage 'double'"),
        ("dvc.yaml", MERGE, ConfigError, r"dvc\.yaml: not valid YAML.*line 2"),
        ("dvc.yaml", "stages: 5\n", ConfigError, r"dvc\.yaml: `stages` must hold names"),
        ("dvc.yaml", "stages:\n  double: x\n", ConfigError, r"dvc\.yaml: `stages` must hold names"),
        ("params.yaml", "", WorkspaceError, r"'double' are missing from 'params\.yaml'"),
        ("params.yaml", MERGE, ConfigError, r"params\.yaml: not valid YAML.*line 2"),
        (
            "params.yaml",
            "- 1\n",
            ConfigError,
            r"params\.yaml: expected `key: value` lines, found a list",
        ),
        ("params.yaml", None, ConfigError, r"params\.yaml: no such file"),
        (".dvc/tmp/rwlock", "{broken", WorkspaceError, r"rwlock.*If none is, delete it"),
        (".dvc/tmp/rwlock", '{"else": 1}', WorkspaceError, r"rwlock.*If none is, delete it"),
        (".dvc/config", "[core\n", WorkspaceError, r"DVC cannot open the project"),
    ],
)
def test_a_damaged_file_is_named_and_repairing_it_is_enough(project, file, content, error, words):
    path = project.root / file
    good, before = (path.read_text() if path.exists() else "{}"), outputs(project)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(error, match=f"(?s){words}"):
        project.flow(force="rwlock" in file)
    assert outputs(project) == before
    path.write_text(good)
    assert project.flow() == ["skipped", "skipped"]


def test_a_deleted_dvc_lock_costs_nothing(project):
    (project.root / "dvc.lock").unlink()
    assert project.flow() == ["restored", "restored"] and project.ran() == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("train:\n  epocs: 3\n", "Did you mean 'epochs'"),
        ("train:\n  epochs: many\n", r"train\.epochs"),
        ("train:\n  imgsz: 0\n", "pixels above 0"),
        ("trian: {}\n", "Did you mean 'train'"),
        (MERGE, "not valid YAML"),
    ],
)
def test_wrong_parameters_stop_a_stage_before_it_begins(tmp_path, text, words):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        run_stage("prepare", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["params.yaml"]


def test_locks_that_a_dead_process_left_hold_nobody_up(project):
    (project.root / ".dvc" / "tmp" / "lock").write_text(f"{DEAD_PID}\n")
    held = {str(project.root / "doubled"): {"pid": DEAD_PID, "cmd": "dvc repro"}}
    (project.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps({"write": held}))
    lock = project.root / ".lock" / "workspace"
    lock.write_text(
        json.dumps({"pid": DEAD_PID, "command": "detectflow run", "since": "2020-01-01"})
    )
    project.params(factor=3)
    assert project.flow(wait=False) == ["ran", "ran"]


HOLD_DVC = (
    "import sys, time; from dvc.repo import Repo; Repo().lock.lock(); print('held', flush=True); "
    "time.sleep(float(sys.argv[1]))"
)


def dvcs_lock(project, seconds):
    """A process that has DVC's lock, as `dvc push` has it for all its time."""
    words = [sys.executable, "-c", HOLD_DVC, str(seconds)]
    process = subprocess.Popen(words, cwd=project.root, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "held"
    return process, rf"process {process.pid} \(python\S* -c .*"


def dvcs_files(project, seconds):
    """One that works on a stage's output, as `dvc repro` does; it does not hold DVC's lock
    meanwhile.
    """
    process = subprocess.Popen(["sleep", str(seconds)])
    used = {str(project.root / "doubled"): {"pid": process.pid, "cmd": "dvc repro"}}
    (project.root / ".dvc" / "tmp" / "rwlock").write_text(json.dumps({"write": used}))
    return process, rf"process {process.pid} \(dvc repro\)"


@pytest.mark.parametrize("busy", [dvcs_lock, dvcs_files])
def test_a_dvc_command_at_work_is_named_and_waited_for_or_not(project, busy, monkeypatch, caplog):
    monkeypatch.setattr("engine.versioning.dvc_repo.BUSY_PATIENCE_S", 1.0)
    project.params(factor=3)
    process, named = busy(project, 60)
    with pytest.raises(
        WorkspaceError,
        match=rf"(?s)another DVC command is at work: {named}.*Wait until it ends, or stop it",
    ):
        project.flow(wait=False)
    process.kill()
    process.wait()
    project.ran()

    process, named = busy(project, 6)
    with contextlib.closing(process.stdout or io.StringIO()):
        threading.Thread(
            target=process.wait, daemon=True
        ).start()  # a dead child that nobody asks for still has its number
        assert project.flow() == ["ran", "ran"] and project.total == 9
    reported = [line for line in caplog.messages if line.startswith("Waiting: ")]
    assert (
        len(reported) == 1
        and re.search(named, reported[0], re.DOTALL)
        and project.ran() == ["double", "total"]
    )
    assert project.flow() == ["skipped", "skipped"]


def test_an_output_edited_by_hand_is_not_overwritten_without_a_word(project):
    edited = project.root / "doubled" / "a"
    edited.unlink()
    edited.write_text("mine")
    with pytest.raises(WorkspaceError, match=r"doubled/a.*changed by hand.*`dvc checkout --force`"):
        project.flow()
    assert edited.read_text() == "mine"
    project.dvc("checkout", "--force")  # what the message advises
    assert project.flow() == ["skipped", "skipped"] and project.total == 6


@pytest.mark.parametrize("lost", [["doubled"], ["total.json"], ["doubled", "total.json"]])
def test_deleted_outputs_come_back_without_work(project, lost):
    before = outputs(project)
    for name in lost:
        path = project.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert "restored" in project.flow() and project.ran() == []
    assert outputs(project) == before


@pytest.mark.parametrize("how", ["deleted", "rotten"])
def test_a_cache_that_lost_its_objects_is_not_believed(project, how):
    project.params(factor=3)
    assert project.flow() == ["ran", "ran"] and project.total == 9
    for file in (project.root / ".dvc" / "cache" / "files").rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            file.unlink()
            if how == "rotten":
                file.write_bytes(b"77")
    project.params(factor=2)
    project.ran()
    assert project.flow() == ["ran", "ran"] and project.total == 6
    assert project.flow() == ["skipped", "skipped"]


@pytest.mark.parametrize("jump_s", [-50 * 365 * 86400, 365 * 86400])
def test_a_clock_that_jumps_neither_runs_nor_hides_anything(project, jump_s):
    then = time.time() + jump_s
    for file in [
        *project.root.glob("raw/*"),
        *project.root.glob("*.y*ml"),
        project.root / "stub.py",
    ]:
        os.utime(file, (then, then))
    assert project.flow() == ["skipped", "skipped"]
    (project.root / "raw" / "b").write_text("10")
    os.utime(project.root / "raw" / "b", (then, then))
    assert project.flow() == ["ran", "ran"] and project.total == 22


def test_a_workspace_that_was_moved_has_nothing_to_redo(project, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere"
    shutil.move(project.root, moved)
    project.root = moved
    monkeypatch.chdir(moved)
    assert project.flow() == ["skipped", "skipped"] and project.ran() == []


def test_a_remote_out_of_reach_or_none_stops_no_run(project):
    project.params(factor=3)
    assert project.flow() == ["ran", "ran"]
    for remote in ([], ["-d", "away", "ssh://127.0.0.1:1/data"]):
        if remote:
            project.dvc("remote", "add", *remote)
        assert project.flow() == ["skipped", "skipped"]
    project.params(factor=4)
    assert project.flow() == ["ran", "ran"]


def test_a_lock_file_that_cannot_be_made_says_so(project):
    shutil.rmtree(project.root / ".lock")
    (project.root / ".lock").write_text(
        ""
    )  # stands for a folder that may not be written: root may write all
    with pytest.raises(WorkspaceError, match="cannot be locked"):
        project.flow()


def test_the_real_definitions_are_read_only_where_both_files_are_right(project):
    assert list(load_definitions(project.root)) == ["double", "total"]
    done = subprocess.run(
        [sys.executable, "-m", "engine.stages", "prepare"],
        capture_output=True,
        text=True,
        cwd=project.root,
    )
    assert done.returncode == ConfigError.exit_code and "Traceback" not in done.stderr
    assert "no stage 'prepare'" in done.stderr and issubclass(ConfigError, EngineError)
