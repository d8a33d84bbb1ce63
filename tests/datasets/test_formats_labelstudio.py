"""Label Studio's JSON: percent, turned rectangles, which annotation counts, and where the image
files are.
"""

from __future__ import annotations

import json

import pytest
from dataset_builders import (
    H,
    W,
    coco_json,
    image_bytes,
    make_labelstudio,
    put,
    studio_region,
    studio_task,
)
from reading import read, rows

from engine.datasets.formats import detect_format
from engine.datasets.formats.folder import Folder
from engine.errors import DataError


def export(root, *tasks: dict) -> None:
    put(root / "export.json", json.dumps(list(tasks)))


def one_image(root, *regions: dict) -> None:
    put(root / "a.png", image_bytes("a"))
    export(root, studio_task(1, "/data/upload/1/a.png", list(regions)))


def region(kind: str, value: dict, **more) -> dict:
    return {
        "id": "r",
        "type": kind,
        "original_width": W,
        "original_height": H,
        "value": value,
        **more,
    }


# --- regions --------------------------------------------------------------------------------------


def test_a_turned_rectangle_turns_about_its_upper_left_corner_in_pixels(tmp_path):
    # From (32, 8), 16 x 4 pixels; a quarter turn clockwise lays it from x 28 to 32 and y 8 to 24.
    turned = studio_region("cat", (32, 8, 48, 12))
    turned["value"]["rotation"] = 90
    one_image(tmp_path, turned)
    images, findings = read(tmp_path)
    assert rows(images["a"]) == [("cat", (28, 8, 32, 24))] and findings == {}
    assert images["a"].size == (H, W) and not images["a"].fractions


def test_polygons_and_regions_whose_label_stands_apart(tmp_path):
    box = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0}
    one_image(
        tmp_path,
        region(
            "polygonlabels",
            {"points": [[0, 0], [50, 25], [25, 100]], "polygonlabels": ["dog"]},
            id="p",
        ),
        region("rectangle", box, id="q"),
        region("labels", {**box, "labels": ["cat"]}, id="q"),
        {"id": "c", "type": "choices", "value": {"choices": ["sharp"]}},
        {"id": "t", "type": "textarea", "value": {"text": ["seen in May"]}},
    )
    images, findings = read(tmp_path)
    assert (
        rows(images["a"]) == [("dog", (0, 0, 32, 32)), ("cat", (16, 8, 48, 24))] and findings == {}
    )


def test_without_original_size_percents_are_fractions(tmp_path):
    plain = studio_region("cat", (16, 8, 48, 24))
    del plain["original_width"], plain["original_height"]
    one_image(tmp_path, plain)
    images, findings = read(tmp_path)
    assert (
        images["a"].fractions
        and images["a"].size is None
        and rows(images["a"]) == [("cat", (0.25, 0.25, 0.75, 0.75))]
    )
    assert findings == {}


