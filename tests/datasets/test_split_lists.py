"""Lists of images by split: read where it is clear what they mean, else named; never ignored."""

from __future__ import annotations

import json

import pytest
from dataset_builders import image_bytes, make_voc, put
from reading import read

from engine.datasets.formats.folder import Folder
from engine.datasets.formats.split_lists import image_of

TRAIN, VAL = range(10), range(10, 14)


def yolo(root, images="all"):
    for number in range(14):
        put(root / f"{images}/images/f{number}.png", image_bytes(str(number)))
        put(root / f"{images}/labels/f{number}.txt", "0 0.5 0.5 0.2 0.2\n")
    put(root / "classes.txt", "cat\n")
    return root


def lines(numbers, form="all/images/f{}.png"):
    return "".join(f"{form.format(number)}\n" for number in numbers)


def splits(root, **options):
    images, findings = read(root, **options)
    return [images[f"f{number}"].split for number in range(14)], findings


AS_LISTED = ["train"] * 10 + ["val"] * 4


@pytest.mark.parametrize(
    "form", ["all/images/f{}.png", "./images/f{}.png", "f{}", "C:\\x\\all\\images\\f{}.png"]
)
@pytest.mark.parametrize(
    "train, val",
    [
        ("train.txt", "val.txt"),
        ("splits/train.txt", "splits/valid.txt"),
        ("ImageSets/Main/train.txt", "ImageSets/Main/val.txt"),
        ("autosplit_train.txt", "autosplit_val.txt"),
        ("train_list.txt", "validation-list.txt"),
        ("train.lst", "val.lst"),
        ("lists/train/train.txt", "lists/val/val.txt"),
    ],
)
def test_lists_that_are_clear_are_read(train, val, form, tmp_path):
    put(yolo(tmp_path) / train, lines(TRAIN, form))
    put(tmp_path / val, lines(VAL, form))
    assert splits(tmp_path) == (AS_LISTED, {})
    assert splits(tmp_path, splits="none")[0] == [""] * 14


@pytest.mark.parametrize(
    "begin, encoding",
    [("\ufeff", "utf-8"), ("\ufeff", "utf-16-le"), ("\ufeff", "utf-16-be"), ("", "utf-16")],
)
def test_lists_that_powershell_made(begin, encoding, tmp_path):
    put(yolo(tmp_path) / "train.txt", lines(TRAIN))
    put(tmp_path / "val.txt", (begin + lines(VAL)).encode(encoding))
    assert splits(tmp_path) == (AS_LISTED, {})


def test_a_list_that_cannot_be_read_is_named(tmp_path):
    put(yolo(tmp_path) / "train.txt", lines(TRAIN))
    put(tmp_path / "val.txt", b"all/images/f10.png\n\xff\xe9\n")
    _, findings = splits(tmp_path)
    (said,) = findings["unreadable_annotation"]
    assert said.startswith("val.txt: is called like a list of val, and cannot be read: not UTF-8")


@pytest.mark.parametrize("data", ["", "train = data/train.txt\nbackup = backup/\n"])
def test_one_list_alone_is_a_finding(data, tmp_path):
    put(yolo(tmp_path) / "train.txt", lines(TRAIN))
    if data:
        put(tmp_path / "obj.data", data)
    found, findings = splits(tmp_path)
    assert found == [""] * 14
    assert findings == {
        "unused_list": ["train.txt: names 10 of 14 images as train, and no other split has a list"]
    }


def test_a_list_that_obj_data_names_and_that_is_not_there(tmp_path):
    put(yolo(tmp_path) / "train.txt", lines(TRAIN))
    put(tmp_path / "obj.data", "train = data/train.txt\nvalid = data/gone.txt\n")
    _, findings = splits(tmp_path)
    assert findings["split_path"] == ["obj.data, line 2: valid: 'data/gone.txt' is not there"]
    assert len(findings["unused_list"]) == 1


def test_lines_that_name_no_image_are_reported(tmp_path):
    put(yolo(tmp_path) / "train.txt", lines(range(-3, 10)))
    put(tmp_path / "val.txt", lines(VAL))
    found, findings = splits(tmp_path)
    assert found == AS_LISTED and list(findings) == ["missing_image"]
    assert findings["missing_image"][0] == (
        "train.txt, line 1: 'all/images/f-3.png' is listed, and there is no such annotated image"
    )
    assert len(findings["missing_image"]) == 3


def test_so_are_those_of_lists_in_a_data_yaml(tmp_path):
    put(yolo(tmp_path) / "a.txt", lines(range(11)))
    put(tmp_path / "b.txt", lines(range(11, 16)))
    put(tmp_path / "data.yaml", "train: a.txt\nval: b.txt\nnames: [cat]\n")
    _, findings = splits(tmp_path)
    assert [said[:14] for said in findings["missing_image"]] == ["b.txt, line 4:", "b.txt, line 5:"]


