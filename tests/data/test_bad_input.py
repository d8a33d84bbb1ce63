"""A corpus of broken datasets. Each ends in its documented finding: never a traceback, never silence, nothing half-written.

A case starts from a whole dataset, breaks one thing, and names what has to be found: refused with a message that names the
place, or reported and dealt with by the default policy.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_builders import coco_json, make_coco, make_voc, make_yolo, picture, put, tree, voc_xml

from engine.config import DataConfig
from engine.errors import EngineError
from engine.parts.data.checks import KINDS
from engine.parts.data.description import load_description
from engine.parts.data.prepare import prepare
from engine.parts.data.prepared import load_prepared

CASES: list = []


def case(make: Callable[[Path], object], kind: str, *fragments: str):
    """Registers `breaker(root)`; `fragments` must stand in the message, or in the finding's text."""

    def register(breaker):
        CASES.append(pytest.param(make, breaker, kind, fragments, id=f"{make.__name__[5:]}-{breaker.__name__}"))
        return breaker

    return register


def prepared(source: Path, target: Path, **settings):
    return prepare(load_description(source), target, DataConfig(source=str(source), **settings))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


# --- annotation files ---------------------------------------------------------------------------------------------

A_XML, A_PNG, A_TXT = "Annotations/a.xml", "JPEGImages/a.png", "labels/train/a.txt"
TRAIN_JSON = "annotations/instances_train2017.json"


@case(make_voc, "unreadable_annotation", A_XML, "the file is empty")
def empty_xml(root):
    put(root / A_XML, b"")


@case(make_voc, "unreadable_annotation", A_XML, "not well-formed XML", "line 3")
def truncated_xml(root):
    put(root / A_XML, "<annotation>\n<filename>a.png</filename>\n<object>")


@case(make_voc, "unreadable_annotation", A_XML, "<annotations>", "Pascal VOC has <annotation>")
def wrong_root_tag(root):
    put(root / A_XML, "<annotations></annotations>")


@case(make_voc, "unreadable_annotation", A_XML, "refused", "EntitiesForbidden")
def entity_bomb(root):
    bomb = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi"))
    put(root / A_XML, f'<!DOCTYPE x [<!ENTITY a "lol">{bomb}]><annotation><filename>&i;</filename></annotation>')


@case(make_voc, "unreadable_annotation", A_XML, "refused")
def external_entity(root):
    put(root / A_XML, '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>')


@case(make_voc, "unreadable_annotation", A_XML, "nested deeper")
def deep_xml(root):
    put(root / A_XML, "<annotation>" * 5000 + "</annotation>" * 5000)


@case(make_voc, "unreadable_annotation", A_XML)
def binary_xml(root):
    put(root / A_XML, bytes(range(256)))


@case(make_voc, "unreadable_annotation", A_XML, "XML")
def xml_in_an_unknown_encoding(root):
    put(root / A_XML, '<?xml version="1.0" encoding="klingon"?><annotation/>')


@case(make_voc, "bad_entry", A_XML, "<xmin> of 'cat' is 'nan', not a number", "line 4")
def nan_coordinate(root):
    edit(root / A_XML, "<xmin>4<", "<xmin>nan<")


@case(make_voc, "bad_entry", A_XML, "without <name>")
def object_without_name(root):
    edit(root / A_XML, "<name>cat</name>", "")


@case(make_voc, "bad_entry", A_XML, "'cat' with 0 <bndbox>")
def object_without_box(root):
    put(root / A_XML, "<annotation><filename>a.png</filename><object><name>cat</name></object></annotation>")


@case(make_voc, "missing_size", A_XML, "does not state the size")
def xml_without_size(root):
    put(root / A_XML, voc_xml("a", [("cat", (4, 2, 20, 30))], size=None))


@case(make_voc, "missing_size", A_XML)
def xml_with_size_zero(root):
    put(root / A_XML, voc_xml("a", [("cat", (4, 2, 20, 30))], size=(0, 0)))


@case(make_voc, "size_mismatch", A_XML, "says 64 x 32 (h x w), the image is 32 x 64")
def xml_for_another_size(root):
    put(root / A_XML, voc_xml("a", [("cat", (4, 2, 20, 30))], size=(64, 32)))


@case(make_voc, "outside_folder", A_XML, "'../../../etc/passwd.png' leaves the dataset folder")
def filename_that_climbs_out(root):
    edit(root / A_XML, "a.png", "../../../etc/passwd.png")


@case(make_voc, "outside_folder", A_XML)
def absolute_filename(root):
    edit(root / A_XML, "a.png", "C:\\data\\a.png")


