"""The adapter against the installed DVC: a stub pipeline of two stages, driven by the adapter and
by `dvc repro`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import WorkspaceError
from engine.versioning.dvc_repo import DvcStages

pytest.importorskip("dvc")

DVC_YAML = """
stages:
  double:
    cmd: {python} stub.py double
    deps: [raw, stub.py]
    params: [double]
    outs: [doubled]
  total:
    cmd: {python} stub.py total
    deps: [doubled]
    params: [total.offset]
    metrics:
      - total.json
"""
STUB = """
import json, os, pathlib, sys

def double():
    factor = [int(l.split(":")[1]) for l in open("params.yaml") if "factor" in l][0]
    with open("ran.log", "a") as log: log.write("double\\n")
    out = pathlib.Path("doubled.tmp"); out.mkdir()
    for f in sorted(pathlib.Path("raw").iterdir()): (out / f.name).write_text(str(int(f.read_text()) * factor))
    import shutil; shutil.rmtree("doubled", ignore_errors=True); out.rename("doubled")

def total():
    offset = [int(l.split(":")[1]) for l in open("params.yaml") if "offset" in l][0]
    with open("ran.log", "a") as log: log.write("total\\n")
    value = sum(int(f.read_text()) for f in pathlib.Path("doubled").iterdir()) + offset
    pathlib.Path("total.json.tmp").write_text(json.dumps({"total": value})); os.replace("total.json.tmp", "total.json")

if __name__ == "__main__": globals()[sys.argv[1]]()
"""


class Project:
    def __init__(self, root: Path, monkeypatch):
        self.root = root
        monkeypatch.chdir(root)
        (root / "raw").mkdir()
        (root / "raw" / "a").write_text("1")
        (root / "raw" / "b").write_text("2")
        (root / "stub.py").write_text(STUB)
        (root / "dvc.yaml").write_text(DVC_YAML.format(python=sys.executable))
        self.params(factor=2)

    def params(self, factor=2, offset=0):
        (self.root / "params.yaml").write_text(
            f"double:\n  factor: {factor}\ntotal:\n  offset: {offset}\n"
        )

    def flow(self, **options):
        import runpy

        module = runpy.run_path("stub.py")
        steps = DvcStages(self.root, **options)
        return [steps.run(name, module[name]).status for name in ("double", "total")]

    def dvc(self, *words):
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words], capture_output=True, text=True, cwd=self.root
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def ran(self):
        log = self.root / "ran.log"
        names = log.read_text().split() if log.exists() else []
        log.unlink(missing_ok=True)
        return names

    @property
    def total(self):
        return json.loads((self.root / "total.json").read_text())["total"]


@pytest.fixture(params=["git", "no git"])
def project(request, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    root = tmp_path / "project"
    root.mkdir()
    made = Project(root, monkeypatch)
    if request.param == "git":
        subprocess.run(["git", "init", "-q"], check=True)
        made.dvc("init", "-q")
    else:
        made.dvc("init", "-q", "--no-scm")
    return made


def test_nothing_changed_skips_everything(project):
    assert project.flow() == ["ran", "ran"]
    assert project.total == 6
    assert project.flow() == ["skipped", "skipped"]
    assert project.ran() == ["double", "total"]


def test_a_changed_parameter_reruns_and_the_old_value_is_restored_without_work(project):
    project.flow()
    project.params(factor=3)
    assert project.flow() == ["ran", "ran"] and project.total == 9
    project.ran()
    project.params(factor=2)
    assert project.flow() == ["restored", "restored"] and project.total == 6
    assert project.ran() == []
    assert project.flow() == ["skipped", "skipped"]
    assert "up to date" in project.dvc("status")


def test_only_the_stage_whose_parameter_changed_runs(project):
    project.flow()
    project.params(offset=5)
    assert project.flow() == ["skipped", "ran"] and project.total == 11


def test_changed_data_and_changed_code_rerun(project):
    project.flow()
    (project.root / "raw" / "b").write_text("10")
    assert project.flow() == ["ran", "ran"] and project.total == 22
    (project.root / "stub.py").write_text(STUB + "\n# edited\n")
    assert project.flow() == ["ran", "skipped"]  # the same doubled files: total has nothing to do


def test_flow_then_repro_redoes_nothing(project):
    project.flow()
    project.ran()
    project.dvc("repro")
    assert project.ran() == []


def test_repro_then_flow_redoes_nothing_and_shares_the_run_cache(project):
    project.dvc("repro")
    assert project.flow() == ["skipped", "skipped"]
    project.params(factor=3)
    project.dvc("repro")
    project.params(factor=2)
    project.ran()
    assert project.flow() == ["restored", "restored"]
    project.params(factor=3)
    project.dvc("repro")
    assert project.ran() == [] and project.total == 9


def test_a_parameter_edited_under_a_running_step_is_not_recorded(project):
    project.flow()
    project.params(factor=3)
    lock = (project.root / "dvc.lock").read_text()

    def double_while_somebody_edits():
        project.params(factor=4)

    with pytest.raises(
        WorkspaceError, match=r"changed while it ran \(params.yaml: double.factor\)"
    ):
        DvcStages(project.root).run("double", double_while_somebody_edits)
    assert (project.root / "dvc.lock").read_text() == lock
    assert project.flow() == ["ran", "ran"] and project.total == 12


def test_editing_another_stages_parameter_meanwhile_is_allowed(project):
    import runpy

    module = runpy.run_path("stub.py")

    def double_while_somebody_edits():
        module["double"]()
        project.params(offset=7)

    assert DvcStages(project.root).run("double", double_while_somebody_edits).status == "ran"
    assert project.flow() == ["skipped", "ran"] and project.total == 13


def test_a_step_that_fails_records_nothing_and_runs_again(project):
    def crash():
        (project.root / "doubled").mkdir()
        (project.root / "doubled" / "a").write_text("half")
        raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        DvcStages(project.root).run("double", crash)
    assert not (project.root / "dvc.lock").exists()
    assert project.flow() == ["ran", "ran"] and project.total == 6


def test_an_input_that_is_missing_though_no_step_needs_it_is_reported_in_words(project):
    text = (project.root / "dvc.yaml").read_text()
    (project.root / "dvc.yaml").write_text(
        text.replace("[raw, stub.py]", "[raw, stub.py, notes.txt]")
    )
    with pytest.raises(
        WorkspaceError,
        match=r"stage double: .*notes.txt.* does not exist, although dvc.yaml names it",
    ):
        project.flow()
    assert not (project.root / "dvc.lock").exists()
    (project.root / "notes.txt").touch()
    assert project.flow() == ["ran", "ran"]


def test_deleted_outputs_come_back_from_the_cache(project):
    project.flow()
    shutil.rmtree(project.root / "doubled")
    (project.root / "total.json").unlink()
    project.ran()
    assert project.flow() == ["restored", "restored"] and project.total == 6
    assert project.ran() == []


def test_force_runs_what_is_up_to_date(project):
    project.flow()
    assert project.flow(force=True) == ["ran", "ran"]
    assert project.flow() == ["skipped", "skipped"]


def test_without_dvc_every_step_runs_and_one_warning_is_given(tmp_path, monkeypatch, caplog):
    made = Project(tmp_path, monkeypatch)
    import runpy

    module = runpy.run_path("stub.py")
    steps = DvcStages(made.root)
    for _ in range(2):
        assert [steps.run(name, module[name]).status for name in ("double", "total")] == [
            "ran",
            "ran",
        ]
    assert len([r for r in caplog.records if "no .dvc folder" in r.message]) == 1
    assert made.total == 6


def test_the_reason_for_a_run_is_reported_in_words(project):
    project.flow()
    project.params(factor=3)
    (project.root / "raw" / "b").write_text("3")
    reasons = DvcStages(project.root).status("double")
    assert (
        "params.yaml: double modified" in reasons
        or "params.yaml: double.factor modified" in reasons
    )
    assert f"dep raw{os.sep} modified".replace(os.sep, "") in [
        r.replace(os.sep, "") for r in reasons
    ]


ALWAYS_YAML = """
stages:
  note:
    cmd: {python} stub.py note
    always_changed: true
    outs:
      - notes/double.json: {{persist: true}}
  double:
    cmd: {python} stub.py double
    deps: [raw, notes/double.json]
    params: [double]
    outs: [doubled]
