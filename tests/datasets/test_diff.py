"""The difference of two versions: matching by hand, properties, the digest, the page, and real
revisions of git and DVC.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_builders import CONTENT, NAMES, image_bytes, make_coco, make_voc, make_yolo, put
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cli import main
from engine.config import DataConfig
from engine.data.manifest import class_hash, dataset_digest
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.datasets.reports.diff_report import diff_page, diff_text, diff_values
from engine.datasets.version_diff import Version, box_changes, box_shifts, compare, ks_statistic
from engine.types import SPLITS, ImageRecord


@pytest.fixture(autouse=True)
def caches_stay_in_the_test(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))


def record(
    i: int, split: str = "train", boxes=((0, 0, 10, 10),), classes=(0,), name: str = ""
) -> ImageRecord:
    return ImageRecord(
        Path("x"),
        f"{i:064x}",
        (100, 200),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(classes, np.int64),
        split,
        name=name or f"{i}.png",
    )


def version(*records: ImageRecord, names=("cat", "dog"), label: str = "v") -> Version:
    return Version(label, tuple(names), dataset_digest(names, records), list(records))


# --- images ---------------------------------------------------------------------------------------


def test_images_by_hand():
    old = version(record(1), record(2), record(3, "val"), record(4, name="x.png"))
    new = version(
        record(1, name="renamed.png"), record(3, "test"), record(5), record(6, name="x.png")
    )
    found = compare(old, new)
    assert [r.name for r in found.added] == ["5.png"] and [r.name for r in found.removed] == [
        "2.png"
    ]
    assert [(a.split, b.split) for a, b in found.moved] == [("val", "test")]
    assert [(a.sha256[-1], b.sha256[-1]) for a, b in found.replaced] == [("4", "6")]
    assert found.same == 2 and not found.is_empty and found.boxes == []


def test_copies_are_paired_where_they_are():
    found = compare(
        version(record(1), record(1, "val")),
        version(record(1, "val"), record(1, "test"), record(1, "train")),
    )
    assert found.moved == [] and [r.split for r in found.added] == ["test"] and found.same == 2


images = st.lists(
    st.builds(
        record,
        st.integers(0, 9),
        st.sampled_from(SPLITS),
        name=st.sampled_from(["a", "b", "c", "d"]),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(images, images)
def test_every_image_is_accounted_for_once_and_both_ways(before, after):
    there, back = (
        compare(version(*before), version(*after)),
        compare(version(*after), version(*before)),
    )
    assert there.same + len(there.removed) + len(there.replaced) == len(before)
    assert there.same + len(there.added) + len(there.replaced) == len(after)
    assert sorted(r.sha256 for r in there.added) == sorted(r.sha256 for r in back.removed)
    assert (len(there.moved), len(there.replaced)) == (len(back.moved), len(back.replaced))
    if Counter((r.sha256, r.split) for r in before) == Counter((r.sha256, r.split) for r in after):
        assert (
            there.is_empty
            and not there.added
            and not there.removed
            and not there.moved
            and not there.replaced
        )


# --- boxes ----------------------------------------------------------------------------------------


def changes(old: list, new: list) -> list[str]:
    """Boxes as (class, x1, y1, x2, y2)."""
    boxes = [np.array([row[1:] for row in side], np.float64).reshape(-1, 4) for side in (old, new)]
    return sorted(
        str(c) for c in box_changes(boxes[0], [r[0] for r in old], boxes[1], [r[0] for r in new])
    )


def test_boxes_by_hand():
    cat, dog = ("cat", 0, 0, 10, 10), ("dog", 50, 50, 80, 90)
    assert changes([cat, dog], [dog, cat]) == []
    assert changes([cat], [cat, dog]) == ["'dog' added"] and changes([cat, dog], [dog]) == [
        "'cat' removed"
    ]
    assert changes([cat], [("cat", 0, 0, 10, 8)]) == ["'cat' moved (IoU 0.80)"]
    assert changes([cat], [("dog", 0, 0, 10, 9)]) == ["'cat' is 'dog' now"]
    assert changes([cat], [("cat", 20, 0, 30, 10)]) == ["'cat' added", "'cat' removed"], (
        "too far to be the same object"
    )
    assert changes([], []) == [] and changes([], [cat]) == ["'cat' added"]


def test_a_box_that_stayed_is_not_taken_for_its_twin():
    """Two boxes on one object, of which one goes: the other did not move."""
    one, twin = ("cat", 0, 0, 100, 100), ("cat", 0, 0, 100, 99)
    assert changes([twin, one], [one]) == ["'cat' removed"]
    assert changes([one, ("dog", 0, 0, 100, 98)], [("dog", 0, 0, 100, 98)]) == ["'cat' removed"]


rows = st.lists(
    st.tuples(
        st.sampled_from(["cat", "dog"]),
        st.integers(0, 30),
        st.integers(0, 30),
        st.integers(31, 60),
        st.integers(31, 60),
    ),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(rows, rows)
def test_every_box_is_accounted_for_and_both_ways(old, new):
    sides = [np.array([row[1:] for row in side], np.float64).reshape(-1, 4) for side in (old, new)]
    names = [[row[0] for row in side] for side in (old, new)]
    there, back = (
        box_changes(sides[0], names[0], sides[1], names[1]),
        box_changes(sides[1], names[1], sides[0], names[0]),
    )
    count = [Counter(change.what for change in found) for found in (there, back)]
    assert len(old) - count[0]["removed"] == len(new) - count[0]["added"]
    assert (
        count[0]["removed"] == count[1]["added"]
        and count[0]["relabelled"] == count[1]["relabelled"]
    )
    assert bool(there) == (Counter(map(tuple, old)) != Counter(map(tuple, new)))


def test_another_order_of_the_classes_changes_no_box():
    old = version(record(1, boxes=[(0, 0, 9, 9), (50, 50, 90, 90)], classes=[0, 1]))
    new = version(
        record(1, boxes=[(0, 0, 9, 9), (50, 50, 90, 90)], classes=[1, 0]), names=("dog", "cat")
    )
    found = compare(old, new)
    assert found.boxes == [] and not found.is_empty, (
        "numbers mean something else: not the same for training"
    )
    assert found.class_counts()[0] == {
        "name": "cat",
        "before": 1,
        "after": 1,
        "train": [1, 1],
        "val": [0, 0],
        "test": [0, 0],
    }


def test_class_counts_of_classes_that_come_and_go():
    found = compare(
        version(record(1), names=("cat",)), version(record(1, "val"), names=("cow", "cat"))
    )
    assert [(row["name"], row["before"], row["after"]) for row in found.class_counts()] == [
        ("cat", 1, 0),
        ("cow", 0, 1),
    ]


# --- distributions --------------------------------------------------------------------------------


def test_ks_statistic_by_hand_and_against_a_slow_reference():
    assert ks_statistic(np.array([1.0, 2]), np.array([1.0, 2])) == 0
    assert ks_statistic(np.array([1.0, 2]), np.array([3.0, 4])) == 1
    assert ks_statistic(np.array([1.0, 3]), np.array([2.0, 4])) == 0.5
    random = np.random.default_rng(0)
    for _ in range(20):
        a, b = random.integers(0, 9, 30).astype(float), random.integers(2, 12, 17).astype(float)
        slow = max(abs((a <= x).mean() - (b <= x).mean()) for x in range(13))
        assert ks_statistic(a, b) == pytest.approx(slow)


def spread(n: int, side: float, x: float, seed: int) -> list[ImageRecord]:
    random = np.random.default_rng(seed)
    found = []
    for i in range(n):
        s, left, top = random.normal(side, 2), random.normal(x, 10), random.uniform(0, 60)
        found.append(record(i, boxes=[(left, top, left + s, top + s)]))
    return found


def test_shifts_in_words():
    old = spread(400, 20, 60, 0)
    assert all(shift.by_chance for shift in box_shifts(old, spread(400, 20, 60, 1)))
    shifts = {shift.measure: shift for shift in box_shifts(old, spread(400, 30, 60, 2))}
    size = shifts["box size"]
    assert not size.by_chance and size.ks > 0.9 and "shifted strongly, median 0.14" in size.sentence
    assert "no shift beyond chance" in shifts["centre from the top"].sentence
    assert list(box_shifts([], old)) == []


# --- the digest -----------------------------------------------------------------------------------


def records_of(n: int, seed: int) -> list[ImageRecord]:
    random = np.random.default_rng(seed)
    found = []
    for i in range(n):
        k = int(random.integers(0, 4))
        corners = np.sort(random.integers(0, 60, (k, 2, 2)), axis=1).reshape(k, 4) + (0.0, 0, 1, 1)
        found.append(record(i, SPLITS[i % 3], corners, random.integers(0, 2, k)))
    return found


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_the_digest_depends_on_content_alone(n, seed, shuffle):
    """Not on the order of images or of their boxes, nor on names, paths and groups."""
    records = records_of(n, seed)
    mixed = []
    for r in records:
        order = list(range(len(r.classes)))
        shuffle.shuffle(order)
        mixed.append(
            replace(
                r,
                boxes=r.boxes[order],
                classes=r.classes[order],
                name="y",
                file=Path("/z/y"),
                group="g",
            )
        )
    shuffle.shuffle(mixed)
    assert dataset_digest(NAMES, records) == dataset_digest(NAMES, mixed)
    assert compare(version(*records), version(*mixed)).is_empty
    changed = [
        replace(records[0], split="val" if records[0].split != "val" else "test"),
        *records[1:],
    ]
    assert dataset_digest(NAMES, records) != dataset_digest(NAMES, changed)


def test_the_digest_is_the_same_in_another_process_elsewhere(tmp_path):
    """Another folder, another hash seed, another order of the files on the disk, another locale."""
    make_voc(tmp_path / "one")
    there = tmp_path / "far" / "away"
    for file in sorted((tmp_path / "one").rglob("*.*"), reverse=True):
        put(there / file.relative_to(tmp_path / "one"), file.read_bytes())
    here = prepare(load_description(tmp_path / "one"), tmp_path / "out", DataConfig()).info
    code = (
        "import sys; from pathlib import Path; from engine.config import DataConfig\n"
        "from engine.datasets.description import load_description; from engine.datasets.prepare "
        "import prepare\n"
        f"print(prepare(load_description({str(there)!r}), Path('out'), "
        "DataConfig()).info['digest'])"
    )
    environment = {
        "PYTHONHASHSEED": "77",
        "LC_ALL": "C",
        "TZ": "Asia/Tokyo",
        "PATH": "/usr/bin:/bin",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "far",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == here["digest"], done.stderr


# --- the command ----------------------------------------------------------------------------------


def changed(root: Path) -> Path:
    """a relabelled, b without its cat, c moved to val, d removed, e replaced, g added."""
    content = {
        **CONTENT,
        "a": [("dog", (4, 2, 20, 30))],
        "b": CONTENT["b"][:1],
        "g": [("cat", (2, 2, 30, 30))],
    }
    del content["d"]
    make_voc(root, content)
    put(root / "JPEGImages/e.png", image_bytes("another"))
    put(root / "ImageSets/Main/train.txt", "a\nb\nf\ng\n")
    put(root / "ImageSets/Main/val.txt", "c\n")
    return root


def diff(tmp_path: Path, *words: str) -> dict:
    assert main(["diff", *words, f"out={tmp_path / 'report'}"]) == 0
    return json.loads((tmp_path / "report/diff.json").read_text())


def test_two_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    old, new = make_voc(tmp_path / "old"), changed(tmp_path / "new")
    found = diff(tmp_path, str(old), str(new))
    names = {
        what: [Path(e["name"]).stem for e in found["images"][what]]
        for what in ("added", "removed", "moved", "replaced")
    }
    assert names == {"added": ["g"], "removed": ["d"], "moved": ["c"], "replaced": ["e"]}
    assert (
        found["boxes"] == {"added": 0, "removed": 1, "moved": 0, "relabelled": 1}
        and found["images"]["same"] == 4
    )
    text = capsys.readouterr().out
    assert (
        "JPEGImages/c.png (train -> val)" in text and "JPEGImages/a.png: 'cat' is 'dog' now" in text
    )
    page = (tmp_path / "report/diff.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 + 1 + 1 + 1 + 2 and "http" not in page
    summary = (
        "Images: 1 added, 1 removed, 1 moved, 1 replaced; boxes: 1 removed, 1 relabelled, in 2 "
        "images."
    )
    assert f">{summary}<" in page and class_hash(("cat", "dog")) in page
    assert str(tmp_path) not in json.dumps({**found, "before": 0, "after": 0})


def test_formats_and_prepared_folders_compare_with_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sources = [make_coco(tmp_path / "coco"), make_yolo(tmp_path / "yolo")]
    prepare(load_description(make_voc(tmp_path / "voc")), tmp_path / "prepared", DataConfig())
    for source in sources:
        assert diff(tmp_path, str(source), str(tmp_path / "prepared"))["same_content"] is True
    assert "No difference" in capsys.readouterr().out
    part = diff(tmp_path, str(tmp_path / "prepared/train.jsonl"), str(tmp_path / "prepared"))
    assert part["images"]["same"] == 4 and len(part["images"]["added"]) == 2


def test_what_is_no_version_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, code, message in (
        ([], 2, "one or two versions"),
        (["a", "b", "c"], 2, "one or two versions"),
        (["a", "data=b"], 2, "not 'data='"),
        (["a", "b"], 1, "a: no such folder or file, and no project here"),
    ):
        assert main(["diff", *words]) == code and message in capsys.readouterr().err
    put(tmp_path / "dvc.yaml", "")
    put(tmp_path / "params.yaml", "")
    assert main(["diff", "v1"]) == 1 and "is not under git and DVC" in capsys.readouterr().err


def test_nothing_is_written_where_it_does_not_belong(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_voc(tmp_path / "old"), changed(tmp_path / "new")
    put(tmp_path / "new.yaml", "{name: new, path: new}\n")
    put(tmp_path / "letter.md", "dear")
    before = sorted(tmp_path.rglob("*"))
    for words, code, message in (
        (["old", "new", "out=old"], 1, "old: lies in the dataset"),
        (["old", "new", "out=new/diff"], 1, "new/diff: lies in the dataset"),
        (["old", "new.yaml", "out=new/diff"], 1, "new/diff: lies in the dataset"),
        (["old", "new", "out=letter.md"], 2, "letter.md is a file, not a folder"),
    ):
        assert main(["diff", *words]) == code, words
        assert message in capsys.readouterr().err and sorted(tmp_path.rglob("*")) == before
    put(tmp_path / "dvc.yaml", ""), put(tmp_path / "params.yaml", "")
    assert main(["diff", "v1", "v2", "out=data/prepared"]) == 1
    assert "data/prepared: lies in the dataset" in capsys.readouterr().err


def run(*words: str, cwd: Path) -> None:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path, monkeypatch):
    """git and DVC for real: data/prepared at tag v1, changed at v2, both in a local remote."""
    pytest.importorskip("dvc")
    root, dvc = tmp_path / "project", (sys.executable, "-m", "dvc")
    for name in (
        "GIT_AUTHOR_NAME",
        "GIT_AUTHOR_EMAIL",
        "GIT_COMMITTER_NAME",
        "GIT_COMMITTER_EMAIL",
    ):
        monkeypatch.setenv(name, "somebody")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    put(root / "dvc.yaml", "stages: {}\n")
    put(root / "params.yaml", "")
    run("git", "init", "-q", cwd=root)
    run(*dvc, "init", "-q", cwd=root)
    run(*dvc, "remote", "add", "-d", "store", str(tmp_path / "remote"), cwd=root)
    for tag, source in (("v1", make_voc(tmp_path / "old")), ("v2", changed(tmp_path / "new"))):
        prepare(load_description(source), root / "data/prepared", DataConfig())
        run(*dvc, "add", "-q", "data/prepared", cwd=root)
        run("git", "add", ".", cwd=root)
        run("git", "commit", "-q", "-m", tag, cwd=root)
        run("git", "tag", tag, cwd=root)
        run(*dvc, "push", "-q", cwd=root)
    monkeypatch.chdir(root)
    return root


def test_revisions_of_a_project(project, tmp_path, capsys):
    before = sorted(p.relative_to(project) for p in (project / "data").rglob("*"))
    expected = diff(tmp_path, str(tmp_path / "old"), str(tmp_path / "new"))
    page = (tmp_path / "report/diff.html").read_text()
    for words in (("v1",), ("v1", "v2"), ("HEAD~1", "HEAD"), ("v1", "data/prepared")):
        found = diff(tmp_path, *words)
        assert {**found, "before": 0, "after": 0} == {**expected, "before": 0, "after": 0}
        assert (
            found["before"]["label"] == words[0]
            and found["before"]["digest"] == expected["before"]["digest"]
        )
        shown = (tmp_path / "report/diff.html").read_text().count("data:image/jpeg")
        assert shown == page.count("data:image/jpeg"), "also of images that are in no workspace"
    assert sorted(p.relative_to(project) for p in (project / "data").rglob("*")) == before, (
        "nothing was checked out"
    )
    assert (
        main(["diff", "v9"]) == 1
        and "'v9' is no folder or file here, and no revision" in capsys.readouterr().err
    )
    # What only the remote has, and what nobody has any more.
    shutil.rmtree(project / ".dvc/cache")
    assert diff(tmp_path, "v1", "v2")["boxes"]["relabelled"] == 1
    shutil.rmtree(project / ".dvc/cache", ignore_errors=True)
    shutil.rmtree(tmp_path / "remote")
    assert main(["diff", "v1"]) == 1
    err = capsys.readouterr().err
    assert "cannot be had for revision v1" in err and "dvc fetch" in err


# --- the report -----------------------------------------------------------------------------------


def test_a_page_without_pictures_is_still_a_page():
    """Images that cannot be had: the numbers stand."""
    found = compare(
        version(record(1), record(2)),
        version(record(1, "val", classes=(1,)), record(3), label="<w>"),
    )
    page = diff_page(found)
    assert "<img" not in page and "&lt;w&gt;" in page and "Images added (1)" in page
    assert "boxes relabelled" in diff_text(found) and diff_values(found)["images"]["same"] == 1


def test_no_kind_of_change_hides_the_others_in_the_page():
    """A hundred images that lost a box, and one that was relabelled."""
    pixels = np.full((100, 200, 3), 90, np.uint8)
    old = [record(i) for i in range(101)]
    new = [record(i, boxes=(), classes=()) for i in range(100)] + [record(100, classes=(1,))]
    sides = [replace(version(*records), pixels=lambda record: pixels) for records in (old, new)]
    page = diff_page(compare(*sides))
    assert page.count("<img") == 5 and "&#39;cat&#39; is &#39;dog&#39; now" in page
    assert (
        "Boxes that changed, in 101 images" in page
        and "... and 96 more; diff.json names them all" in page
    )


def test_one_box_is_no_boxes():
    pixels = np.full((100, 200, 3), 90, np.uint8)
    sides = [
        replace(version(*records), pixels=lambda record: pixels)
        for records in ([record(1)], [record(2)])
    ]
    page = diff_page(compare(*sides))
    assert "train, 1 box<" in page and "1 boxes" not in page and " more;" not in page