@case(make_voc, "ambiguous_image", A_XML, "fits JPEGImages/a.png and JPEGImages/b.png")
def filename_of_another_image(root):
    edit(root / A_XML, "a.png", "b.png")


@case(make_voc, "duplicate_entry", "copy.xml", "as Annotations/a.xml does")
def two_annotations_for_one_image(root):
    put(root / "Annotations/copy.xml", (root / A_XML).read_bytes())


@case(make_coco, "unreadable_annotation", TRAIN_JSON, "not valid JSON", "line 1 column")
def truncated_json(root):
    put(root / TRAIN_JSON, (root / TRAIN_JSON).read_bytes()[:200])


@case(make_coco, "unreadable_annotation", TRAIN_JSON, "'categories' is missing")
def json_without_categories(root):
    put(root / TRAIN_JSON, '{"images": [], "annotations": []}')


@case(make_coco, "unreadable_annotation", TRAIN_JSON, "nested too deep")
def deep_json(root):
    put(root / TRAIN_JSON, '{"images": ' + "[" * 100_000)


def change_coco(root: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((root / TRAIN_JSON).read_text())
    change(content)
    put(root / TRAIN_JSON, json.dumps(content))


@case(make_coco, "bad_entry", "annotation 1: bbox '[4, nan, 16, 28]'")
def coco_nan(root):
    change_coco(root, lambda c: c["annotations"][0]["bbox"].__setitem__(1, float("nan")))


@case(make_coco, "bad_entry", "annotation 1: bbox '[1, 2, 3]'")
def coco_three_numbers(root):
    change_coco(root, lambda c: c["annotations"][0].update(bbox=[1, 2, 3]))


@case(make_coco, "bad_entry", "image_id '99' is not among the images")
def coco_annotation_without_image(root):
    change_coco(root, lambda c: c["annotations"][0].update(image_id=99))


@case(make_coco, "duplicate_entry", "image id 1 is there twice")
def coco_image_id_twice(root):
    change_coco(root, lambda c: c["images"][1].update(id=1))


@case(make_coco, "duplicate_entry", "annotation 1 is there twice")
def coco_annotation_id_twice(root):
    change_coco(root, lambda c: c["annotations"][1].update(id=1))


@case(make_coco, "duplicate_entry", "category 10")
def coco_category_twice(root):
    change_coco(root, lambda c: c["categories"].append({"id": 10, "name": "cow"}))


@case(make_coco, "unknown_class", "annotation 1: class 'category_id 15' is not among cat, dog")
def coco_category_in_a_gap(root):
    change_coco(root, lambda c: c["annotations"][0].update(category_id=15))


@case(make_coco, "outside_folder", "'/etc/x.png' leaves the dataset folder")
def coco_absolute_file_name(root):
    change_coco(root, lambda c: c["images"][0].update(file_name="/etc/x.png"))


@case(make_coco, "bad_entry", "images[0] has no number as id or no file_name")
def coco_image_without_file_name(root):
    change_coco(root, lambda c: c["images"][0].pop("file_name"))


@case(make_coco, "ambiguous_image", "fits")
def coco_two_images_of_that_name(root):
    put(root / "more/a.png", picture("other"))


@case(make_coco, "zero_area", "annotation 1: 'cat' [4, 2, 4, 30] has no area")
def coco_box_without_width(root):
    change_coco(root, lambda c: c["annotations"][0].update(bbox=[4, 2, 0, 28]))


@case(make_coco, "inverted_box", "corners swapped")
def coco_negative_width(root):
    change_coco(root, lambda c: c["annotations"][0].update(bbox=[20, 2, -16, 28]))


@case(make_coco, "bad_entry", "bbox")
def coco_numbers_as_text(root):
    change_coco(root, lambda c: c["annotations"][0].update(bbox=["4", "2", "16", "28"]))


@case(make_yolo, "bad_entry", A_TXT, "line 2", "'x' is not a number")
def yolo_word(root):
    put(root / A_TXT, "0 0.5 0.5 0.5 0.5\n0 0.5 x 0.5 0.5\n")


@case(make_yolo, "bad_entry", A_TXT, "5 values after the class")
def yolo_with_confidence(root):
    put(root / A_TXT, "0 0.5 0.5 0.5 0.5 0.9\n")


@case(make_yolo, "bad_entry", A_TXT, "are these pixels?")
def yolo_in_pixels(root):
    put(root / A_TXT, "0 12 16 16 28\n")


@case(make_yolo, "bad_entry", A_TXT, "'0.5' is no class number")
def yolo_without_class(root):
    put(root / A_TXT, "0.5 0.5 0.5 0.5\n")


@case(make_yolo, "unknown_class", A_TXT, "line 1", "'class 2' is not among cat, dog")
def yolo_class_number_too_high(root):
    put(root / A_TXT, "2 0.5 0.5 0.5 0.5\n")


@case(make_yolo, "unknown_class", A_TXT, "'class -1'")
def yolo_negative_class(root):
    put(root / A_TXT, "-1 0.5 0.5 0.5 0.5\n")


@case(make_yolo, "unreadable_annotation", A_TXT, "not UTF-8")
def yolo_in_utf16(root):
    put(root / A_TXT, "0 0.5 0.5 0.5 0.5\n".encode("utf-16"))


@case(make_yolo, "missing_image", "labels/train/zz.txt", "no image belongs")
def yolo_label_without_image(root):
    put(root / "labels/train/zz.txt", "0 0.5 0.5 0.5 0.5\n")


@case(make_yolo, "ambiguous_image", A_TXT)
def yolo_two_images_for_one_label(root):
    put(root / "images/train/a.jpg", picture("other", suffix=".jpg"))


@case(make_yolo, "unlabelled_image", "images/train/new.png", "has no label file")
def yolo_image_without_label(root):
    put(root / "images/train/new.png", picture("new"))


# --- images -------------------------------------------------------------------------------------------------------


@case(make_voc, "missing_image", A_XML, "its image 'a.png' is not there")
def missing_image(root):
    (root / A_PNG).unlink()


@case(make_voc, "missing_image", A_XML, "there is JPEGImages/A.PNG: upper and lower case matter")
def image_in_other_case(root):
    (root / A_PNG).rename(root / "JPEGImages/A.PNG")


@case(make_voc, "missing_image", A_XML, "'a.gif' is not there; JPEGImages/a.gif is, but images are .bmp .jpeg")
def image_of_another_kind(root):
    (root / A_PNG).rename(root / "JPEGImages/a.gif")
    edit(root / A_XML, "a.png", "a.gif")


@case(make_voc, "missing_image", A_XML, "'a.png' is not there")
def folder_with_the_name_of_an_image(root):
    (root / A_PNG).unlink()
    (root / A_PNG).mkdir()


@case(make_voc, "unreadable_image", A_PNG, "the file is empty")
def image_of_zero_bytes(root):
    put(root / A_PNG, b"")


@case(make_voc, "unreadable_image", A_PNG, "truncated")
def truncated_jpeg(root):
    put(root / A_PNG, picture("a", suffix=".jpg")[:-200])


@case(make_voc, "unreadable_image", A_PNG)
def truncated_png(root):
    put(root / A_PNG, picture("a")[:-500])


@case(make_voc, "unreadable_image", A_PNG, "no known image format")
def text_called_png(root):
    put(root / A_PNG, "404 not found")


@case(make_voc, "unreadable_image", A_PNG, "decompression bomb")
def image_that_claims_to_be_huge(root):
    data = bytearray(picture("a"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    put(root / A_PNG, bytes(data))


@case(make_voc, "unreadable_image", A_PNG, "a link to nothing")
def image_that_links_to_nothing(root):
    (root / A_PNG).unlink()
    (root / A_PNG).symlink_to(root / "nowhere.png")


@case(make_voc, "unreadable_image", A_PNG)
def image_that_links_to_itself(root):
    (root / A_PNG).unlink()
    (root / A_PNG).symlink_to(root / A_PNG)


@case(make_voc, "link_loop", "JPEGImages/up", "leads back to a folder above it")
def folder_link_in_a_circle(root):
    (root / "JPEGImages/up").symlink_to(root)


@case(make_voc, "unlabelled_image", "JPEGImages/new.png", "has no XML file")
def image_without_annotation(root):
    put(root / "JPEGImages/new.png", picture("new"))


@case(make_voc, "duplicate_image", "JPEGImages/c.png", "is the same as JPEGImages/a.png")
def same_image_twice_in_a_split(root):
    put(root / "JPEGImages/c.png", picture("a"))


@case(make_voc, "empty_image", "JPEGImages/f.png", "has no boxes")
def image_without_boxes(root):
    pass  # the whole dataset has one


# --- boxes --------------------------------------------------------------------------------------------------------


def relabel(root: Path, *boxes: tuple) -> None:
    put(root / A_XML, voc_xml("a", list(boxes)))


@case(make_voc, "zero_area", A_XML, "'cat' [8, 8, 8, 20] has no area")
def box_without_width(root):
    relabel(root, ("cat", (8, 8, 8, 20)))


@case(make_voc, "inverted_box", A_XML, "[20, 30, 4, 2] has its corners swapped", "the corners are swapped")
def swapped_corners(root):
    relabel(root, ("cat", (20, 30, 4, 2)))


@case(make_voc, "outside_image", A_XML, "reaches outside the image of 32 x 64 (h x w)")
def box_over_the_edge(root):
    relabel(root, ("cat", (-3, 8, 20, 20)))


@case(make_voc, "outside_image", A_XML, "lies wholly outside")
def box_outside(root):
    relabel(root, ("cat", (70, 8, 90, 20)), ("cat", (1, 1, 9, 9)))


@case(make_voc, "outside_image", A_XML)
def box_of_absurd_size(root):
    relabel(root, ("cat", (-1e300, 8, 1e300, 20)))


@case(make_voc, "duplicate_box", A_XML, "repeats line 4")
def same_box_twice(root):
    relabel(root, ("cat", (4, 2, 20, 30)), ("cat", (4, 2, 20, 30.5)))


# --- splits -------------------------------------------------------------------------------------------------------


@case(make_voc, "split_without_boxes", "split val", "none of its images has a box")
def split_with_only_empty_images(root):
    put(root / "Annotations/d.xml", voc_xml("d", []))


@case(make_voc, "empty_split", "split val", "has no images")
def empty_split_list(root):
    put(root / "ImageSets/Main/val.txt", "")


@case(make_voc, "not_in_split", "JPEGImages/c.png")
def image_in_no_list(root):
    put(root / "ImageSets/Main/train.txt", "a\nb\nf\n")


@case(make_voc, "missing_image", "ImageSets/Main/train.txt, line 5", "'ghost' is listed")
def listed_and_not_there(root):
    with open(root / "ImageSets/Main/train.txt", "a") as file:
        file.write("ghost\n")


@case(make_voc, "split_leak", "ImageSets/Main/val.txt, line 2", "'a' is also in ImageSets/Main/train.txt, line 1")
def image_in_two_lists(root):
    put(root / "ImageSets/Main/val.txt", "d\na\n")


@case(make_voc, "split_leak", "JPEGImages/a.png", "(in train) is the same image as JPEGImages/e.png (in test)")
def same_bytes_in_two_splits(root):
    put(root / "JPEGImages/e.png", picture("a"))


@case(make_voc, "outside_folder", "ImageSets/Main/val.txt, line 2")
def list_that_climbs_out(root):
    put(root / "ImageSets/Main/val.txt", "d\n../../x\n")


# --- what looks odd and is right ----------------------------------------------------------------------------------


def odd_names(root: Path) -> None:
    boxes = [("cat", (1, 1, 9, 9))]
    for i, name in enumerate(["with space", "Blutkörper", "quote'\"s", "semi;colon", "血球", "-dash", "x.y.z", "a" * 120]):
        put(root / "JPEGImages" / f"{name}.png", picture(f"{i}"))
        put(root / "Annotations" / f"{name}.xml", voc_xml(name.replace("<", ""), boxes))
        with open(root / "ImageSets/Main/train.txt", "a", encoding="utf-8") as file:
            file.write(f"{name}\n")


def same_name_in_two_folders(root: Path) -> None:
    for place in ("left", "right"):
        put(root / f"JPEGImages/{place}/x.png", picture(place))
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
        file.write(picture("cafe"))
    with open(os.fsencode(root / "Annotations") + b"/caf\xe9.xml", "wb") as file:
        file.write(voc_xml("", [("cat", (1, 1, 9, 9))]).replace(".png", "").encode())
    put(root / "ImageSets/Main/train.txt", "a\nb\nc\nf\ncaf\ufffd\n")


def hidden_litter(root: Path) -> None:
    for name in ("JPEGImages/.DS_Store", "JPEGImages/._a.png", "Annotations/._a.xml", "__MACOSX/JPEGImages/a.png", ".git/x.png"):
        put(root / name, b"\0\1")


ODD = {odd_names: 8, same_name_in_two_folders: 2, byte_order_mark_and_crlf: 0, names_that_are_not_utf8: 1, hidden_litter: 0}


@pytest.mark.parametrize("change, more", ODD.items(), ids=[change.__name__ for change in ODD])
def test_odd_but_right(change, more, tmp_path):
    make_voc(tmp_path / "set")
    change(tmp_path / "set")
    report = prepared(tmp_path / "set", tmp_path / "out")
    assert list(report.findings.counts) == ["empty_image"]
    records = load_prepared(tmp_path / "out").records("train")
    assert len(records) == 4 + more
    assert len({record.file.name for record in records}) == len(records) and all(record.file.is_file() for record in records)


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


def test_the_corpus_knows_every_kind_of_finding():
    """A new kind needs a case here, or a test of its own below."""
    elsewhere = {"split_path", "unused_class", "small_split", "digest_mismatch"}  # test_formats, test_prepare
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
    assert {path.name for path in target.parent.glob("*")} <= {"prepared"}, "something was left behind"
