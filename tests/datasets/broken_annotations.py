"""Broken annotation files: Pascal VOC, COCO, YOLO."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from broken import A_TXT, A_XML, TRAIN_JSON, case, edit
from dataset_builders import image_bytes, make_coco, make_voc, make_yolo, put, voc_xml

# --- Pascal VOC -----------------------------------------------------------------------------------


@case(make_voc, "unreadable_annotation", A_XML, "the file is empty")
def empty_xml(root):
    put(root / A_XML, b"")


@case(make_voc, "unreadable_annotation", A_XML, "no regular file but a pipe")
@case(make_yolo, "unreadable_annotation", A_TXT, "no regular file but a pipe")
@case(make_coco, "unreadable_annotation", TRAIN_JSON, "no regular file but a pipe")
def annotation_that_is_a_pipe(root):
    (file,) = (root / name for name in (A_XML, A_TXT, TRAIN_JSON) if (root / name).exists())
    file.unlink()
    os.mkfifo(file)


@case(make_voc, "unreadable_annotation", A_XML, "not well-formed XML", "line 3")
def truncated_xml(root):
    put(root / A_XML, "<annotation>\n<filename>a.png</filename>\n<object>")


@case(make_voc, "unreadable_annotation", A_XML, "<annotations>", "Pascal VOC has <annotation>")
def wrong_root_tag(root):
    put(root / A_XML, "<annotations></annotations>")


@case(make_voc, "unreadable_annotation", A_XML, "refused", "EntitiesForbidden")
def entity_bomb(root):
    bomb = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi"))
    put(
        root / A_XML,
        f'<!DOCTYPE x [<!ENTITY a "lol">{bomb}]><annotation><filename>&i;</filename></annotation>',
    )


@case(make_voc, "unreadable_annotation", A_XML, "refused")
def external_entity(root):
    put(
        root / A_XML,
        "<!DOCTYPE x [<!ENTITY a SYSTEM "
        '"file:///etc/passwd">]><annotation><filename>&a;</filename></annotation>',
    )


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
    put(
        root / A_XML,
        "<annotation><filename>a.png</filename><object><name>cat</name></object></annotation>",
    )


@case(
    make_voc,
    "missing_size",
    A_XML,
    "does not state the size of its image JPEGImages/a.png",
    "-S data.policies.missing_size=fix",
)
def xml_without_size(root):
    put(root / A_XML, voc_xml("a", [("cat", (4, 2, 20, 30))], size=None))


@case(make_voc, "missing_size", A_XML)
def xml_with_size_zero(root):
    put(root / A_XML, voc_xml("a", [("cat", (4, 2, 20, 30))], size=(0, 0)))


@case(
    make_voc, "size_mismatch", A_XML, "says 64 x 32 (h x w), the image JPEGImages/a.png is 32 x 64"
)
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


@case(
    make_voc,
    "labels_elsewhere",
    "extra: holds labels of 1 image that has no others, first extra/z.png",
    "labels are read in Annotations",
)
def annotation_beside_its_image(root):
    put(root / "extra/z.png", image_bytes("z"))
    put(root / "extra/z.xml", voc_xml("z", [("cat", (1, 1, 9, 9))]))


@case(
    make_voc,
    "ambiguous_image",
    "train.txt, line 5",
    "'x' fits JPEGImages/left/x.png and JPEGImages/right/x.png",
)
def line_of_a_list_for_two_images(root):
    for place in ("left", "right"):
        put(root / f"JPEGImages/{place}/x.png", image_bytes(place))
        put(root / f"Annotations/{place}/x.xml", voc_xml("x", [("cat", (1, 1, 9, 9))]))
    edit(root / "ImageSets/Main/train.txt", "f\n", "f\nx\n")


@case(make_voc, "duplicate_entry", "copy.xml", "as Annotations/a.xml does")
def two_annotations_for_one_image(root):
    put(root / "Annotations/copy.xml", (root / A_XML).read_bytes())


# --- COCO -----------------------------------------------------------------------------------------


@case(make_coco, "unreadable_annotation", TRAIN_JSON, "not valid JSON", "line 1 column")
def truncated_json(root):
    put(root / TRAIN_JSON, (root / TRAIN_JSON).read_bytes()[:200])


@case(make_coco, "unreadable_annotation", TRAIN_JSON, "'categories' is missing")
def json_without_categories(root):
    put(root / TRAIN_JSON, '{"images": [], "annotations": []}')


@case(make_coco, "unreadable_annotation", TRAIN_JSON, "nested too deep")
def deep_json(root):
    put(root / TRAIN_JSON, '{"images": ' + "[" * 100_000)


@case(make_coco, "unreadable_annotation", TRAIN_JSON, "Expecting value: line 1 column 1 (char 0)")
def empty_json(root):
    put(root / TRAIN_JSON, b"")


@case(make_coco, "unreadable_annotation", TRAIN_JSON, "not UTF-8 text (byte 0); save it as UTF-8")
def json_in_utf16(root):
    put(root / TRAIN_JSON, (root / TRAIN_JSON).read_text().encode("utf-16"))


@case(
    make_coco,
    "unreadable_annotation",
    TRAIN_JSON,
    "half of a surrogate pair, in the entry that begins in line 1",
)
def coco_category_that_cannot_be_written_anywhere(root):
    change_coco(root, lambda c: c["categories"].append({"id": 30, "name": "\ud83d"}))


@case(
    make_coco,
    "unreadable_annotation",
    TRAIN_JSON,
    "key 'bbox' is there twice in one object",
    "begins in line 1",
)
def json_with_a_key_twice(root):
    edit(root / TRAIN_JSON, '"bbox": ', '"bbox": [0, 0, 9, 9], "bbox": ')


@case(make_coco, "unreadable_annotation", TRAIN_JSON, "key 'images' is there twice (line 1)")
def json_with_a_section_twice(root):
    edit(root / TRAIN_JSON, '"categories": ', '"images": [], "categories": ')


def change_coco(root: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((root / TRAIN_JSON).read_text())
    change(content)
    put(root / TRAIN_JSON, json.dumps(content))


@case(make_coco, "bad_entry", "annotation 1: bbox '[4, nan, 16, 28]'")
def coco_nan(root):
    change_coco(root, lambda c: c["annotations"][0]["bbox"].__setitem__(1, float("nan")))


@case(
    make_coco,
    "bad_entry",
    TRAIN_JSON,
    "1: its bbox, like all of the file, is within 0 to 1, and",
    "are these fractions?",
)
def coco_in_shares(root):
    change_coco(
        root, lambda c: [a.update(bbox=[v / 64 for v in a["bbox"]]) for a in c["annotations"]]
    )


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


@case(
    make_coco,
    "outside_folder",
    TRAIN_JSON,
    "line 1",
    "file_name '../../../a.png' leaves the dataset folder",
)
def coco_file_name_that_climbs_out(root):
    change_coco(root, lambda c: c["images"][0].update(file_name="../../../a.png"))


@case(make_coco, "unknown_class", "annotation 1: class 'category_id -1' is not among cat, dog")
def coco_negative_category(root):
    change_coco(root, lambda c: c["annotations"][0].update(category_id=-1))


@case(make_coco, "bad_entry", "annotation 1: bbox '[inf", "is not [x, y, width, height]")
def coco_infinity(root):
    change_coco(root, lambda c: c["annotations"][0].update(bbox=[float("inf"), 1, 2, 3]))


@case(make_coco, "no_bbox", TRAIN_JSON, "annotation 1 has no bbox")
def coco_mask_alone(root):
    square = [[4, 2, 20, 2, 20, 30, 4, 30]]
    change_coco(root, lambda c: c["annotations"][0].update(bbox=[], segmentation=square))


@case(make_coco, "bad_entry", "annotation 1: bbox 'None' is not [x,", "no polygons and no mask")
def coco_neither_box_nor_mask(root):
    change_coco(root, lambda c: c["annotations"][0].pop("bbox"))


@case(make_coco, "root_class", "category 0 'pets' is the supercategory of the others")
def coco_root_of_roboflow(root):
    for file in (root / "annotations").iterdir():
        content = json.loads(file.read_text())
        for category in content["categories"]:
            category["supercategory"] = "pets"
        content["categories"].insert(0, {"id": 0, "name": "pets", "supercategory": "none"})
        put(file, json.dumps(content))


@case(make_coco, "renamed_image", "image 'shots\\\\1/a.png' is not there; images/a.png is the")
def coco_folders_of_another_machine(root):
    change_coco(root, lambda c: c["images"][0].update(file_name="shots\\1/a.png"))


@case(make_coco, "bad_entry", "images[0] has no number or text as id, or no file_name")
def coco_image_without_file_name(root):
    change_coco(root, lambda c: c["images"][0].pop("file_name"))


@case(make_coco, "ambiguous_image", "fits")
def coco_two_images_of_that_name(root):
    put(root / "more/a.png", image_bytes("other"))


@case(make_coco, "zero_area", "annotation 1: 'cat' [4, 2, 4, 30] has no area")
def coco_box_without_width(root):
    change_coco(root, lambda c: c["annotations"][0].update(bbox=[4, 2, 0, 28]))


@case(make_coco, "inverted_box", "corners swapped")
def coco_negative_width(root):
    change_coco(root, lambda c: c["annotations"][0].update(bbox=[20, 2, -16, 28]))


@case(make_coco, "bad_entry", TRAIN_JSON, "annotation 1: iscrowd '2' is neither 0 nor 1")
def coco_crowd_of_two(root):
    change_coco(root, lambda c: c["annotations"][0].update(iscrowd=2))


@case(
    make_coco,
    "size_mismatch",
    TRAIN_JSON,
    "line 1",
    "says 480 x 640 (h x w), the image images/a.png is 32 x 64",
)
def coco_image_of_another_size(root):
    change_coco(root, lambda c: c["images"][0].update(height=480, width=640))


@case(
    make_coco,
    "missing_size",
    TRAIN_JSON,
    "line 1",
    "does not state the size of its image images/a.png",
)
def coco_image_without_size(root):
    change_coco(root, lambda c: c["images"][0].pop("height"))


@case(make_coco, "bad_entry", "bbox")
def coco_numbers_as_text(root):
    change_coco(root, lambda c: c["annotations"][0].update(bbox=["4", "2", "16", "28"]))


# --- YOLO -----------------------------------------------------------------------------------------


@case(make_yolo, "bad_entry", A_TXT, "line 2", "'x' is not a number")
def yolo_word(root):
    put(root / A_TXT, "0 0.5 0.5 0.5 0.5\n0 0.5 x 0.5 0.5\n")


@case(make_yolo, "bad_entry", A_TXT, "line 1", "'nan' is not a number")
def yolo_nan(root):
    put(root / A_TXT, "0 0.5 nan 0.5 0.5\n")


@case(make_yolo, "split_leak", "data.yaml", "val is the same folder as train: 'images/train'")
def yolo_one_folder_for_two_splits(root):
    edit(root / "data.yaml", "val: images/val", "val: images/train")


@case(make_yolo, "bad_entry", A_TXT, "5 values after the class")
def yolo_with_confidence(root):
    put(root / A_TXT, "0 0.5 0.5 0.5 0.5 0.9\n")


@case(make_yolo, "bad_entry", A_TXT, "are these pixels?")
def yolo_in_pixels(root):
    put(root / A_TXT, "0 12 16 16 28\n")


@case(make_yolo, "bad_entry", A_TXT, "are these pixels?")
def yolo_polygon_in_pixels(root):
    put(root / A_TXT, "0 10 10 50 10 50 30 10 30\n")


@case(make_yolo, "bad_entry", A_TXT, "'0.5' is no class number")
def yolo_without_class(root):
    put(root / A_TXT, "0.5 0.5 0.5 0.5\n")


@case(make_yolo, "unknown_class", A_TXT, "line 1", "'class 2' is not among cat, dog")
def yolo_class_number_too_high(root):
    put(root / A_TXT, "2 0.5 0.5 0.5 0.5\n")


@case(make_yolo, "unknown_class", A_TXT, "'class -1'")
def yolo_negative_class(root):
    put(root / A_TXT, "-1 0.5 0.5 0.5 0.5\n")


@case(
    make_yolo,
    "unused_list",
    "lists/train.txt",
    "names 2 of 6 images as train, and no other split has a list",
)
def yolo_one_list(root):
    put(root / "data.yaml", "names: [cat, dog]\n")
    put(root / "lists/train.txt", "a\nimages/train/b.png\n")


@case(make_yolo, "unclear_lists", "images/train/b.png is of train here, and of val in")
def yolo_two_folds(root):
    put(root / "data.yaml", "names: [cat, dog]\n")
    for fold, train, val in (("one", "a", "b"), ("two", "b", "a")):
        put(root / f"{fold}/train.txt", f"{train}\n")
        put(root / f"{fold}/val.txt", f"{val}\n")


@case(make_yolo, "unreadable_annotation", A_TXT, "not UTF-8")
def yolo_in_utf16(root):
    put(root / A_TXT, "0 0.5 0.5 0.5 0.5\n".encode("utf-16"))


@case(make_yolo, "missing_image", "labels/train/zz.txt", "no image belongs")
def yolo_label_without_image(root):
    put(root / "labels/train/zz.txt", "0 0.5 0.5 0.5 0.5\n")


@case(
    make_yolo,
    "missing_image",
    A_TXT,
    "belongs to this label file; images/train/a.heic is there, but images are .bmp .jpeg",
)
def yolo_image_of_a_kind_that_is_not_read(root):
    (root / "images/train/a.png").rename(root / "images/train/a.heic")


@case(
    make_yolo,
    "missing_image",
    "labels/train/a.TXT",
    "no image belongs to this label file; write its suffix as .txt",
)
def yolo_label_in_capitals(root):
    (root / A_TXT).rename(root / "labels/train/a.TXT")


@case(
    make_yolo,
    "missing_image",
    A_TXT,
    "belongs to this label file; there is images/val/a.png: in another folder",
)
def yolo_image_in_another_folder(root):
    (root / "images/train/a.png").rename(root / "images/val/a.png")


@case(make_yolo, "labels_elsewhere", "labels_2: holds 1 that say otherwise", "'a.txt'")
def yolo_second_root(root):
    put(root / "labels_2/a.txt", "1 0.5 0.5 0.25 0.25\n")


@case(make_yolo, "other_convention", "labels/train: read as centre and size", "look like corners")
def yolo_corners(root):
    places = [0.05, 0.2, 0.35, 0.5, 0.65, 0.8]
    corners = [(x, y, x + 0.1, y + 0.1) for x in places for y in places]
    put(root / A_TXT, "".join(f"0 {a} {b} {c:.2f} {d:.2f}\n" for a, b, c, d in corners))


@case(make_yolo, "ambiguous_image", A_TXT)
def yolo_two_images_for_one_label(root):
    put(root / "images/train/a.jpg", image_bytes("other", suffix=".jpg"))


@case(make_yolo, "unlabelled_image", "images/train/new.png", "has no label file")
def yolo_image_without_label(root):
    put(root / "images/train/new.png", image_bytes("new"))
