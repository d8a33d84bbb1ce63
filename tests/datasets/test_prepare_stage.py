"""Stage prepare: its two outputs, paths that do not depend on where it runs, and whether an
unwatched source changed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dataset_builders import make_voc, put, tree, voc_xml

from engine.config import Params
from engine.errors import ConfigError, WorkspaceError
from engine.stages.prepare import raw_inputs, run, source_changed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty workspace beside a dataset that DVC does not watch."""
    make_voc(tmp_path / "outside")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = tmp_path / "project"
    put(root / "dvc.yaml", "")
    put(root / "params.yaml", "")
    put(root / "data/inside.yaml", "name: inside\npath: ../../outside\n")
    put(root / "data/raw/README.md", "")
    return root


def params(**data) -> Params:
    return Params.build({"data": {"source": "data/inside.yaml", **data}})


def change(source: Path) -> None:
    put(source / "Annotations/a.xml", voc_xml("a", [("dog", (4, 2, 20, 30))]))


def test_the_two_outputs(project):
    summary = run(params(), project)
    assert json.loads((project / "reports/data.json").read_text()) == summary
    assert (
        json.loads((project / "data/prepared/dataset.json").read_text())["digest"]
        == summary["digest"]
    )


@pytest.mark.parametrize("cwd", ["project", "project/data", "."])
def test_a_relative_path_is_relative_to_the_workspace(cwd, project, monkeypatch):
    monkeypatch.chdir(project.parent / cwd)
    assert run(params(path="../outside"), project)["counts"]["train"]["images"] == 4


@pytest.mark.parametrize("cwd", ["project", "."])
def test_kept_splits_are_relative_to_the_workspace(cwd, project, monkeypatch):
    put(project / "data/d.yaml", "name: d\npath: ../../outside\nsplits: none\n")
    settings = {"source": "data/d.yaml", "policies": {"split_without_boxes": "warn"}}
    run(params(**settings), project)
    kept = {
        json.loads(line)["sha256"]: "train"
        for line in (project / "data/prepared/splits.jsonl").read_text().splitlines()
    }
    put(
        project / "data/raw/splits.jsonl",
        "".join(json.dumps({"sha256": k, "split": v}) + "\n" for k, v in kept.items()),
    )
    monkeypatch.chdir(project.parent / cwd)
    settings["policies"]["empty_split"] = "warn"
    summary = run(params(**settings, keep_splits="data/raw/splits.jsonl"), project)
    assert {split: count["images"] for split, count in summary["counts"].items()} == {
        "train": 6,
        "val": 0,
        "test": 0,
    }


def test_in_the_copy_of_an_experiment_the_projects_own_place_counts(project):
    copy = project / ".dvc/tmp/exps/tmp1"
    shutil.copytree(project / "data", copy / "data")
    assert run(params(path="../outside"), copy)["counts"]["train"]["images"] == 4
    assert source_changed(params(path="../outside"), copy) is False


def test_a_source_that_dvc_does_not_watch(project):
    outside = project.parent / "outside"
    assert source_changed(params(), project) is True, "nothing was prepared yet"
    run(params(), project)
    assert [source_changed(params(), project) for _ in range(2)] == [False, False]
    for file in outside.rglob("*"):
        os.utime(file)  # touched is not changed
    put(outside / "README.md", "a note")
    assert source_changed(params(), project) is False
    before = tree(outside)
    change(outside)
    assert [source_changed(params(), project) for _ in range(2)] == [True, True]
    put(outside / "Annotations/a.xml", before["Annotations/a.xml"])
    assert source_changed(params(), project) is False


def test_new_names_of_the_same_images_are_a_change(project):
    """They decide about groups and the names of the copies."""
    run(params(), project)
    outside = project.parent / "outside"
    (outside / "Annotations/f.xml").rename(outside / "Annotations/ff.xml")
    (outside / "JPEGImages/f.png").rename(outside / "JPEGImages/ff.png")
    put(outside / "Annotations/ff.xml", voc_xml("ff", []))
    put(outside / "ImageSets/Main/train.txt", "a\nb\nc\nff\n")
    assert source_changed(params(), project) is True