def test_other_shapes_are_a_finding_and_boxes_only_by_policy(tmp_path):
    ellipse = {
        "x": 50,
        "y": 50,
        "radiusX": 25,
        "radiusY": 12.5,
        "rotation": 0,
        "ellipselabels": ["cat"],
    }
    one_image(
        tmp_path,
        region("ellipselabels", ellipse, id="e"),
        region("brushlabels", {"format": "rle", "rle": [1, 2], "brushlabels": ["dog"]}, id="b"),
        region("keypointlabels", {"x": 1, "y": 2, "width": 1, "keypointlabels": ["dog"]}, id="k"),
    )
    images, findings = read(tmp_path)
    assert images["a"].rows == ()
    assert findings["other_shape"] == [
        "export.json, line 1: task 1, region e: ellipselabels 'cat'",
        "export.json, line 1: task 1, region b: brushlabels 'dog'",
        "export.json, line 1: task 1, region k: keypointlabels 'dog'",
    ]
    assert rows(read(tmp_path, policies={"other_shape": "fix"})[0]["a"]) == [
        ("cat", (16, 12, 48, 20))
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"x": 320, "y": 240, "width": 64, "height": 48},
            "[320, 240, 384, 288] is not in percent of the image; are these pixels?",
        ),
        (
            {"x": 30, "y": 20, "width": 190, "height": 5},
            "[30, 20, 220, 25] is not in percent of the image; are these pixels?",
        ),
        ({"x": float("nan"), "y": 1, "width": 1, "height": 1}, "x is 'nan', not a number"),
        ({"x": 1, "y": "2", "width": 1, "height": 1}, "y is '2', not a number"),
        ({"x": 1, "y": 2, "width": 1}, "height is 'None', not a number"),
        (
            {"x": 1, "y": 2, "width": 1, "height": 1, "rotation": "up"},
            "rotation 'up' is not a number",
        ),
        ({"x": 1, "y": 2, "width": 1, "height": 1, "rectanglelabels": []}, "0 labels, expected 1"),
        (
            {"x": 1, "y": 2, "width": 1, "height": 1, "rectanglelabels": ["cat", "dog"]},
            "2 labels, expected 1",
        ),
    ],
)
def test_regions_that_make_no_sense_are_named(value, message, tmp_path):
    one_image(tmp_path, region("rectanglelabels", {"rectanglelabels": ["cat"], **value}))
    images, findings = read(tmp_path)
    assert (
        findings == {"bad_entry": [f"export.json, line 1: task 1, region r: {message}"]}
        and images["a"].rows == ()
    )


def test_polygons_that_make_no_sense_and_turned_boxes_without_size(tmp_path):
    turned = studio_region("cat", (8, 8, 16, 16), original_width=None)
    turned["value"]["rotation"] = 30
    one_image(
        tmp_path,
        region(
            "polygonlabels",
            {"points": [[0, 0], [50, 25]], "polygonlabels": ["dog"]},
            original_width=None,
        ),
        region(
            "polygonlabels",
            {"points": [[0, 0], [500, 25], [9, 9]], "polygonlabels": ["dog"]},
            original_width=None,
        ),
        turned,
    )
    found = "\n".join(read(tmp_path)[1]["bad_entry"])
    assert "points '[[0, 0], [50, 25]]' is no list of at least three [x, y]" in found
    assert (
        "[0, 0, 500, 25] is not in percent" in found
        and "original_width and original_height, which that needs" in found
    )


def test_regions_that_disagree_about_the_size(tmp_path):
    one_image(
        tmp_path,
        studio_region("cat", (1, 1, 9, 9)),
        studio_region("dog", (2, 1, 9, 9), original_width=640),
    )
    assert "differ from those of other regions" in read(tmp_path)[1]["bad_entry"][0]


def test_two_labels_of_one_region_from_two_controls_are_two_labels(tmp_path):
    box = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0}
    red, cat = (
        region("labels", {**box, "labels": ["red"]}),
        region("rectanglelabels", {**box, "rectanglelabels": ["cat"]}),
    )
    one_image(tmp_path, cat, red, studio_region("dog", (1, 1, 9, 9)))
    images, findings = read(tmp_path)
    assert [row.name for row in images["a"].rows] == ["dog"]
    reported = "export.json, line 1: task 1, region r: 2 labels ('cat, red'), expected 1"
    assert findings == {"bad_entry": [reported, reported]}
    elsewhere = {**box, "x": 30, "rectanglelabels": ["dog"]}  # of somebody who calls all regions r
    one_image(tmp_path, cat, region("rectangle", box), region("rectanglelabels", elsewhere))
    images, findings = read(tmp_path)
    assert [row.name for row in images["a"].rows] == ["cat", "dog"] and findings == {}


def two_images(root, data: dict, *controls: str | None) -> tuple:
    """Read a task with these images and a region on each of these controls: (boxes of a,
    findings).
    """
    boxes = [("cat", (4, 2, 20, 30)), ("dog", (8, 8, 16, 24))]
    regions = [
        studio_region(*box, to_name=control) for box, control in zip(boxes, controls, strict=False)
    ]
    if len(regions) > 1:
        regions[1].update(original_width=640, original_height=480)  # of its own image
    for name in "ab":
        put(root / f"{name}.png", image_bytes(name))
    export(root, {**studio_task(1, "a.png", regions), "data": data})
    images, findings = read(root, policies={"unlabelled_image": "warn"})
    findings.pop("unlabelled_image", None)
    return [row.name for row in images["a"].rows], images["a"].size, findings


