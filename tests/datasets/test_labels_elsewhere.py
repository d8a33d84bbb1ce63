"""Labels in more than one place of a dataset: none vanishes without a word."""

from __future__ import annotations

import json
import shutil

import pytest
from dataset_builders import (
    CONTENT,
    MAKERS,
    SPLIT_OF,
    coco_json,
    image_bytes,
    make_coco,
    make_voc,
    make_yolo,
    put,
    tree,
)
from reading import read

from engine.config import DataConfig
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.errors import DataError

KIND = "labels_elsewhere"


def said(root, **options) -> list[str]:
    return read(root, **options)[1].get(KIND, [])


@pytest.mark.parametrize("format", sorted(MAKERS))
def test_labels_in_one_place_are_no_finding(format, tmp_path):
    MAKERS[format](tmp_path)
    put(tmp_path / "README.txt", "5 images\n")
    put(tmp_path / "notes.csv", "image,weather\na.png,rain\n")
    assert not said(tmp_path)


def test_half_in_labels_and_half_beside_the_images(tmp_path):
    """Only labels/ is read; before, the other half was left out as images without annotation."""
    make_yolo(tmp_path)
    for name in ("a", "b", "d"):
        place = f"{SPLIT_OF[name]}/{name}.txt"
        (tmp_path / "labels" / place).rename(tmp_path / "images" / place)
    found = said(tmp_path)
    assert len(found) == 2 and found[0].startswith("images/train: holds labels of 2 images that")
    assert "(first file 'a.txt'); labels are read in labels/test, labels/train" in found[0]
    with pytest.raises(DataError, match="-S data.policies.labels_elsewhere=warn") as refused:
        settings = DataConfig(source=str(tmp_path))
        prepare(load_description(tmp_path), tmp_path.parent / "out", settings)
    assert "bring all labels into one place" in str(refused.value)


@pytest.mark.parametrize("same", [True, False])
def test_labels_beside_the_images_too_matter_where_they_say_otherwise(same, tmp_path):
    make_yolo(tmp_path)
    for file in list((tmp_path / "labels").rglob("*.txt")):
        target = tmp_path / "images" / file.relative_to(tmp_path / "labels")
        shutil.copy(file, target)
        if not same and file.read_text():
            target.write_text(file.read_text() + "1 0.5 0.5 0.25 0.25\n")
    found = said(tmp_path)
    assert bool(found) is not same
    assert all("that say otherwise than the labels that are read" in text for text in found)


@pytest.mark.parametrize("copy", [False, True])
def test_a_second_root_of_labels(copy, tmp_path):
    make_yolo(tmp_path)
    for name in ("a", "c"):
        file = tmp_path / f"labels/train/{name}.txt"
        put(tmp_path / f"labels_2/train/{name}.txt", file.read_text().replace("0.", "0.0"))
        if not copy:
            file.unlink()
    (found,) = said(tmp_path)
    assert found.startswith("labels_2/train: holds ")
    assert ("2 that say otherwise" if copy else "labels of 2 images that have no others") in found


def test_a_second_folder_called_labels_is_named_with_the_first(tmp_path):
    make_yolo(tmp_path)
    put(tmp_path / "old/labels/a.txt", "0 0.5 0.5 0.25 0.25\n")
    found = read(tmp_path)[1]["missing_image"]
    assert found == [
        "old/labels/a.txt: no image belongs to this label file; images/train/a.png has its labels "
        "in labels/train/a.txt"
    ]


def test_texts_that_are_no_labels_are_none(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "labels/train/a.txt").unlink()
    put(tmp_path / "captions/a.txt", "a cat on a mat\n")
    put(tmp_path / "counts/a.txt", "3\n")
    put(tmp_path / "tracks/a.txt", "0 1 2 3 4 5\n")  # no row: five numbers behind the class
    assert not said(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["0 47.1 8.5 400 3", "12 0.5 0.2 0.2 0.1 1 2", "0 0.5 0.5 -0.2 0.2", "-1 0.5 0.5 0.2 0.2"],
)
def test_numbers_of_other_things_are_no_labels(text, tmp_path):
    """Places and depths, one file an image: a class and fractions look otherwise."""
    make_yolo(tmp_path)
    for name in CONTENT:
        put(tmp_path / f"gps/{name}.txt", f"{text}\n")
    (tmp_path / "labels/train/a.txt").unlink()
    assert not said(tmp_path)


def test_the_same_labels_in_a_format_that_is_not_read_are_no_others(tmp_path):
    make_yolo(tmp_path)
    for name in CONTENT:
        put(tmp_path / f"labelTxt/{name}.txt", "1 1 5 1 5 5 1 5 plane 0\n")
    assert not said(tmp_path)
    (tmp_path / "labels/train/a.txt").unlink()
    assert said(tmp_path)[0].startswith("labelTxt: holds labels of 1 image that has no others")


def test_half_in_annotations_and_half_beside_the_images(tmp_path):
    make_voc(tmp_path, lists=False)
    for name in ("a", "b", "c"):
        (tmp_path / f"Annotations/{name}.xml").rename(tmp_path / f"JPEGImages/{name}.xml")
    (found,) = said(tmp_path)
    assert found.startswith("JPEGImages: holds labels of 3 images that have no others")


def test_another_json_file_with_the_other_half(tmp_path):
    """Of COCO's own set, instances_*.json alone counts."""
    make_coco(tmp_path)
    (tmp_path / "annotations/instances_val2017.json").unlink()
    part = {name: boxes for name, boxes in CONTENT.items() if SPLIT_OF[name] == "val"}
    put(tmp_path / "annotations/more.json", json.dumps(coco_json(part)))
    (found,) = said(tmp_path)
    assert found.startswith("annotations/more.json: holds labels of 1 image that has no others")


def test_files_of_coco_for_other_tasks_are_of_the_same_images(tmp_path):
    make_coco(tmp_path)
    put(tmp_path / "annotations/captions_train2017.json", json.dumps(coco_json(CONTENT)))
    assert not said(tmp_path)


def test_two_formats_in_one_folder_are_refused_by_their_names(tmp_path):
    make_yolo(tmp_path)
    put(tmp_path / "annotations.json", json.dumps(coco_json(CONTENT)))
    with pytest.raises(DataError, match="holds annotations in coco and yolo; .*format: coco"):
        read(tmp_path)


@pytest.mark.parametrize("format", sorted(MAKERS))
def test_the_other_half_in_a_format_that_is_not_read(format, tmp_path):
    MAKERS[format](tmp_path)
    names = ["x", "y"]
    for name in names:
        put(tmp_path / f"images/train/{name}.png", image_bytes(name))
    rows = "".join(f"{name}.png,64,32,cat,1,1,9,9\n" for name in names)
    put(tmp_path / "more.csv", f"filename,width,height,class,xmin,ymin,xmax,ymax\n{rows}")
    (found,) = said(tmp_path)
    assert found.startswith("more.csv: holds labels of 2 images that have no others")


def test_the_policy_says_that_they_do_not_count(tmp_path):
    make_yolo(tmp_path)
    put(tmp_path / "labels_2/train/a.txt", "0 0.5 0.5 0.25 0.25\n")
    before = tree(tmp_path)
    images, findings = read(tmp_path, policies={KIND: "warn"})
    assert len(images) == len(CONTENT) and len(findings[KIND]) == 1
    assert tree(tmp_path) == before