def test_images_that_were_left_out_make_no_list_wrong(tmp_path):
    """A second image of that name, one without label, one whose labels cannot be read."""
    put(yolo(tmp_path) / "train.txt", lines(range(12)))
    put(tmp_path / "val.txt", lines((12, 13)))
    (tmp_path / "all/labels/f0.txt").unlink()
    put(tmp_path / "all/images/f1.jpg", image_bytes("other"))
    put(tmp_path / "all/labels/f2.txt", b"\xff\xff")
    _, findings = read(tmp_path, policies={"unreadable_annotation": "drop"})
    assert set(findings) == {"unlabelled_image", "ambiguous_image", "unreadable_annotation"}


@pytest.mark.parametrize("where", ["{}/train_{}.txt", "fold{1}/{0}.txt"])
def test_lists_that_contradict_each_other_are_refused(where, tmp_path):
    """Folds of a cross-validation: nobody knows which one is meant."""
    yolo(tmp_path)
    for fold, val in enumerate((range(4), range(4, 8))):
        train = [number for number in range(14) if number not in val]
        place = "fold{}/{}.txt" if "fold" in where else "folds/{1}_{0}.txt"
        put(tmp_path / place.format(fold, "train"), lines(train))
        put(tmp_path / place.format(fold, "val"), lines(val))
    found, findings = splits(tmp_path)
    assert found == [""] * 14 and list(findings) == ["unclear_lists"]
    assert " here, and of " in findings["unclear_lists"][0]


def test_lists_of_several_places_add_up(tmp_path):
    """One for each camera; a copy of one of them in another form changes nothing."""
    yolo(tmp_path)
    for camera, train, val in (("a", range(5), (10, 11)), ("b", range(5, 10), (12, 13))):
        put(tmp_path / f"{camera}/train.txt", lines(train))
        put(tmp_path / f"{camera}/val.txt", lines(val))
    put(tmp_path / "b/copy/val.txt", lines((12, 13), "f{}"))
    assert splits(tmp_path) == (AS_LISTED, {})


def test_an_image_in_two_plain_lists_is_a_leak(tmp_path):
    put(yolo(tmp_path) / "train.txt", lines(range(11)))
    put(tmp_path / "val.txt", lines(VAL))
    _, findings = splits(tmp_path)
    assert list(findings) == ["split_leak"]


@pytest.mark.parametrize(
    "file, text",
    [
        ("train.txt", "We trained this for 10 epochs\n"),
        ("train_log.txt", "epoch 1 loss 0.2\nepoch 2 loss 0.1\n"),
        ("test_and_train.txt", "all/images/f1.png\n"),
        ("images.txt", "all/images/f1.png\n"),
        ("trainval.txt", "all/images/f1.png\n"),
    ],
)
def test_texts_that_are_no_lists_of_a_split(file, text, tmp_path):
    put(yolo(tmp_path) / file, text)
    assert splits(tmp_path) == ([""] * 14, {})


def test_labels_of_an_image_called_train_are_no_list(tmp_path):
    for name in ("train", "val", "x"):
        put(tmp_path / f"images/{name}.png", image_bytes(name))
        put(tmp_path / f"labels/{name}.txt", "0 0.5 0.5 0.2 0.2\n")
    put(tmp_path / "classes.txt", "cat\n")
    images, findings = read(tmp_path)
    assert len(images) == 3 and not findings


def test_lists_of_one_class_beside_those_of_all(tmp_path):
    put(yolo(tmp_path) / "ImageSets/Main/train.txt", lines(TRAIN, "f{}"))
    put(tmp_path / "ImageSets/Main/val.txt", lines(VAL, "f{}"))
    put(tmp_path / "ImageSets/Main/cat_train.txt", lines(range(14), "f{}  1"))
    assert splits(tmp_path) == (AS_LISTED, {})


def test_the_formats_that_have_no_such_lists_say_so(tmp_path):
    make_voc(tmp_path, lists=False)
    put(tmp_path / "train.txt", "JPEGImages/a.png\nJPEGImages/b.png\n")
    _, findings = read(tmp_path)
    (said,) = findings["unused_list"]
    assert said.startswith("train.txt: names 2 of ") and "this format has no such lists" in said
    assert "unused_list" not in read(tmp_path, splits="none")[1]
    assert "unused_list" not in read(tmp_path, splits={"train": "train.txt"})[1]


def test_nor_are_they_needed_where_the_files_are_by_split(tmp_path):
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 32}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    put(tmp_path / "images/a.png", image_bytes("a"))
    put(tmp_path / "instances_train.json", json.dumps(content))
    put(tmp_path / "train.txt", "a.png\n")
    assert read(tmp_path)[1] == {}


def test_what_a_line_means(tmp_path):
    for name in ("one/a.png", "two/a.png", "two/b.png"):
        put(tmp_path / name, image_bytes(name))
    folder = Folder(tmp_path)
    said = {
        "b": "two/b.png",
        "b.png": "two/b.png",
        "/home/me/two/b.png": "two/b.png",
        "data\\one\\a.png": "one/a.png",
        "b -1": "two/b.png",
        "a.png": "a.png",  # nobody knows which
        "c.png": None,
        "": None,
    }
    assert {line: image_of(folder, line) for line in said} == said