"""
NOTE = """
def note():
    with open("ran.log", "a") as log: log.write("note\\n")
    text = open("code.txt").read().split("#")[0]
    file = pathlib.Path("notes/double.json"); file.parent.mkdir(exist_ok=True)
    if not file.exists() or file.read_text() != text: file.write_text(text)

if __name__"""


class Noting(Project):
    """A stage that is always run notes what the next one depends on, as stage `code` does."""

    def __init__(self, root: Path, monkeypatch):
        super().__init__(root, monkeypatch)
        (root / "stub.py").write_text(STUB.replace("\nif __name__", NOTE))
        (root / "dvc.yaml").write_text(ALWAYS_YAML.format(python=sys.executable))
        self.code("one")

    def code(self, text):
        (self.root / "code.txt").write_text(text)

    def flow(self):
        import runpy

        module = runpy.run_path("stub.py")
        steps = DvcStages(self.root)
        steps.refresh("note", module["note"])
        return steps.run("double", module["double"]).status


@pytest.fixture
def noting(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    (tmp_path / "project").mkdir()
    made = Noting(tmp_path / "project", monkeypatch)
    made.dvc("init", "-q", "--no-scm")
    return made


def test_both_drivers_leave_the_same_lock_of_a_stage_that_always_runs(noting):
    assert noting.flow() == "ran"
    lock = (noting.root / "dvc.lock").read_text()
    noting.dvc("repro")
    assert noting.ran() == ["note", "double", "note"]
    assert (noting.root / "dvc.lock").read_text() == lock
    assert noting.flow() == "skipped"
    assert (noting.root / "dvc.lock").read_text() == lock


def test_what_is_always_run_and_says_the_same_makes_nothing_stale(noting):
    noting.dvc("repro")
    noting.code("one# commented")
    noting.ran()
    noting.dvc("repro")
    assert noting.ran() == ["note"] and noting.flow() == "skipped"
    noting.code("two")
    noting.ran()
    noting.dvc("repro")
    assert noting.ran() == ["note", "double"] and noting.flow() == "skipped"
    noting.code("one")
    assert noting.flow() == "restored"  # the record of a stage that always runs is no obstacle
    noting.ran()
    noting.dvc("repro")
    assert noting.ran() == ["note"]