def test_boxes_drawn_on_a_second_image_do_not_land_on_the_first(tmp_path):
    both = {"image": "a.png", "image2": "b.png"}
    names, size, findings = two_images(tmp_path, both, "image", "image2")
    assert (names, size) == (["cat"], (H, W)) and list(findings) == ["bad_entry"]
    detail = "is drawn on 'image2', and its task's image is 'image': export one image a task"
    assert findings["bad_entry"] == [f"export.json, line 1: task 1, region rdog8: {detail}"]
    assert two_images(tmp_path, {"b": "b.png", "image": "a.png"}, "image") == (["cat"], (H, W), {})
    assert two_images(tmp_path, {"image": "a.png", "text": "hello"}, "picture") == (
        ["cat"],
        (H, W),
        {},
    )
    assert two_images(tmp_path, {"image": "a.png"}, None) == (["cat"], (H, W), {})


@pytest.mark.parametrize(
    ("data", "controls"),
    [
        ({"image": "a.png", "image2": "b.png"}, ["left", "right"]),
        ({"image": "a.png", "image2": "b.png"}, ["picture"]),  # of which of the two?
        ({"image": "a.png", "image2": "b.png"}, ["image2"]),
        ({"image": "a.png", "pages": ["b.png"]}, ["picture", "pages"]),
        ({"image": "a.png", "other": "https://x.org/7"}, ["other"]),
    ],
)
def test_boxes_that_may_be_of_another_image_are_named(data, controls, tmp_path):
    names, _, findings = two_images(tmp_path, data, *controls)
    assert names == [] and len(findings["bad_entry"]) == len(controls)


# --- which annotation counts ----------------------------------------------------------------------


def answers(*annotations: dict, image: str = "a.png") -> dict:
    return {"id": 1, "data": {"image": image}, "annotations": list(annotations)}


def answer(label: str, updated: str, **more) -> dict:
    return {"result": [studio_region(label, (1, 1, 9, 9))], "updated_at": updated, **more}


def test_the_latest_annotation_that_was_not_cancelled_counts_and_predictions_never(tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    task = answers(
        answer("new", "2026-02-01T10:00:00.5Z"),
        answer("old", "2026-01-01T10:00:00Z"),
        answer("cancelled", "2026-03-01T10:00:00Z", was_cancelled=True),
    )
    export(tmp_path, {**task, "predictions": [answer("guess", "2026-04-01T10:00:00Z")]})
    assert [row.name for row in read(tmp_path)[0]["a"].rows] == ["new"]
    export(
        tmp_path,
        answers(
            {"result": [studio_region("first", (1, 1, 9, 9))]},
            {"result": [studio_region("last", (1, 1, 9, 9))]},
        ),
    )
    assert [row.name for row in read(tmp_path)[0]["a"].rows] == ["last"]


def test_a_task_without_a_finished_annotation_is_not_an_image_without_objects(tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    export(tmp_path, answers(answer("cat", "", was_cancelled=True)))
    images, findings = read(tmp_path)
    assert images == {} and findings == {
        "unlabelled_image": ["a.png: has no finished annotation (export.json, task 1)"]
    }
    export(tmp_path, answers({"result": []}))
    images, findings = read(tmp_path)
    assert images["a"].rows == () and findings == {}


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "file"),
    [
        ("/data/upload/3/1a2b3c4d-cell%201.png", "cell 1.png"),
        ("1a2b3c4d-cell.png", "cell.png"),
        ("/data/upload/3/1a2b3c4d-cell.png", "1a2b3c4d-cell.png"),  # downloaded under its new name
        ("deadbeef-cell.png", "images/deadbeef-cell.png"),
        ("/data/local-files/?d=all/photos/a%2Bb.png", "photos/a+b.png"),
        ("/data/local-files/?d=/mnt/photos/a.png", "photos/a.png"),
        ("http://localhost:8080/data/local-files/?d=photos/a.png", "photos/a.png"),
        ("s3://bucket/photos/a.png", "a.png"),
        ("https://example.org/x/a.png?token=1.jpg", "x/a.png"),
        ("photos/what?.png", "photos/what?.png"),
    ],
)
def test_where_the_image_is(address, file, tmp_path):
    put(tmp_path / file, image_bytes("a"))
    export(tmp_path, studio_task(1, address, [studio_region("cat", (1, 1, 9, 9))]))
    images, findings = read(tmp_path)
    assert [image.name for image in images.values()] == [file] and findings == {}


