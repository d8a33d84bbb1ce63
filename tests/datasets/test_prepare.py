"""Prepare: the folder it makes, what its digests depend on, policies, and that it is whole or
absent.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_builders import (
    CONTENT,
    MAKERS,
    NAMES,
    SPLIT_OF,
    H,
    W,
    image_bytes,
    make_voc,
    make_yolo,
    put,
    tree,
    voc_xml,
)
from PIL import Image

from engine.config import DataConfig
from engine.data.images import read_image
from engine.data.manifest import load_prepared
from engine.datasets import prepare as module
from engine.datasets.description import load_description
from engine.datasets.findings import KINDS
from engine.datasets.image_scan import Shape, to_shown
from engine.datasets.prepare import copy_names, prepare
from engine.errors import ConfigError, DataError, WorkspaceError
from engine.types import SPLITS, ImageRecord


def run(source: Path, target: Path, progress=None, **settings):
    return prepare(
        load_description(source), target, DataConfig(source=str(source), **settings), progress
    )


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "voc")


# --- the result -----------------------------------------------------------------------------------


def test_the_prepared_folder(voc, tmp_path):
    report = run(voc, tmp_path / "out")
    dataset = load_prepared(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "dataset.json",
        "images",
        "splits.jsonl",
        "copies.jsonl",
        *(f"{s}.jsonl" for s in SPLITS),
    }
    assert dataset.names == ("cat", "dog") and dataset.name == "voc"
    assert dataset.counts == {
        "train": {"images": 4, "boxes": 4},
        "val": {"images": 1, "boxes": 1},
        "test": {"images": 1, "boxes": 1},
    }
    records = {Path(r.name).stem: r for split in SPLITS for r in dataset.records(split)}
    assert {name: record.split for name, record in records.items()} == SPLIT_OF
    for name, boxes in CONTENT.items():
        record = records[name]
        assert [
            (NAMES[c], tuple(b)) for c, b in zip(record.classes, record.boxes.tolist())
        ] == boxes
        assert (
            record.size == (H, W)
            and record.file.is_absolute()
            and record.file.read_bytes() == image_bytes(name)
        )
        assert (
            not record.file.is_symlink()
            and record.file.parent == tmp_path / "out/images" / record.split
        )
    assert report.summary()["classes"] == [
        {"name": "cat", "train": 2, "val": 1, "test": 0},
        {"name": "dog", "train": 2, "val": 0, "test": 1},
    ]


def test_the_summary_is_plain_json_without_paths_of_the_machine(voc, tmp_path):
    text = json.dumps(run(voc, tmp_path / "out").summary())
    assert str(tmp_path) not in text
    assert all(str(tmp_path).encode() not in content for content in tree(tmp_path / "out").values())


def test_progress_ends_at_the_total(voc, tmp_path):
    calls = []
    run(voc, tmp_path / "out", calls.append)
    assert [(c["done"], c["total"]) for c in calls] == [(i, 6) for i in range(1, 7)]
    assert calls[0] == {"stage": "prepare", "done": 1, "total": 6, "metrics": {}}


# --- digests --------------------------------------------------------------------------------------


def test_the_same_input_gives_the_same_bytes_wherever_it_lies(voc, tmp_path):
    moved = tmp_path / "elsewhere" / "voc"
    moved.parent.mkdir()
    for file in sorted(voc.rglob("*"), reverse=True):  # another order on the disk, other times
        if file.is_file():
            put(moved / file.relative_to(voc), file.read_bytes())
            os.utime(moved / file.relative_to(voc), (1, 1))
    run(voc, tmp_path / "one")
    run(moved, tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_the_digest_does_not_depend_on_format_names_or_folders(tmp_path):
    digests = set()
    for format, make in MAKERS.items():
        digests.add(run(make(tmp_path / format), tmp_path / "out" / format).info["digest"])
    renamed = make_voc(tmp_path / "renamed")
    for name in CONTENT:
        (renamed / f"JPEGImages/{name}.png").rename(renamed / f"JPEGImages/z{name}.png")
        (renamed / f"Annotations/{name}.xml").unlink()
        put(renamed / f"Annotations/z{name}.xml", voc_xml(f"z{name}", CONTENT[name]))
    for file in (renamed / "ImageSets/Main").iterdir():
        put(file, "".join(f"z{name}\n" for name in file.read_text().split()))
    report = run(renamed, tmp_path / "out" / "renamed")
    digests.add(report.info["digest"])
    assert len(digests) == 1
    original = load_prepared(tmp_path / "out" / "voc").info
    assert (
        report.info["source_digest"] == original["source_digest"]
        and report.info["source_layout"] != original["source_layout"]
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda root: put(root / "JPEGImages/a.png", image_bytes("other")),
        lambda root: put(root / "Annotations/a.xml", voc_xml("a", [("cat", (4, 2, 20, 29))])),
        lambda root: put(root / "Annotations/a.xml", voc_xml("a", [("dog", (4, 2, 20, 30))])),
        lambda root: (
            put(root / "ImageSets/Main/train.txt", "b\nc\nf\n")
            and put(root / "ImageSets/Main/val.txt", "a\nd\n")
        ),
    ],
    ids=["pixels", "box", "class", "split"],
)
def test_the_digests_change_with_what_training_sees(change, voc, tmp_path):
    before = run(voc, tmp_path / "out").info
    change(voc)
    after = run(voc, tmp_path / "out").info
    assert before["digest"] != after["digest"] and before["source_digest"] != after["source_digest"]


def test_order_of_names_is_part_of_the_digest_and_of_the_class_hash(voc, tmp_path):
    infos = []
    for names in ("[cat, dog]", "[dog, cat]"):
        put(tmp_path / "d.yaml", f"name: x\npath: voc\nnames: {names}\n")
        infos.append(run(tmp_path / "d.yaml", tmp_path / "out").info)
    assert (
        infos[0]["digest"] != infos[1]["digest"]
        and infos[0]["class_hash"] != infos[1]["class_hash"]
    )
    assert infos[0]["source_digest"] == infos[1]["source_digest"]


# --- whole or absent ------------------------------------------------------------------------------


def test_a_read_only_source_is_enough(voc, tmp_path):
    paths = [voc, *voc.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        before = tree(voc)
        run(voc, tmp_path / "out")
        assert tree(voc) == before
        assert os.access(next((tmp_path / "out/images/train").iterdir()), os.W_OK)
    finally:
        for path in paths:
            path.chmod(0o755)


def test_an_earlier_result_stays_when_the_next_one_fails(voc, tmp_path):
    run(voc, tmp_path / "out")
    before = tree(tmp_path / "out")
    (voc / "JPEGImages/a.png").unlink()
    with pytest.raises(DataError):
        run(voc, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_full_disk_leaves_nothing_and_says_so(voc, tmp_path, monkeypatch):
    def full(path, records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_manifest", full)
    with pytest.raises(WorkspaceError, match="No space left.*Free some disk space"):
        run(voc, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["voc"]


def test_interrupted_by_the_user_leaves_nothing(voc, tmp_path):
    def interrupt(values):
        if values["done"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(voc, tmp_path / "out", interrupt)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["voc"]


def test_killed_in_between_the_next_run_is_clean(voc, tmp_path):
    """kill -9 while images are copied: the old result is whole, and the next run clears the remains
    away.
    """
    expected = run(voc, tmp_path / "out").info
    before = tree(tmp_path / "out")
    code = (
        "import sys, time; from pathlib import Path; from engine.config import DataConfig\n"
        "from engine.datasets.description import load_description; from engine.datasets.prepare "
        "import prepare\n"
        f"prepare(load_description({str(voc)!r}), Path({str(tmp_path / 'out')!r}), DataConfig(),"
        " lambda v: (print(v['done'], flush=True), time.sleep(60)))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert (tmp_path / ".out.new").is_dir()
        process.send_signal(signal.SIGKILL)
    assert tree(tmp_path / "out") == before
    assert run(voc, tmp_path / "out").info == expected
    assert not (tmp_path / ".out.new").exists() and tree(tmp_path / "out") == before


def test_the_result_may_not_go_into_the_source(voc):
    with pytest.raises(DataError, match="where the result would go"):
        run(voc, voc / "prepared")


def test_the_result_may_not_go_into_the_source_by_a_link(voc, tmp_path):
    (tmp_path / "link").symlink_to(voc)
    for source, target in (
        (tmp_path / "link", voc / "prepared"),
        (voc, tmp_path / "link/prepared"),
    ):
        with pytest.raises(DataError, match="where the result would go"):
            run(source, target)
    assert not (voc / "prepared").exists()


# --- policies -------------------------------------------------------------------------------------


def test_unknown_kinds_and_policies_that_are_not_offered(voc, tmp_path):
    with pytest.raises(ConfigError, match="unknown finding 'zero_aera'. Did you mean 'zero_area'"):
        run(voc, tmp_path / "out", policies={"zero_aera": "drop"})
    with pytest.raises(
        ConfigError,
        match="zero_area: 'fix' is not offered. error: nothing is prepared; drop: the box",
    ):
        run(voc, tmp_path / "out", policies={"zero_area": "fix"})


def test_every_default_is_offered():
    assert all(kind.default in kind.choices() for kind in KINDS.values())


def test_any_finding_can_be_made_an_error(voc, tmp_path):
    with pytest.raises(
        DataError, match="image without boxes \\(1\\):\n  JPEGImages/f.png: has no boxes"
    ):
        run(voc, tmp_path / "out", policies={"empty_image": "error"})


@pytest.mark.parametrize(
    "kind, change, policy, names, boxes",
    [
        (
            "unknown_class",
            lambda v: put(v / "Annotations/b.xml", voc_xml("b", [("cow", (1, 1, 9, 9))])),
            "drop",
            "abcf",
            2,
        ),
        ("missing_image", lambda v: (v / "JPEGImages/a.png").unlink(), "drop", "bcf", 3),
        ("unreadable_image", lambda v: put(v / "JPEGImages/a.png", b""), "drop", "bcf", 3),
        ("unreadable_annotation", lambda v: put(v / "Annotations/a.xml", b""), "drop", "bcf", 3),
        ("empty_image", lambda v: None, "drop", "abc", 4),
        (
            "inverted_box",
            lambda v: put(v / "Annotations/a.xml", voc_xml("a", [("cat", (20, 30, 4, 2))])),
            "fix",
            "abcf",
            4,
        ),
        (
            "inverted_box",
            lambda v: put(v / "Annotations/a.xml", voc_xml("a", [("cat", (20, 30, 4, 2))])),
            "drop",
            "abcf",
            3,
        ),
        (
            "outside_image",
            lambda v: put(v / "Annotations/a.xml", voc_xml("a", [("cat", (-1, 2, 20, 30))])),
            "drop",
            "abcf",
            3,
        ),
        (
            "duplicate_box",
            lambda v: put(v / "Annotations/a.xml", voc_xml("a", [("cat", (4, 2, 20, 30))] * 3)),
            "drop",
            "abcf",
            4,
        ),
        ("unlabelled_image", lambda v: (v / "Annotations/a.xml").unlink(), "warn", "abcf", 3),
        ("split_leak", lambda v: put(v / "JPEGImages/e.png", image_bytes("a")), "drop", "bcf", 3),
        (
            "duplicate_image",
            lambda v: put(v / "JPEGImages/c.png", image_bytes("a")),
            "drop",
            "abf",
            3,
        ),
        (
            "outside_folder",
            lambda v: put(v / "Annotations/a.xml", voc_xml("/x/a", CONTENT["a"])),
            "fix",
            "abcf",
            4,
        ),
        (
            "ambiguous_image",
            lambda v: put(v / "Annotations/a.xml", voc_xml("b", CONTENT["a"])),
            "fix",
            "abcf",
            4,
        ),
    ],
)
def test_what_a_policy_does(kind, change, policy, names, boxes, voc, tmp_path):
    """Images of train that are left, and their boxes in all."""
    change(voc)
    put(tmp_path / "d.yaml", "name: x\npath: voc\nnames: [cat, dog]\n")
    report = run(tmp_path / "d.yaml", tmp_path / "out", policies={kind: policy})
    assert report.findings.counts[kind] >= 1 and report.findings.policies[kind] == policy
    records = load_prepared(tmp_path / "out").records("train")
    assert "".join(sorted(Path(r.name).stem for r in records)) == names
    assert sum(len(r.boxes) for r in records) == boxes


def test_boxes_are_cut_at_the_edge_and_rounding_is_no_finding(voc, tmp_path):
    put(
        voc / "Annotations/a.xml",
        voc_xml("a", [("cat", (-3, 8, 20, 20)), ("dog", (60, 30, 64.01, 32.01))]),
    )
    report = run(voc, tmp_path / "out")
    record = next(
        r for r in load_prepared(tmp_path / "out").records("train") if Path(r.name).stem == "a"
    )
    assert record.boxes.tolist() == [[0, 8, 20, 20], [60, 30, 64, 32]]
    assert report.findings.counts["outside_image"] == 1


def test_an_empty_split_can_be_filled_from_train(tmp_path):
    content = {name: [("cat", (1, 1, 9 + i, 9))] for i, name in enumerate("abcdefghij")}
    root = make_voc(tmp_path / "voc", content, lists=False)
    put(root / "ImageSets/Main/train.txt", "\n".join(content))
    with pytest.raises(DataError, match="split val: has no images"):
        run(root, tmp_path / "out")
    counts = run(root, tmp_path / "out", policies={"empty_split": "fix"}, val_fraction=0.3).info[
        "counts"
    ]
    assert counts["val"]["images"] >= 1 and counts["test"]["images"] >= 1
    assert sum(c["images"] for c in counts.values()) == 10


def test_a_class_that_never_occurs_is_reported(voc, tmp_path):
    put(tmp_path / "d.yaml", "name: x\npath: voc\nnames: [cat, dog, cow]\n")
    report = run(tmp_path / "d.yaml", tmp_path / "out")
    assert report.summary()["findings"]["unused_class"]["examples"] == [
        {"file": "", "detail": "class 'cow' has no box"}
    ]


def test_crowd_boxes_are_kept_as_such(tmp_path):
    root = MAKERS["coco"](tmp_path / "coco")
    file = root / "annotations/instances_test2017.json"
    file.write_text(file.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    run(root, tmp_path / "out")
    dataset = load_prepared(tmp_path / "out")
    assert (
        dataset.records("test")[0].crowd.tolist() == [True]
        and dataset.records("val")[0].crowd is None
    )


def test_splits_by_content_keep_groups_together_and_do_not_move_when_images_are_added(tmp_path):
    root = tmp_path / "voc"
    sides = []
    for n in (40, 60):
        make_voc(root, {f"cam{i // 4}_{i}": [("cat", (1, 1, 9, 9))] for i in range(n)}, lists=False)
        assert run(root, tmp_path / "out", group_by=r"^(cam\d+)_").info["splits"] == "by content"
        records = [
            record for split in SPLITS for record in load_prepared(tmp_path / "out").records(split)
        ]
        assert all(Path(record.name).stem.startswith(record.group + "_") for record in records)
        assert len({(record.group, record.split) for record in records}) == n // 4
        sides.append({record.name: record.split for record in records})
    assert sides[0].items() <= sides[1].items() and set(sides[0].values()) == set(SPLITS)


# --- sizes and rotation ---------------------------------------------------------------------------


def corner_image(path: Path, orientation: int) -> None:
    """A 20 x 40 (h x w) JPEG, as stored, with a white block whose stored box is [4, 2, 12, 10]."""
    image = np.zeros((20, 40, 3), np.uint8)
    image[2:10, 4:12] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=100, subsampling=0, exif=exif)


@pytest.mark.parametrize("orientation", range(5, 9))
def test_boxes_drawn_before_the_exif_rotation_are_turned_with_the_image(orientation, voc, tmp_path):
    corner_image(voc / "JPEGImages/a.jpg", orientation)
    (voc / "JPEGImages/a.png").unlink()
    put(
        voc / "Annotations/a.xml",
        voc_xml("a", [("cat", (4, 2, 12, 10))], size=(20, 40)).replace(".png", ".jpg"),
    )
    with pytest.raises(DataError, match="a.jpg is 40 x 20 after its EXIF rotation"):
        run(voc, tmp_path / "out", policies={"exif_rotation": "error"})
    assert run(voc, tmp_path / "out").findings.counts["exif_rotation"] == 1
    record = next(
        r for r in load_prepared(tmp_path / "out").records("train") if Path(r.name).stem == "a"
    )
    x1, y1, x2, y2 = record.boxes[0].astype(int)
    image = read_image(record.file)
    assert record.size == image.shape[:2] == (40, 20)
    inside = image[y1:y2, x1:x2]
    assert (
        inside.shape[:2] == (8, 8)
        and inside.mean() > 240
        and image.sum() - inside.sum() < 0.1 * inside.sum()
    )


def test_boxes_for_another_size_are_scaled(tmp_path):
    boxes = to_shown(np.array([[10.0, 20, 30, 40]]), (100, 200), Shape((50, 400), (50, 400)))
    assert boxes.tolist() == [[20, 10, 60, 20]]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "CMYK", "1"])
def test_every_kind_of_image_is_taken(mode, voc, tmp_path):
    (voc / "JPEGImages/a.png").unlink()
    suffix = ".jpg" if mode == "CMYK" else ".png"
    if mode == "I;16":
        cv2.imwrite(str(voc / "JPEGImages/a.png"), np.full((H, W), 40_000, np.uint16))
    else:
        Image.new("RGB", (W, H), (200, 100, 0)).convert(mode).save(voc / f"JPEGImages/a{suffix}")
    put(voc / "Annotations/a.xml", (voc / "Annotations/a.xml").read_text().replace(".png", suffix))
    run(voc, tmp_path / "out")
    record = next(
        r for r in load_prepared(tmp_path / "out").records("train") if Path(r.name).stem == "a"
    )
    assert read_image(record.file).shape == (H, W, 3) == (*record.size, 3)


# --- names of the copies --------------------------------------------------------------------------


def record(name: str, sha256: str) -> ImageRecord:
    return ImageRecord(
        Path("x"), sha256 * 8, (1, 1), np.zeros((0, 4)), np.zeros(0, np.int64), name=name
    )


def test_names_of_copies_are_unique_and_harmless():
    names = [
        ("l/x.png", "1"),
        ("r/X.PNG", "2"),
        ("r/x.png", "2"),
        ("y/a/../b?:\n.JPG", "3"),
        ("~.png", "4"),
    ]
    found = copy_names([record(*pair) for pair in names])
    assert found == ["x-11111111.png", "X-22222222.png", "x-22222222-2.png", "b___.jpg", "_.png"]
    assert copy_names([record("x.png", "1"), record("x-22222222.png", "9"), record("X.png", "2")])[
        1:
    ] == [
        "x-22222222.png",
        "X-22222222-2.png",
    ]


# --- the real dataset -----------------------------------------------------------------------------


def test_bccd(bccd, tmp_path):
    started = time.perf_counter()
    description = load_description(Path(__file__).parents[2] / "data/bccd.yaml")
    report = prepare(description, tmp_path / "out", DataConfig(path=str(bccd)))
    info = report.info
    assert {s: c["images"] for s, c in info["counts"].items()} == {
        "train": 205,
        "val": 87,
        "test": 72,
    }
    assert sum(c["boxes"] for c in info["counts"].values()) == 4155 + 372 + 361 - 2
    assert info["source_digest"] == description.content.digest, (
        "the description's digest is that of the pinned version"
    )
    assert report.findings.counts == {
        "zero_area": 2,
        "duplicate_box": 7,
        "near_leak": 1,
        "class_imbalance": 2,
        "size_outlier": 3,
        "aspect_outlier": 8,
    }
    files = [example.file for example in report.findings.examples["zero_area"]]
    assert files == ["Annotations/BloodImage_00338.xml", "Annotations/BloodImage_00343.xml"]
    assert time.perf_counter() - started < 60


def test_bccd_with_a_changed_file_is_reported_and_used(bccd, tmp_path):
    copy = tmp_path / "bccd"
    shutil.copytree(bccd, copy, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    (copy / "Annotations").chmod(0o755)
    file = copy / "Annotations/BloodImage_00001.xml"
    file.write_text(file.read_text().replace("<xmin>68<", "<xmin>67<"))
    settings = DataConfig(path=str(copy))
    description = load_description(Path(__file__).parents[2] / "data/bccd.yaml")
    report = prepare(description, tmp_path / "out", settings)
    assert report.findings.counts["digest_mismatch"] == 1
    with pytest.raises(DataError, match="not what the description expects"):
        prepare(
            description,
            tmp_path / "out",
            settings.with_overrides({"policies": {"digest_mismatch": "error"}}),
        )


def test_a_yolo_data_yaml_stands_for_its_folder(tmp_path):
    make_yolo(tmp_path / "yolo")
    assert run(tmp_path / "yolo/data.yaml", tmp_path / "out").info["format"] == "yolo"