def test_a_source_that_can_no_longer_be_read_is_for_prepare_to_explain(project):
    run(params(), project)
    shutil.rmtree(project.parent / "outside" / "Annotations")
    assert source_changed(params(), project) is True


def test_without_the_source_what_was_prepared_stands(project):
    """A fresh clone elsewhere, with `dvc pull`."""
    run(params(), project)
    shutil.rmtree(project.parent / "outside")
    assert source_changed(params(), project) is False


def test_what_dvc_watches_is_left_to_dvc(project):
    make_voc(project / "data/raw/mine")
    put(project / "data/mine.yaml", "name: mine\npath: raw/mine\n")
    for source in ("data/raw/mine", "data/mine.yaml", str(project.parent / "outside")):
        assert source_changed(params(source=source), project) is False
    digits = "name: digits\nformat: generated\ngenerator: digits\n"
    put(project / "data/digits.yaml", digits)
    assert source_changed(params(source="data/digits.yaml"), project) is False
    with pytest.raises(ConfigError, match="is generated"):
        source_changed(params(source="data/digits.yaml", path="../outside"), project)


def test_what_is_used_of_data_raw_is_known_by_content(project):
    make_voc(project / "data/raw/mine")
    make_voc(project / "data/raw/other")
    put(project / "data/mine.yaml", "name: mine\npath: raw/mine\n")
    put(project / "data/raw/splits.jsonl", "{}")
    described = params(source="data/mine.yaml")
    first = raw_inputs(described, project)
    assert list(first) == ["data/raw/mine"] and first == raw_inputs(described, project)
    with_splits = raw_inputs(
        params(source="data/mine.yaml", keep_splits="data/raw/splits.jsonl"), project
    )
    assert list(with_splits) == ["data/raw/splits.jsonl", "data/raw/mine"]
    # what dvc.yaml names itself, what lies elsewhere, what is generated
    put(project / "data/digits.yaml", "name: digits\nformat: generated\ngenerator: digits\n")
    for source in ("data/raw/mine", "data/inside.yaml", "data/digits.yaml", "data/nothing.yaml"):
        assert raw_inputs(params(source=source), project) == {}
    os.rename(
        project / "data/raw/mine/Annotations/a.xml", project / "data/raw/mine/Annotations/z.xml"
    )
    changed = raw_inputs(described, project)
    assert changed.keys() == first.keys() and changed != first
    shutil.rmtree(project / "data/raw/mine")  # a fresh clone, with the record of before
    assert raw_inputs(described, project, changed) == changed


def test_data_raw_that_changes_under_prepare_is_not_recorded(project, monkeypatch):
    from engine.datasets import prepare as module

    make_voc(project / "data/raw/mine")
    put(project / "data/mine.yaml", "name: mine\npath: raw/mine\n")
    original = module.prepare

    def edited_meanwhile(*given, **named):
        change(project / "data/raw/mine")
        return original(*given, **named)

    monkeypatch.setattr(module, "prepare", edited_meanwhile)
    with pytest.raises(WorkspaceError, match="stage prepare: data/raw/mine changed while it ran"):
        run(params(source="data/mine.yaml"), project)


def test_asking_needs_no_torch(project):
    run(params(), project)
    change(project.parent / "outside")
    code = (
        "import sys; from pathlib import Path; from engine.config import Params\n"
        "from engine.stages.prepare import source_changed\n"
        f"assert source_changed(Params.build({{'data': {{'source': 'data/inside.yaml'}}}}), "
        f"Path({str(project)!r}))\n"
        "assert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_data_raw_is_there_in_a_fresh_clone():
    """git keeps it by its README, and what is put there is not git's."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert (ROOT / "data/raw/README.md").is_file()

    def ignored(name: str) -> bool:
        return subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT).returncode == 0

    assert not any(map(ignored, ["data/raw/README.md", "data/raw/mine.dvc", "data/digits.yaml"]))
    assert all(
        map(ignored, ["data/raw/mine/a.png", "data/prepared/dataset.json", "data/.prepared.new/x"])
    )