def test_the_longer_end_of_the_path_decides(tmp_path):
    for folder in ("left", "right"):
        put(tmp_path / folder / "x.png", image_bytes(folder))
    tasks = [studio_task(i, f"s3://b/{name}/x.png", []) for i, name in enumerate(("left", "right"))]
    export(tmp_path, *tasks)
    assert read(tmp_path)[1] == {}
    export(tmp_path, studio_task(1, "s3://b/middle/x.png", []))
    assert (
        "task 1: image 'x.png' fits ['left/x.png', 'right/x.png']"
        in read(tmp_path)[1]["ambiguous_image"][0]
    )


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (
            {"image": "/data/local-files/?d=../../etc/a.png"},
            "outside_folder",
            "task 1: image '../../etc/a.png' leaves",
        ),
        ({"image": "/etc/a.png"}, "outside_folder", "'/etc/a.png' leaves the dataset folder"),
        ({"image": "C:\\photos\\a.png"}, "outside_folder", "leaves the dataset folder"),
        ({"image": "1a2b3c4d-b.png"}, "missing_image", "image '1a2b3c4d-b.png' is not there"),
        ({"text": "hello"}, "bad_entry", "task 1: its data names no image file"),
        (
            {"left": "a.png", "right": "b.png"},
            "bad_entry",
            "task 1: its data names 2 images, and none as 'image'",
        ),
    ],
)
def test_images_that_are_not_found(data, kind, message, tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    export(tmp_path, {**answers({"result": []}), "data": data})
    images, findings = read(tmp_path)
    assert images == {} and message in findings[kind][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            [{"image": "a.png", "label": [{"x": 1, "original_width": 9}]}],
            "is JSON-MIN or another short form; export",
        ),
        ([{"data": {"image": "a.png"}, "completions": []}], "tasks[0] has no list 'annotations'"),
        (
            [{"data": {"image": "a.png"}, "annotations": [{"result": None}]}],
            "tasks[0] has no list 'annotations'",
        ),
        ([{"annotations": []}], "tasks[0] has no 'data'"),
        ([7, {"data": {}}], "is no list of tasks"),
    ],
)
def test_other_exports_are_refused_with_the_one_to_use(content, message, tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    put(tmp_path / "export.json", json.dumps(content))
    assert detect_format(Folder(tmp_path)) == "labelstudio"
    assert message in read(tmp_path)[1]["unreadable_annotation"][0]


def test_tasks_that_are_there_twice(tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    put(tmp_path / "b.png", image_bytes("b"))
    export(
        tmp_path,
        studio_task(1, "a.png", []),
        studio_task(1, "b.png", []),
        studio_task(2, "a.png", []),
    )
    assert read(tmp_path)[1]["duplicate_entry"] == [
        "export.json, line 1: task 1 is there twice",
        "export.json, line 1: task 2: its image is a.png, which export.json, task 1 has too",
    ]


def test_it_is_distinguished_from_coco_and_both_together_are_named(tmp_path):
    make_labelstudio(tmp_path)
    assert detect_format(Folder(tmp_path)) == "labelstudio"
    put(tmp_path / "coco.json", json.dumps(coco_json({})))
    with pytest.raises(DataError, match="coco and labelstudio; write a description"):
        detect_format(Folder(tmp_path))
