"""Readers: the same dataset in every format is the same dataset, and what each format may look like
in the wild.
"""

from __future__ import annotations

import json

import pytest
from dataset_builders import (
    CONTENT,
    MAKERS,
    NAMES,
    SPLIT_OF,
    H,
    W,
    coco_json,
    image_bytes,
    make_coco,
    make_voc,
    make_yolo,
    put,
    voc_xml,
)
from reading import read

from engine.datasets.findings import Findings
from engine.datasets.formats import detect_format, open_reader
from engine.datasets.formats.base import number, split_of_path
from engine.datasets.formats.folder import Folder, inside
from engine.datasets.formats.given_splits import GivenSplits
from engine.datasets.formats.xml_tree import parse_xml
from engine.datasets.formats.yolo_yaml import YoloSettings
from engine.errors import DataError

# --- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", MAKERS)
def test_what_was_written_is_read(format, tmp_path):
    MAKERS[format](tmp_path)
    assert detect_format(Folder(tmp_path)) == format
    images, findings = read(tmp_path)
    assert findings == {}
    assert {name: image.split for name, image in images.items()} == SPLIT_OF
    for name, boxes in CONTENT.items():
        gain = (W, H, W, H) if images[name].fractions else (1, 1, 1, 1)
        found = [
            (row.name, tuple(value * g for value, g in zip(row.box, gain)))
            for row in images[name].rows
        ]
        assert found == boxes
        assert images[name].read() == image_bytes(name)


@pytest.mark.parametrize("format", MAKERS)
def test_only_formats_that_list_classes_have_names(format, tmp_path):
    reader = open_reader(Folder(MAKERS[format](tmp_path)), None, Findings.with_policies({}))
    assert list(reader.names) == ([] if format in ("voc", "labelstudio", "labelme") else NAMES)
    assert reader.total == len(CONTENT) and reader.gives_splits


def test_images_come_in_an_order_that_is_not_the_file_systems(tmp_path):
    for name in "zyx":
        make_voc(tmp_path, {name: []}, lists=False)
    assert list(read(tmp_path)[0]) == ["x", "y", "z"]


# --- Pascal VOC -----------------------------------------------------------------------------------


def test_voc_finds_the_image_by_its_filename_then_by_its_own_name(tmp_path):
    put(tmp_path / "Annotations/one.xml", voc_xml("renamed", []))
    put(tmp_path / "JPEGImages/renamed.png", image_bytes("a"))
    put(tmp_path / "Annotations/two.xml", voc_xml("gone", []))
    put(tmp_path / "JPEGImages/two.jpeg", image_bytes("b", suffix=".jpg"))
    put(tmp_path / "Annotations/three.xml", "<annotation><filename>three</filename></annotation>")
    put(tmp_path / "JPEGImages/three.bmp", image_bytes("c", suffix=".bmp"))
    images, findings = read(tmp_path)
    assert sorted(images) == ["renamed", "three", "two"] and findings == {}


def test_voc_equal_names_in_several_folders_find_their_own_image(tmp_path):
    for place in ("left", "right"):
        put(tmp_path / f"Annotations/{place}/x.xml", voc_xml("x", [(place, (0, 0, 8, 8))]))
        put(tmp_path / f"JPEGImages/{place}/x.png", image_bytes(place))
    reader = open_reader(Folder(tmp_path), "voc", Findings.with_policies({}))
    assert {image.name: image.rows[0].name for image in reader} == {
        "JPEGImages/left/x.png": "left",
        "JPEGImages/right/x.png": "right",
    }


def test_voc_lines_are_those_of_the_file(tmp_path):
    box = "<bndbox><xmin>1</xmin></bndbox>"
    put(
        tmp_path / "a.xml",
        f"<annotation>\n<filename>a.png</filename>\n<object><name>cat</name>\n{box}</object></annotation>",
    )
    put(tmp_path / "a.png", image_bytes("a"))
    assert read(tmp_path)[1] == {"bad_entry": ["a.xml, line 4: <ymin> of 'cat' is missing"]}


