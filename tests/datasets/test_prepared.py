"""Opening prepared data: damage is named, and the cache of `open_dataset` never believes a stale
source.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dataset_builders import CONTENT, image_bytes, make_voc, put, tree, voc_xml

from engine.config import DataConfig
from engine.data.manifest import class_hash, load_prepared, read_manifest, write_manifest
from engine.datasets import open as open_module
from engine.datasets.description import load_description
from engine.datasets.open import open_dataset
from engine.datasets.prepare import prepare
from engine.datasets.source_digest import RACY_NS, Snapshot, recall, remember
from engine.errors import ConfigError, DataError
from engine.types import ImageRecord


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "voc")


@pytest.fixture
def folder(voc, tmp_path):
    prepare(load_description(voc), tmp_path / "prepared", DataConfig())
    return tmp_path / "prepared"


@pytest.fixture
def count(monkeypatch):
    """How often something was prepared."""
    calls = []
    real = open_module.prepare
    monkeypatch.setattr(
        open_module, "prepare", lambda *args, **kw: (calls.append(args), real(*args, **kw))[1]
    )
    return calls


def make_old(root: Path, age_s: float = 10) -> None:
    """Let the files of `root` seem written a while ago, as those of a real dataset are."""
    for path in root.rglob("*"):
        os.utime(path, (time.time() - age_s,) * 2)


def test_nothing_is_written_into_a_dataset_that_is_the_current_folder(voc, monkeypatch):
    monkeypatch.chdir(voc)
    monkeypatch.delenv("DETECTFLOW_STATE", raising=False)
    before = tree(voc)
    with pytest.raises(
        DataError,
        match="where the result would go; give the folder of the images alone, or start elsewhere",
    ):
        open_dataset(".")
    assert tree(voc) == before


# --- manifests ------------------------------------------------------------------------------------


def test_manifests_round_trip(tmp_path):
    record = ImageRecord(
        tmp_path / "images/train/Ä b.png",
        "ab" * 32,
        (3, 4),
        np.array([[0, 0.1234, 4, 3.0]]),
        np.array([1]),
        split="train",
        group="g",
        crowd=np.array([True]),
        name="x/Ä b\u2028.png",
    )
    empty = ImageRecord(
        tmp_path / "e.png",
        "00" * 32,
        (1, 1),
        np.zeros((0, 4)),
        np.zeros(0, np.int64),
        split="train",
    )
    write_manifest(tmp_path / "train.jsonl", [record, empty])
    first, second = read_manifest(tmp_path / "train.jsonl")
    assert (first.file, first.size, first.group, first.name, first.split) == (
        record.file,
        (3, 4),
        "g",
        record.name,
        "train",
    )
    assert first.boxes.tolist() == record.boxes.tolist() and first.crowd.tolist() == [True]
    assert second.boxes.shape == (0, 4) and second.crowd is None


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"image": "a.png"}',
        '{"image":"../a","sha256":"","size":[1,1],"boxes":[],"classes":[]}',
        '{"image":"a","sha256":"","size":[1,1],"boxes":[[0,0,1,1]],"classes":[]}',
    ],
)
def test_a_damaged_manifest_names_its_line(line, folder):
    manifest = folder / "train.jsonl"
    manifest.write_text(manifest.read_text().splitlines()[0] + "\n" + line + "\n")
    with pytest.raises(DataError, match="train.jsonl, line 2: damaged.*prepare the dataset again"):
        read_manifest(manifest)


def test_class_hash_sees_names_and_order():
    assert (
        len({class_hash(names) for names in (["a", "b"], ["b", "a"], ["a"], ["ab"], ["a,b"])}) == 5
    )


def edit_names(folder: Path) -> None:
    put(folder / "dataset.json", (folder / "dataset.json").read_text().replace('"cat"', '"cow"'))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "dataset.json").unlink(), "dataset.json is missing"),
        (lambda f: put(f / "dataset.json", "{"), "damaged"),
        (lambda f: put(f / "dataset.json", "[]"), "not a prepared dataset of this version"),
        (lambda f: put(f / "dataset.json", '{"version": 1}'), "damaged"),
        (lambda f: (f / "val.jsonl").unlink(), "val.jsonl is missing"),
        (edit_names, "class names were edited"),
    ],
)
def test_a_damaged_folder_is_named(damage, message, folder):
    damage(folder)
    with pytest.raises(DataError, match=message):
        load_prepared(folder)


def test_a_prepared_folder_may_move(folder, tmp_path):
    shutil.move(folder, tmp_path / "moved")
    dataset = open_dataset(tmp_path / "moved")
    assert all(record.file.is_file() for record in dataset.records("train"))
    with pytest.raises(DataError, match="no split 'vall'. Did you mean 'val'"):
        dataset.records("vall")


# --- any source -----------------------------------------------------------------------------------


def test_a_raw_folder_is_prepared_once(voc, tmp_path, count):
    make_old(voc)
    first = open_dataset(voc, tmp_path / "cache")
    assert (
        first.counts["train"]["images"] == 4
        and first.folder.parent == tmp_path / "cache" / "datasets"
    )
    # Written less than two seconds ago, the source cannot be trusted to be as the index says;
    # changed it is not.
    assert open_dataset(voc, tmp_path / "cache").folder == first.folder
    assert len(count) <= 2
    time.sleep(RACY_NS / 1e9 + 0.1)
    assert open_dataset(voc, tmp_path / "cache").folder == first.folder
    made = len(count)  # 3, or fewer where the machine was so slow that nothing was too young
    for _ in range(3):
        assert open_dataset(voc, tmp_path / "cache").folder == first.folder
    assert len(count) == made <= 3
    assert tree(voc) == tree(make_voc(tmp_path / "again"))


def test_a_changed_source_is_prepared_anew_and_the_old_entry_stays_for_who_uses_it(voc, tmp_path):
    old = open_dataset(voc, tmp_path / "cache")
    stat = (voc / "Annotations/a.xml").stat()
    put(voc / "Annotations/a.xml", voc_xml("a", [("dog", (4, 2, 20, 30))]))  # as long as before
    os.utime(voc / "Annotations/a.xml", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # and as old
    new = open_dataset(voc, tmp_path / "cache")
    assert new.digest != old.digest and new.folder != old.folder
    assert all(record.file.is_file() for record in old.records("train"))


def test_a_damaged_cache_entry_is_made_again(voc, tmp_path):
    first = open_dataset(voc, tmp_path / "cache")
    before = tree(first.folder)
    next((first.folder / "images/train").iterdir()).unlink()
    assert tree(open_dataset(voc, tmp_path / "cache").folder) == before
    (first.folder / "train.jsonl").unlink()
    assert tree(open_dataset(voc, tmp_path / "cache").folder) == before


def test_another_description_of_the_same_folder_is_another_dataset(voc, tmp_path):
    put(tmp_path / "one.yaml", "name: one\npath: voc\n")
    put(tmp_path / "two.yaml", "name: two\npath: voc\nnames: [dog, cat]\n")
    one, two = (
        open_dataset(tmp_path / name, tmp_path / "cache") for name in ("one.yaml", "two.yaml")
    )
    assert one.names == ("cat", "dog") and two.names == ("dog", "cat")


def test_the_cache_lies_in_the_project_by_default(voc, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path / "project"))
    assert open_dataset(voc).folder.is_relative_to(tmp_path / "project/.cache/datasets")


def test_a_generated_dataset_is_made_once(tmp_path, count):
    put(
        tmp_path / "d.yaml",
        "name: d\nformat: generated\ngenerator: digits\noptions: {train: 9, val: 5, test: 5}\n",
    )
    first = open_dataset(tmp_path / "d.yaml", tmp_path / "cache")
    assert (
        open_dataset(tmp_path / "d.yaml", tmp_path / "cache").digest == first.digest
        and len(count) == 1
    )
    put(
        tmp_path / "d.yaml",
        "name: d\nformat: generated\ngenerator: digits\noptions: {train: 8, val: 5, test: 5}\n",
    )
    assert open_dataset(tmp_path / "d.yaml", tmp_path / "cache").counts["train"]["images"] == 8


def test_nothing_there_is_an_error_with_a_hint(tmp_path):
    put(tmp_path / "digits.yaml", "")
    with pytest.raises(
        DataError, match="digit.yaml: no such description or folder. Did you mean 'digits.yaml'"
    ):
        open_dataset(tmp_path / "digit.yaml", tmp_path / "cache")
    with pytest.raises(ConfigError, match="name: Field required"):
        open_dataset(tmp_path / "digits.yaml", tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_processes_that_open_the_same_source_at_once(voc, tmp_path):
    code = (
        "import sys; from engine.datasets.open import open_dataset; from pathlib import Path\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"d = open_dataset({str(voc)!r}, Path({str(tmp_path / 'cache')!r}))\n"
        "assert all(r.file.is_file() for s in ('train', 'val', 'test') for r in d.records(s)); "
        "print(d.folder)"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    folders = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0] and len(folders) == 1
    assert [
        p.name for p in (tmp_path / "cache/datasets").iterdir() if p.name.startswith("building")
    ] == []


# --- standing in for the content ------------------------------------------------------------------


def test_an_index_is_believed_only_about_files_older_than_itself(voc, tmp_path):
    now = Snapshot.of(voc)
    assert not now.decides
    remember(tmp_path / "index", now, {"x": 1})
    assert recall(tmp_path / "index", voc) is None
    later = Snapshot(now.digest, now.newest_ns, now.newest_ns + RACY_NS + 1)
    remember(tmp_path / "index", later, {"x": 1})
    assert recall(tmp_path / "index", voc) == {"x": 1}
    put(voc / "JPEGImages/new.png", image_bytes("new"))
    assert recall(tmp_path / "index", voc) is None
    put(tmp_path / "index", json.dumps({"snapshot": 3}))
    assert recall(tmp_path / "index", voc) is None


@pytest.mark.parametrize("change", ["content", "rename", "remove", "link"])
def test_a_snapshot_sees(change, voc):
    before = Snapshot.of(voc).digest
    file = voc / "JPEGImages/a.png"
    stat = file.stat()
    if change == "content":
        file.write_bytes(bytes(stat.st_size))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "rename":
        file.rename(voc / "JPEGImages/aa.png")
    elif change == "remove":
        file.unlink()
    else:
        (voc / "more").symlink_to(voc.parent)
    assert (Snapshot.of(voc).digest != before) == (
        change != "link"
    )  # a link in a circle leads to nothing new


def test_the_same_content_has_one_snapshot(voc):
    assert len(CONTENT) == 6 and Snapshot.of(voc).digest == Snapshot.of(voc).digest
