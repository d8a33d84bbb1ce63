"""Every broken dataset of the corpus ends in its documented finding: never a traceback, never
silence, nothing half-written.

Refused with a message that names the place and the next step, or reported and dealt with by the
default policy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import broken_annotations
import broken_content
import broken_exports
import pytest
from broken import CASES
from dataset_builders import (
    CONTENT,
    MAKERS,
    SPLIT_OF,
    H,
    W,
    coco_json,
    image_bytes,
    make_voc,
    make_yolo,
    put,
    tree,
    voc_xml,
)

from engine.cli import main
from engine.config import DataConfig
from engine.data.manifest import load_prepared
from engine.datasets.description import load_description
from engine.datasets.findings import KINDS
from engine.datasets.open import open_dataset
from engine.datasets.prepare import prepare
from engine.errors import EngineError


def prepared(source: Path, target: Path, **settings):
    return prepare(load_description(source), target, DataConfig(source=str(source), **settings))


# --- what looks odd and is right ------------------------------------------------------------------


def odd_names(root: Path) -> None:
    boxes = [("cat", (1, 1, 9, 9))]
    for i, name in enumerate(
        ["with space", "Blutkörper", "quote'\"s", "semi;colon", "血球", "-dash", "x.y.z", "a" * 120]
    ):
        put(root / "JPEGImages" / f"{name}.png", image_bytes(f"{i}"))
        put(root / "Annotations" / f"{name}.xml", voc_xml(name.replace("<", ""), boxes))
        with open(root / "ImageSets/Main/train.txt", "a", encoding="utf-8") as file:
            file.write(f"{name}\n")


def same_name_in_two_folders(root: Path) -> None:
    for place in ("left", "right"):
        put(root / f"JPEGImages/{place}/x.png", image_bytes(place))
        put(root / f"Annotations/{place}/x.xml", voc_xml("x", [("cat", (1, 1, 9, 9))]))
        with open(root / "ImageSets/Main/train.txt", "a") as file:
            file.write(f"{place}/x\n")


def byte_order_mark_and_crlf(root: Path) -> None:
    for file in (root / "Annotations").iterdir():
        put(file, b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    for file in (root / "ImageSets/Main").iterdir():
        put(file, b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))


def names_that_are_not_utf8(root: Path) -> None:
    folder = os.fsencode(root / "JPEGImages")
    with open(folder + b"/caf\xe9.png", "wb") as file:
        file.write(image_bytes("cafe"))
    with open(os.fsencode(root / "Annotations") + b"/caf\xe9.xml", "wb") as file:
        file.write(voc_xml("", [("cat", (1, 1, 9, 9))]).replace(".png", "").encode())
    put(root / "ImageSets/Main/train.txt", "a\nb\nc\nf\ncaf\ufffd\n")


def hidden_litter(root: Path) -> None:
    for name in (
        "JPEGImages/.DS_Store",
        "JPEGImages/._a.png",
        "Annotations/._a.xml",
        "__MACOSX/JPEGImages/a.png",
        ".git/x.png",
    ):
        put(root / name, b"\0\1")


ODD = {
    odd_names: 8,
    same_name_in_two_folders: 2,
    byte_order_mark_and_crlf: 0,
    names_that_are_not_utf8: 1,
    hidden_litter: 0,
}


@pytest.mark.parametrize("change, more", ODD.items(), ids=[change.__name__ for change in ODD])
def test_odd_but_right(change, more, tmp_path):
    make_voc(tmp_path / "set")
    change(tmp_path / "set")
    report = prepared(tmp_path / "set", tmp_path / "out")
    assert list(report.findings.counts) == ["empty_image"]
    records = load_prepared(tmp_path / "out").records("train")
    assert len(records) == 4 + more
    assert len({record.file.name for record in records}) == len(records) and all(
        record.file.is_file() for record in records
    )


def without_images(root: Path) -> None:
    make_voc(root)
    for file in (root / "JPEGImages").iterdir():
        file.unlink()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda root: None, "no such description or folder"),
        (lambda root: put(root, "x"), "a description (.yaml) or a folder"),
        (lambda root: root.mkdir(), "no annotations found"),
        (lambda root: put(root / "a.json", json.dumps(coco_json({}))), "no image can be used"),
        (without_images, "image that is not there (6)"),
        (lambda root: put(root / "dataset.json", "{}"), "already prepared"),
    ],
    ids=["nothing", "file", "empty-folder", "no-images", "all-images-missing", "prepared"],
)
def test_no_dataset_at_all(make, message, tmp_path):
    make(tmp_path / "set")
    with pytest.raises(EngineError, match=message.replace("(", r"\(").replace(")", r"\)")):
        prepared(tmp_path / "set", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_corpus_is_whole():
    """Each case is there once, under a name of its own, and every format takes its part."""
    assert {case.values[1].__module__ for case in CASES} == {
        m.__name__ for m in (broken_annotations, broken_content, broken_exports)
    }
    assert len({case.id for case in CASES}) == len(CASES) >= 100
    assert {case.id.split("-")[0] for case in CASES} == set(MAKERS)


def test_the_corpus_knows_every_kind_of_finding():
    """A new kind needs a case here, or a test of its own below."""
    elsewhere = {
        "split_path",
        "unused_class",
        "small_split",
        "digest_mismatch",
    }  # test_formats, test_prepare
    # test_checks, test_splits
    elsewhere |= {
        "near_duplicate",
        "near_leak",
        "tiny_box",
        "size_outlier",
        "aspect_outlier",
        "label_error",
        "class_imbalance",
    }
    elsewhere |= {"linked_splits", "uneven_split", "no_group", "foreign_splits"}
    assert {param.values[2] for param in CASES} | elsewhere == set(KINDS)


@pytest.mark.parametrize("make, breaker, kind, fragments", CASES)
def test_broken_dataset_ends_in_its_finding(make, breaker, kind, fragments, tmp_path):
    source, target = tmp_path / "set", tmp_path / "out" / "prepared"
    make(source)
    breaker(source)
    before = tree(source)
    if KINDS[kind].default == "error":
        with pytest.raises(EngineError) as caught:
            prepared(source, target)
        text = str(caught.value)
        assert f"{KINDS[kind].what} (" in text and KINDS[kind].advice in text
        assert "Traceback" not in text and not target.exists()
    else:
        report = prepared(source, target)
        found = report.summary()["findings"][kind]
        assert found["policy"] == KINDS[kind].default
        text = json.dumps(found, ensure_ascii=False)
        assert load_prepared(target).digest == report.info["digest"]
    for fragment in fragments:
        assert fragment in text, text
    assert tree(source) == before, "the source was touched"
    assert {path.name for path in target.parent.glob("*")} <= {"prepared"}, (
        "something was left behind"
    )


# --- through the command line ---------------------------------------------------------------------

THROUGH_THE_COMMAND_LINE = (
    "truncated_xml",
    "xml_without_size",
    "yolo_class_number_too_high",
    "split_with_only_empty_images",
    "truncated_jpeg",
    "cvat_ellipse",
    "studio_in_pixels",
)


@pytest.mark.parametrize("described", [False, True], ids=["folder", "description"])
@pytest.mark.parametrize("name", THROUGH_THE_COMMAND_LINE)
def test_train_answers_with_one_message(name, described, tmp_path, monkeypatch, capsys):
    """The same for a folder and for a description of it: what, where, what next; exit code 1."""
    make, breaker, kind, fragments = next(
        case.values for case in CASES if case.id.endswith(f"-{name}")
    )
    make(tmp_path / "set")
    breaker(tmp_path / "set")
    put(tmp_path / "set.yaml", "name: mine\npath: set\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTFLOW_STATE", raising=False)
    assert (
        main(
            [
                "train",
                f"data={'set.yaml' if described else 'set'}",
                "model=yolov8n",
                "imgsz=64",
                "epochs=1",
            ]
        )
        == 1
    )
    said = capsys.readouterr().err
    assert (
        f"DataError: dataset '{'mine' if described else 'set'}'" in said and "Traceback" not in said
    )
    assert f"{KINDS[kind].what} (" in said and f"  Next: {KINDS[kind].advice}." in said
    assert all(fragment in said for fragment in fragments), said


def test_train_takes_a_set_without_test_images_and_refuses_one_without_val(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTFLOW_STATE", raising=False)
    for missing in ("test", "val"):
        make_yolo(
            tmp_path / missing,
            {name: boxes for name, boxes in CONTENT.items() if SPLIT_OF[name] != missing},
        )
    assert open_dataset("test", tmp_path / "cache").counts["test"] == {"images": 0, "boxes": 0}
    assert main(["train", "data=val", "model=yolov8n", "imgsz=64", "epochs=1"]) == 1
    said = capsys.readouterr().err
    assert (
        "dataset 'val': split val has no images" in said
        and "-S data.policies.empty_split=fix" in said
    )
    with pytest.raises(EngineError, match="-S data.policies.empty_split=fix"):
        prepared(tmp_path / "test", tmp_path / "out")


def test_a_size_that_is_missing_may_be_read_from_the_image(tmp_path):
    make_voc(tmp_path / "set")
    put(tmp_path / "set/Annotations/a.xml", voc_xml("a", [("cat", (4, 2, 20, 30))], size=None))
    report = prepared(tmp_path / "set", tmp_path / "out", policies={"missing_size": "fix"})
    assert report.findings.counts["missing_size"] == 1
    (record,) = (
        r for r in load_prepared(tmp_path / "out").records("train") if r.name.endswith("a.png")
    )
    assert record.size == (H, W) and record.boxes.tolist() == [[4, 2, 20, 30]]


def test_what_a_link_leads_out_to_is_left_or_taken_by_policy(tmp_path):
    make_voc(tmp_path / "set")
    image = tmp_path / "set/JPEGImages/a.png"
    image.rename(tmp_path / "elsewhere.png")
    image.symlink_to(tmp_path / "elsewhere.png")
    report = prepared(tmp_path / "set", tmp_path / "one", policies={"link_outside": "warn"})
    assert report.info["counts"]["train"]["images"] == 4
    report = prepared(
        tmp_path / "set",
        tmp_path / "two",
        policies={"link_outside": "drop", "missing_image": "drop"},
    )
    assert report.info["counts"]["train"]["images"] == 3


def test_links_into_the_cache_of_dvc_are_its_way_of_adding_files(tmp_path):
    make_voc(tmp_path / "set")
    for number, file in enumerate(sorted((tmp_path / "set/JPEGImages").iterdir())):
        stored = put(tmp_path / f".dvc/cache/files/md5/a{number}/{'0' * 30}", file.read_bytes())
        file.unlink()
        file.symlink_to(stored)
    report = prepared(tmp_path / "set", tmp_path / "out")
    assert list(report.findings.counts) == ["empty_image"]