def test_voc_split_lists_with_flags_spaces_and_suffixes(tmp_path):
    make_voc(tmp_path, {"plain": [], "my image 1": [], "suffix": [], "flag": []}, lists=False)
    put(tmp_path / "ImageSets/Main/train.txt", "plain\r\nmy image 1\r\n")
    put(tmp_path / "ImageSets/Main/val.txt", "\ufeffsuffix.png\n\n")
    put(tmp_path / "ImageSets/Main/test.txt", "flag  -1\n")
    images, findings = read(tmp_path)
    assert {n: i.split for n, i in images.items()} == {
        "plain": "train",
        "my image 1": "train",
        "suffix": "val",
        "flag": "test",
    }
    assert findings == {}


def test_voc_parts_of_objects_and_paths_are_not_used(tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    put(
        tmp_path / "a.xml",
        "<annotation><path>/etc/passwd</path><filename>a.png</filename><object><name>man</name>"
        "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3.5</xmax><ymax>4</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object></annotation>",
    )
    rows = read(tmp_path)[0]["a"].rows
    assert [(row.name, row.box) for row in rows] == [("man", (1, 2, 3.5, 4))]


def test_voc_names_that_a_tool_wrapped_are_one_name(tmp_path):
    make_voc(
        tmp_path,
        {
            "a": [
                ("red\n   cat", (1, 1, 9, 9)),
                ("red cat", (4, 2, 20, 30)),
                ("red  cat", (1, 2, 3, 4)),
            ]
        },
    )
    assert [row.name for row in read(tmp_path)[0]["a"].rows] == ["red cat", "red cat", "red  cat"]


def test_a_line_of_a_list_is_for_one_image(tmp_path):
    for place in ("left", "right"):
        put(tmp_path / place / "x.png", image_bytes(place))
        put(tmp_path / place / "x.xml", voc_xml("x", [(place, (0, 0, 8, 8))]))
    put(tmp_path / "train.txt", "x.png\n")

    def splits(**policies: str) -> dict[str, str]:
        findings = Findings.with_policies(policies)
        found = {
            i.name: i.split
            for i in open_reader(Folder(tmp_path), "voc", findings, splits={"train": "train.txt"})
        }
        return {**found, **findings.counts}

    assert splits() == {"left/x.png": "train", "right/x.png": "", "ambiguous_image": 1}
    assert splits(ambiguous_image="fix") == {
        "left/x.png": "train",
        "right/x.png": "train",
        "ambiguous_image": 1,
    }
    put(tmp_path / "x.png", image_bytes("x"))  # which the line names with its whole path
    given = GivenSplits(Folder(tmp_path), {"train": ["train.txt"]}, Findings.with_policies({}))
    assert [given.of(name) for name in ("left/x.png", "x.png", "right/x.png")] == ["", "train", ""]


# --- COCO -----------------------------------------------------------------------------------------


def test_coco_keeps_crowd_boxes(tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    assert [row.crowd for row in read(tmp_path)[0]["a"].rows] == [True]


def test_coco_ignores_files_for_other_tasks(tmp_path):
    make_coco(tmp_path)
    put(
        tmp_path / "annotations/captions_train2017.json",
        json.dumps({"images": [], "annotations": []}),
    )
    assert read(tmp_path)[1] == {}


def test_coco_one_file_beside_each_splits_images(tmp_path):
    """As Roboflow exports: the same file name may stand in two folders."""
    for split in ("train", "valid", "test"):
        put(tmp_path / split / "x.png", image_bytes(split))
        put(
            tmp_path / split / "_annotations.coco.json",
            json.dumps(coco_json({"x": [("cat", (0, 0, 8, 8))]})),
        )
    reader = open_reader(Folder(tmp_path), None, Findings.with_policies({}))
    assert {image.name: image.split for image in reader} == {
        "test/x.png": "test",
        "train/x.png": "train",
        "valid/x.png": "val",
    }


def test_coco_a_single_box_of_a_pixel_is_one(tmp_path):
    boxes = {"a": [("cat", (0, 0, 1, 1)), ("dog", (0, 0, 8, 8))]}
    put(tmp_path / "a.png", image_bytes("a"))
    put(tmp_path / "labels.json", json.dumps(coco_json(boxes)))
    images, findings = read(tmp_path)
    assert len(images["a"].rows) == 2 and findings == {}
    put(
        tmp_path / "labels.json", json.dumps(coco_json({"a": [("cat", (0, 0, 0, 0))]}))
    )  # no area is another finding
    assert len(read(tmp_path)[0]["a"].rows) == 1
    put(
        tmp_path / "labels.json",
        json.dumps(coco_json({"a": [("cat", (0.1, 0.1, 0.4, 0.3)), ("dog", (0.5, 0, 1, 1))]})),
    )
    images, findings = read(tmp_path)
    assert images["a"].rows == () and [text.split(":")[1] for text in findings["bad_entry"]] == [
        " annotation 1",
        " annotation 2",
    ]


def test_coco_in_one_file_has_no_splits(tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    put(tmp_path / "labels.json", json.dumps(coco_json({"a": []})))
    reader = open_reader(Folder(tmp_path), None, Findings.with_policies({}))
    assert not reader.gives_splits and [image.split for image in reader] == [""]


# --- YOLO -----------------------------------------------------------------------------------------


def test_yolo_polygons_become_boxes_and_names_may_be_numbered(tmp_path):
    put(tmp_path / "images/a.png", image_bytes("a"))
    put(tmp_path / "labels/a.txt", "1 0.25 0.5 0.75 0.25 0.5 1\r\n")
    put(tmp_path / "data.yaml", "names: {0: cat, 1: dog}\ntrain: images\n")
    images, findings = read(tmp_path)
    assert [(row.name, row.box) for row in images["a"].rows] == [
        ("dog", (0.25, 0.25, 0.75, 1))
    ] and findings == {}


def test_yolo_beside_the_images_with_classes_txt(tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    put(tmp_path / "a.txt", "0 0.5 0.5 1 1\n")
    put(tmp_path / "classes.txt", "cat\ndog\n")
    put(tmp_path / "notes.txt", "taken in May\n")
    images, findings = read(tmp_path)
    assert images["a"].rows[0].box == (0, 0, 1, 1) and findings == {}


def test_yolo_paths_that_climb_out_mean_the_folder_of_that_name(tmp_path):
    make_yolo(tmp_path)
    text = "".join(f"{split}: ../images/{split}\n" for split in ("train", "val", "test"))
    put(tmp_path / "data.yaml", f"{text}names: [cat, dog]\n")
    images, findings = read(tmp_path)
    assert {name: image.split for name, image in images.items()} == SPLIT_OF
    assert list(findings) == ["split_path"]
    assert [text.split(":")[0] for text in findings["split_path"]] == [
        f"data.yaml, line {n}" for n in (1, 2, 3)
    ]


def test_what_is_wrong_in_data_yaml_is_reported_with_its_line(tmp_path):
    make_yolo(tmp_path)
    put(
        tmp_path / "data.yaml",
        "path: .\ntrain:\n  - images/train\n  - images/nowhere\nval: images/train\nnames: [cat, "
        "dog]\n",
    )
    _, findings = read(tmp_path)
    assert findings["split_path"] == [
        "data.yaml, line 4: train: 'images/nowhere' is no folder with images in the dataset folder"
    ]
    assert findings["split_leak"] == [
        "data.yaml, line 5: val is the same folder as train: 'images/train'"
    ]
    put(tmp_path / "data.yaml", "train: images/train\n\nnc: 3\nnames: [cat, dog]\n")
    with pytest.raises(DataError, match="data.yaml, line 3 says nc: 3 and lists 2 names"):
        read(tmp_path)
    put(tmp_path / "data.yaml", "train: images/train\nnames: {1: cat}\n")
    with pytest.raises(DataError, match="`names` of data.yaml, line 2 must be numbered 0 to 0"):
        read(tmp_path)


def test_yolo_splits_as_lists_of_images(tmp_path):
    make_yolo(tmp_path)
    put(tmp_path / "train.txt", "./images/train/a.png\n./images/val/d.png\n")
    put(tmp_path / "val.txt", "images/train/b.png\n")
    put(tmp_path / "data.yaml", "train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
    images, _ = read(tmp_path)
    assert [images[name].split for name in "abd"] == ["train", "val", "train"]


def cvat_yolo(root, lists, data=None, prefix="data/"):
    """CVAT's export "YOLO 1.1": three images for train, two for valid."""
    for folder, numbers in (("obj_train_data", range(3)), ("obj_valid_data", range(5, 7))):
        for n in numbers:
            put(root / folder / f"frame_{n}.png", image_bytes("a"))
            put(root / folder / f"frame_{n}.txt", "0 0.5 0.5 0.2 0.2\n")
    put(root / "obj.names", "cat\ndog\n")
    for file, folder, numbers in (
        ("train.txt", "obj_train_data", range(3)),
        ("valid.txt", "obj_valid_data", range(5, 7)),
    ):
        if file in lists:
            names = [f"{prefix}{folder}/frame_{n}.png\n" for n in numbers]
            put(root / file, "".join(names))
    if data:
        put(root / "obj.data", data)
    return root


OBJ_DATA = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nbackup = backup/\n"


@pytest.mark.parametrize("data", [OBJ_DATA, OBJ_DATA.replace("data/", "/home/me/darknet/"), None])
@pytest.mark.parametrize("prefix", ["data/", "", "./", "C:\\work\\"])
def test_split_lists_of_cvat_and_darknet(tmp_path, data, prefix):
    images, findings = read(cvat_yolo(tmp_path, ("train.txt", "valid.txt"), data, prefix))
    assert {name: image.split for name, image in images.items()} == {
        **{f"frame_{n}": "train" for n in range(3)},
        **{f"frame_{n}": "val" for n in range(5, 7)},
    }
    assert findings == {}


def test_one_list_alone_is_no_split_and_a_data_yaml_outweighs_them(tmp_path):
    """CVAT writes train.txt for a task without subsets."""
    images, _ = read(cvat_yolo(tmp_path / "one", ("train.txt",)))
    assert len(images) == 5 and {each.split for each in images.values()} == {""}
    both = cvat_yolo(tmp_path / "both", ("train.txt", "valid.txt"), OBJ_DATA)
    put(both / "data.yaml", "train: obj_valid_data\nval: obj_train_data\nnames: [cat, dog]\n")
    images, _ = read(both)
    assert [images[f"frame_{n}"].split for n in (0, 5)] == ["val", "train"]


def test_yolo_a_split_may_be_the_whole_folder(tmp_path):
    make_yolo(tmp_path)
    for text in (".", "./", str(tmp_path)):
        put(tmp_path / "data.yaml", f"train: {text}\nval: images/val\nnames: [cat, dog]\n")
        images, findings = read(tmp_path)
        assert {name: image.split for name, image in images.items()} == {
            n: "val" if n == "d" else "train" for n in CONTENT
        }
        assert findings == {}


def test_yolo_a_data_yaml_deeper_in_the_folder_is_named(tmp_path):
    make_yolo(tmp_path / "export")
    with pytest.raises(
        DataError,
        match="no names were found. There is export/data.yaml: give that, "
        "data=.*export/data.yaml, or",
    ):
        read(tmp_path)


def test_yolo_names_of_the_description_serve_where_the_folder_has_none(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match="no names were found.*classes.txt"):
        read(tmp_path)
    images, _ = read(tmp_path, names=("one", "two"))
    assert images["c"].rows[0].name == "two" and images["d"].split == "val"


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: [cat, dog]\nnc: 3\n", "nc: 3 and lists 2"),
        ("names: [cat, dog]\nnc: '3'\n", "nc: '3' and lists 2"),
        ("names: [cat, dog]\nnc: two\n", "nc: 'two' and lists 2"),
        (
            "names: [cat, dog]\nnames: [dog, cat]\n",
            "line 2: key 'names' is there twice, first in line 1",
        ),
        ("names:\n  0: cat\n  0: dog\n", "line 3: key '0' is there twice, first in line 2"),
        (
            "names: [cat, dog]\npath: [x]\n",
            "data.yaml, line 2: `path` is a list, expected the folder",
        ),
        (
            "a0: &a0 [x]\n"
            + "".join(f"a{n + 1}: &a{n + 1} [{f'*a{n}, ' * 4}]\n" for n in range(9))
            + "names: *a9\n",
            "aliases",
        ),
        ("names: [cat, cat]\n", "once: cat"),
        ("names: [yes, no]\n", "in quotes"),
        ("names: {0: cat, 2: dog}\n", "numbered 0 to 1"),
        ("names: [cat\n", "not valid YAML"),
        ("names: 7\n", "no list of names"),
        ('names: [cat, "\\ud83d"]\n', "half of a surrogate pair"),
    ],
)
def test_yolo_wrong_names_are_explained(text, message, tmp_path):
    make_yolo(tmp_path)
    put(tmp_path / "data.yaml", text)
    with pytest.raises(DataError, match=message):
        read(tmp_path, "yolo")


def test_yolo_names_that_look_like_numbers_are_kept_as_written(tmp_path):
    make_yolo(tmp_path)
    put(tmp_path / "data.yaml", "names: [0123, 12:30]\nnc: '2'\n")
    reader = open_reader(Folder(tmp_path), "yolo", Findings.with_policies({}))
    assert reader.names == ("0123", "12:30")


def without_data_yaml(root, **files: str) -> tuple[str, ...]:
    """The names of a YOLO folder with these files: a__classes is a/classes.txt."""
    make_yolo(root)
    (root / "data.yaml").unlink()
    for name, content in files.items():
        put(root / f"{name.replace('__', '/')}.txt", content)
    return open_reader(Folder(root), "yolo", Findings.with_policies({})).names


def test_files_of_names_in_several_folders_must_agree(tmp_path):
    assert without_data_yaml(
        tmp_path / "1", a__classes="cat\ndog\n", b__classes="\ufeffcat\r\ndog\r\n\r\n"
    ) == ("cat", "dog")
    assert without_data_yaml(tmp_path / "2", a__classes="cat\n", b__classes="cat\ndog\n") == (
        "cat",
        "dog",
    )
    assert without_data_yaml(
        tmp_path / "3", a__predefined_classes="dog\nman\n", b__classes="cat\ndog\n"
    ) == ("cat", "dog")
    assert without_data_yaml(tmp_path / "4", a__predefined_classes="dog\nman\n") == ("dog", "man")
    with pytest.raises(
        DataError,
        match="class 0 is 'cat' in a/classes.txt and 'dog' in b/classes.txt; correct one of them",
    ):
        without_data_yaml(tmp_path / "5", a__classes="cat\ndog\n", b__classes="dog\ncat\n")


def test_a_blank_line_among_the_names_is_not_skipped(tmp_path):
    with pytest.raises(
        DataError, match=r"classes.txt: class names must be there once: one is empty \(number 1\)"
    ):
        without_data_yaml(tmp_path, classes="cat\n\ndog\n\n")


def test_names_of_data_yaml_and_of_a_file_beside_it_must_agree(tmp_path):
    make_yolo(tmp_path)
    put(tmp_path / "labels/train/classes.txt", "cat\ndog\n")
    assert read(tmp_path)[0]["a"].rows[0].name == "cat"
    put(tmp_path / "labels/train/classes.txt", "dog\ncat\n")
    with pytest.raises(
        DataError,
        match="class 0 is 'cat' in data.yaml and 'dog' in "
        "labels/train/classes.txt;.*data=.*data.yaml",
    ):
        read(tmp_path)
    chosen = YoloSettings({"names": ["cat", "dog"]})
    assert read(tmp_path, "yolo", yolo=chosen)[0]["a"].rows[0].name == "cat", (
        "which one counts was said"
    )


def test_a_yaml_with_names_that_cannot_be_read_is_not_passed_over(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "data.yaml").rename(tmp_path / "mine.yaml")
    put(tmp_path / "other.yaml", "a: 1\na: 2\n")
    assert read(tmp_path)[0]["a"].rows[0].name == "cat"
    put(tmp_path / "mine.yaml", "names: [cat, dog]\nnames: [dog, cat]\n")
    put(tmp_path / "classes.txt", "cat\ndog\n")
    with pytest.raises(
        DataError, match="mine.yaml: not valid YAML: line 2: key 'names' is there twice"
    ):
        read(tmp_path)


# --- choosing -------------------------------------------------------------------------------------


def test_no_or_two_formats_are_errors_that_say_what_was_looked_for(tmp_path):
    put(tmp_path / "one/a.png", image_bytes("a"))
    with pytest.raises(DataError, match=r"1 images, and no annotations found. Draw .*\*\.xml"):
        detect_format(Folder(tmp_path / "one"))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"no annotations found. Looked for .*there are no images"):
        detect_format(Folder(tmp_path / "none"))
    make_voc(tmp_path / "two")
    make_yolo(tmp_path / "two")
    with pytest.raises(DataError, match="voc and yolo; write a description"):
        detect_format(Folder(tmp_path / "two"))
    assert read(tmp_path / "two", "voc")[0].keys() == CONTENT.keys()


def test_splits_of_the_description_replace_the_datasets_own(tmp_path):
    make_voc(tmp_path)
    put(tmp_path / "mine.txt", "d\n")
    images, _ = read(tmp_path, splits={"train": "mine.txt"})
    assert {name: image.split for name, image in images.items() if image.split} == {"d": "train"}
    assert not any(image.split for image in read(tmp_path, splits="none")[0].values())
    with pytest.raises(DataError, match="'theirs.txt' is not there"):
        read(tmp_path, splits={"train": "theirs.txt"})


# --- small things ---------------------------------------------------------------------------------


def test_numbers():
    assert number("1.5") == 1.5 and number(3) == 3.0 and number(" 7 ") == 7.0
    assert all(
        number(bad) is None
        for bad in ("nan", "inf", "1_0", "", "x", None, True, [1], 10**400, "1e999")
    )


def test_paths_from_annotations():
    assert inside("./a//b.png") == "a/b.png" and inside("a\\b.png") == "a/b.png"
    assert all(
        inside(bad) is None for bad in ("/etc/passwd", "../x", "a/../../x", "C:\\x\\y.jpg", "", ".")
    )


def test_folders_that_name_a_split():
    assert (
        split_of_path("valid/images/a.jpg") == "val"
        and split_of_path("x/train2017/a.jpg") == "train"
    )
    assert split_of_path("trains/a.jpg") == "" and split_of_path("test.jpg") == ""


def test_xml_is_read_with_line_numbers_and_in_any_encoding():
    root = parse_xml("<a>\n<b>ü</b>\n</a>".encode("utf-16"))
    assert (root.text("b"), root.child("b").line) == ("ü", 2)
    assert parse_xml(b"\xef\xbb\xbf<a>\r\n<b/></a>").child("b").line == 2


@pytest.mark.timeout(30)  # the square of their number would be minutes
def test_a_text_of_a_million_lines_takes_a_million_steps():
    root = parse_xml(b"<a><b>" + b"\n" * 3_000_000 + b"x\ny</b><c/></a>")
    assert root.text("b") == "x y" and root.child("c").line == 3_000_002


def test_links_are_followed_but_not_in_circles(tmp_path):
    make_voc(tmp_path / "real")
    put(tmp_path / "set" / "note", "")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "round").symlink_to(tmp_path / "set")
    folder = Folder(tmp_path / "set")
    assert len(folder.images) == len(CONTENT) and folder.loops == ["linked/round"]


KITTI = "Car 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59\n"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "annotations/default.json",
            '{"info": {}, "categories": {"label": {"labels": []}}, "items": []}',
            "looks like Datumaro's JSON: `datum convert -if datumaro -i FOLDER",
        ),
        (
            "_annotations.createml.json",
            '[{"image": "a.png", "annotations": [{"label": "cat", "coordinates": {"x": 3}}]}]',
            "looks like CreateML's JSON: export it once more",
        ),
        (
            "_annotations.csv",
            "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,64,48,cat,1,2,3,4\n",
            "looks like the CSV of TensorFlow's tools",
        ),
        (
            "train-annotations-bbox.csv",
            "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\n",
            "looks like Open Images' CSV: `datum convert -if open_images",
        ),
        (
            "label_2/a.txt",
            KITTI,
            "looks like KITTI's labels: `datum convert -if kitti",
        ),
        ("train.tfrecord", "x", "There are .tfrecord files"),
        (
            "createml.json",
            json.dumps([{"image": f"{n}.png", "annotations": []} for n in range(900)]),
            "looks like CreateML's JSON: export it once more",
        ),
        (
            "via.json",
            '{"a.png9": {"filename": "a.png", "size": 9, "regions": [{"shape_attributes": {}}]}}',
            "looks like VIA's (VGG Image Annotator): open it there",
        ),
        (
            "via_project.json",
            '{"_via_settings": {}, "_via_img_metadata": {}}',
            "looks like VIA's (VGG Image Annotator): open it there",
        ),
        (
            "via.csv",
            "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes\n",
            "looks like VIA's CSV",
        ),
        (
            "ann/a.png.json",
            '{"tags": [], "size": {"height": 32}, "objects": [{"classTitle": "cat"}]}',
            "looks like Supervisely's JSON: export it once more",
        ),
        ("ann/a.png.json", '{"size": {}, "tags": [], "objects": []}', "looks like Supervisely's"),
        (
            "bdd.json",
            '[{"name": "a.png", "labels": [{"category": "car", "box2d": {"x1": 1}}]}]',
            "looks like the JSON of BDD100K or Scalabel",
        ),
        (
            "results.json",
            '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]',
            "looks like COCO's results, what a model found",
        ),
        ("boxes.csv", "image_id,width,height,bbox,source\n", "a table of boxes, as Kaggle has"),
        ("boxes.csv", "image;x1;y1;x2;y2\n", "a table of boxes, as Kaggle has them: write a text"),
        ("boxes.csv", "images/a.png,1,2,30,40,cat\n", "a table of boxes without names of columns"),
        ("ls.csv", "annotation_id,annotator,id,image\n", "Label Studio's CSV: export from Label"),
        (
            "labelTxt/a.txt",
            "imagesource:GoogleEarth\ngsd:0.1\n1 1 5 1 5 5 1 5 plane 0\n",
            "looks like DOTA's labels (turned boxes): write each row as",
        ),
        ("labels/a.txt", "1 1 5 1 5 5 1 5 plane 0\n", "looks like DOTA's labels"),
        ("a.txt", "1 1 5 1 5 5 1 5 plane\n", "looks like DOTA's labels"),
        ("gt/gt.txt", "1,1,10,10,30,30,1,1,1\n", "looks like the tracks of MOT Challenge: `datum"),
        ("wider.txt", "a/a.jpg\n1\n10 10 20 20 0 0 0 0 0 0\n", "looks like WIDER Face's labels"),
        ("labels/a.txt", KITTI, "labels/a.txt looks like KITTI's labels: `datum convert -if"),
        ("a.txt", KITTI, "a.txt looks like KITTI's labels: `datum convert -if kitti"),
    ],
)
def test_formats_that_are_not_read_are_named_with_the_way_on(tmp_path, file, content, said):
    put(tmp_path / "a.png", image_bytes("a"))
    put(tmp_path / file, content)
    with pytest.raises(DataError, match="in a format that is not read") as refused:
        read(tmp_path)
    assert said in str(refused.value)


def test_kittis_labels_beside_names_and_behind_empty_ones(tmp_path):
    for name in "abc":
        put(tmp_path / f"images/{name}.png", image_bytes(name))
        put(tmp_path / f"labels/{name}.txt", "" if name == "a" else KITTI)
    put(tmp_path / "data.yaml", "names: [Car]\n")
    with pytest.raises(DataError, match="labels/b.txt looks like KITTI's labels"):
        read(tmp_path)
    put(tmp_path / "labels/a.txt", "0 0.5 0.5 0.2 0.2\n")  # one wrong file is a finding
    assert len(read(tmp_path)[1]["bad_entry"]) == 2


def test_texts_of_other_kinds_are_not_taken_for_labels(tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    for place, text in enumerate(("a b c\n", "1 2 3\n", "a.png\n1\n", "1,2,3\n", "x 1 2 3\n")):
        put(tmp_path / f"notes{place}.txt", text)
    put(tmp_path / "weather.csv", "image,weather\na.png,rain\n")
    put(tmp_path / "config.json", '{"size": 3, "labels": []}')
    with pytest.raises(DataError, match="1 images, and no annotations found"):
        read(tmp_path)
