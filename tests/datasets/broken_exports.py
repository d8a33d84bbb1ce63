"""Broken exports of annotation tools: CVAT XML, Label Studio JSON, labelme JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from broken import case, edit
from dataset_builders import (
    H,
    W,
    cvat_xml,
    image_bytes,
    make_cvat,
    make_labelme,
    make_labelstudio,
    put,
    studio_task,
)

CVAT, STUDIO = "annotations.xml", "export.json"
A_BOX = 'xtl="4" ytl="2" xbr="20" ybr="30"'  # of image `a`

# --- CVAT -----------------------------------------------------------------------------------------


@case(make_cvat, "unreadable_annotation", CVAT, "not well-formed XML", "line 11")
def cvat_cut_off(root):
    text = (root / CVAT).read_text()
    put(root / CVAT, text[: text.index("</image>", text.index("b.png")) + 4])


@case(make_cvat, "outside_folder", CVAT, "name '/etc/a.png' leaves the dataset folder")
def cvat_absolute_name(root):
    edit(root / CVAT, "a.png", "/etc/a.png")


@case(make_cvat, "unreadable_annotation", CVAT, "refused", "EntitiesForbidden")
def cvat_entity_bomb(root):
    bomb = "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi"))
    put(
        root / CVAT,
        f'<!DOCTYPE x [<!ENTITY a "lol">{bomb}]><annotations><version>&i;</version></annotations>',
    )


@case(make_cvat, "unreadable_annotation", CVAT, "refused")
def cvat_external_entity(root):
    doctype = '<!DOCTYPE annotations [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    put(
        root / CVAT,
        f"{doctype}<annotations><version>1.1</version><image name='&a;'/></annotations>",
    )


@case(make_cvat, "unreadable_annotation", CVAT, "holds neither <image> nor <track>")
def cvat_without_images(root):
    put(root / CVAT, cvat_xml(""))


@case(make_cvat, "bad_entry", CVAT, "line 6", "<box>: xtl is 'nan', not a number")
def cvat_nan(root):
    edit(root / CVAT, 'xtl="4"', 'xtl="nan"')


@case(make_cvat, "bad_entry", CVAT, "<box>: xbr is missing")
def cvat_box_without_a_corner(root):
    edit(root / CVAT, 'xbr="20"', "")


@case(make_cvat, "bad_entry", CVAT, "a <box> without label")
def cvat_box_without_label(root):
    edit(root / CVAT, '<box label="cat"', '<box label=""')


@case(make_cvat, "bad_entry", CVAT, "2 corners, a polygon has at least 3")
def cvat_polygon_of_two_points(root):
    edit(
        root / CVAT,
        f'<box label="cat" {A_BOX} occluded="0" ></box>',
        '<polygon label="cat" points="1,1;9,9"/>',
    )


@case(
    make_cvat,
    "other_shape",
    CVAT,
    "line 6",
    "<ellipse> of 'cat'",
    "other_shape=fix (the box around it is taken",
)
def cvat_ellipse(root):
    edit(
        root / CVAT,
        f'<box label="cat" {A_BOX} occluded="0" ></box>',
        '<ellipse label="cat" cx="9" cy="9" rx="4" ry="4"/>',
    )


@case(make_cvat, "other_shape", CVAT, "<mask> of 'cat'")
def cvat_mask(root):
    edit(
        root / CVAT,
        f'<box label="cat" {A_BOX} occluded="0" ></box>',
        '<mask label="cat" rle="1" left="1" top="1" width="4" height="4"/>',
    )


@case(make_cvat, "unknown_class", CVAT, "class 'cow' is not among cat, dog")
def cvat_label_that_the_task_lacks(root):
    edit(root / CVAT, '<box label="cat"', '<box label="cow"')


@case(
    make_cvat, "missing_size", CVAT, "line 5", "does not state the size of its image images/a.png"
)
def cvat_image_without_size(root):
    edit(root / CVAT, f'width="{W}" height="{H}"', "")


@case(make_cvat, "size_mismatch", CVAT, "line 5", "says 480 x 640 (h x w)")
def cvat_image_of_another_size(root):
    edit(root / CVAT, f'width="{W}" height="{H}"', 'width="640" height="480"')


@case(make_cvat, "missing_image", CVAT, "line 5", "image 'a.png' is not there")
def cvat_image_gone(root):
    (root / "images/a.png").unlink()


@case(make_cvat, "outside_folder", CVAT, "name '../../a.png' leaves the dataset folder")
def cvat_name_that_climbs_out(root):
    edit(root / CVAT, "a.png", "../../a.png")


@case(make_cvat, "duplicate_entry", CVAT, "describes images/a.png, as annotations.xml does")
def cvat_image_twice(root):
    edit(root / CVAT, "b.png", "a.png")


@case(make_cvat, "bad_entry", CVAT, "track 0 'cat' says nothing about frame 1, between 0 and 2")
def cvat_track_of_keyframes(root):
    for frame in range(3):
        put(root / f"images/frame_{frame:06d}.png", image_bytes(f"{frame}"))
    boxes = "".join(f'<box frame="{frame}" outside="0" {A_BOX}/>' for frame in (0, 2))
    edit(root / CVAT, "</annotations>", f'<track id="0" label="cat">{boxes}</track></annotations>')


@case(make_cvat, "missing_image", CVAT, "describes a video and there are no images frame_000000")
def cvat_video_without_frames(root):
    edit(
        root / CVAT,
        "</annotations>",
        f'<track id="0" label="cat"><box frame="0" {A_BOX}/></track></annotations>',
    )


# --- Label Studio ---------------------------------------------------------------------------------


def change(root: Path, what: Callable[[list], object]) -> None:
    tasks = json.loads((root / STUDIO).read_text())
    what(tasks)
    put(root / STUDIO, json.dumps(tasks))


def first_region(tasks: list) -> dict:
    return tasks[0]["annotations"][0]["result"][0]


@case(make_labelstudio, "unreadable_annotation", STUDIO, "not valid JSON", "line 1 column")
def studio_cut_off(root):
    put(root / STUDIO, (root / STUDIO).read_bytes()[:900])


@case(
    make_labelstudio,
    "unreadable_annotation",
    STUDIO,
    "key 'data' is there twice in one object",
    "begins in line 1",
)
def studio_key_twice(root):
    edit(root / STUDIO, '"data": ', '"data": {}, "data": ')


@case(
    make_labelstudio,
    "unreadable_annotation",
    STUDIO,
    "is JSON-MIN or another short form; export from Label Studio as JSON",
)
def studio_short_form(root):
    put(
        root / STUDIO,
        json.dumps([{"image": "a.png", "id": 1, "label": [{"original_width": 64, "x": 1}]}]),
    )


@case(
    make_labelstudio,
    "unreadable_annotation",
    STUDIO,
    "no list 'annotations' of objects with 'result'",
)
def studio_of_an_old_version(root):
    change(root, lambda tasks: tasks[0].update(completions=tasks[0].pop("annotations")))


@case(
    make_labelstudio,
    "bad_entry",
    STUDIO,
    "task 1, region rcat4",
    "is not in percent of the image; are these pixels?",
)
def studio_in_pixels(root):
    change(
        root, lambda tasks: first_region(tasks)["value"].update(x=320, y=240, width=64, height=48)
    )


@case(make_labelstudio, "bad_entry", STUDIO, "x is 'nan', not a number")
def studio_nan(root):
    change(root, lambda tasks: first_region(tasks)["value"].update(x=float("nan")))


@case(make_labelstudio, "bad_entry", STUDIO, "2 labels, expected 1")
def studio_region_of_two_classes(root):
    change(root, lambda tasks: first_region(tasks)["value"].update(rectanglelabels=["cat", "dog"]))


@case(
    make_labelstudio, "bad_entry", STUDIO, "task 1, region rcat4: 2 labels ('cat, red'), expected 1"
)
def studio_region_with_labels_of_two_controls(root):
    def twice(tasks: list) -> None:
        region = first_region(tasks)
        shape = {key: value for key, value in region["value"].items() if key != "rectanglelabels"}
        tasks[0]["annotations"][0]["result"].append(
            {**region, "type": "labels", "value": {**shape, "labels": ["red"]}}
        )

    change(root, twice)


@case(
    make_labelstudio,
    "bad_entry",
    STUDIO,
    "task 1, region rcat4: is drawn on 'image2', and its task's image is 'image'",
)
def studio_box_on_a_second_image(root):
    def second(tasks: list) -> None:
        tasks[0]["data"]["image2"] = "b.png"
        first_region(tasks)["to_name"] = "image2"

    change(root, second)


@case(make_labelstudio, "bad_entry", STUDIO, "0 labels, expected 1")
def studio_region_without_class(root):
    change(root, lambda tasks: first_region(tasks)["value"].update(rectanglelabels=[]))


@case(make_labelstudio, "bad_entry", STUDIO, "task 1: its data names no image file")
def studio_task_about_a_text(root):
    change(root, lambda tasks: tasks[0].update(data={"text": "hello"}))


@case(make_labelstudio, "other_shape", STUDIO, "task 1, region rcat4: brushlabels 'cat'")
def studio_brush(root):
    change(
        root,
        lambda tasks: first_region(tasks).update(
            type="brushlabels", value={"rle": [1], "brushlabels": ["cat"]}
        ),
    )


@case(
    make_labelstudio,
    "outside_folder",
    STUDIO,
    "task 1: image '../../../etc/a.png' leaves the dataset folder",
)
def studio_path_that_climbs_out(root):
    change(
        root, lambda tasks: tasks[0]["data"].update(image="/data/local-files/?d=../../../etc/a.png")
    )


@case(make_labelstudio, "missing_image", STUDIO, "image 'gone.png' is not there")
def studio_image_gone(root):
    change(
        root, lambda tasks: tasks[0]["data"].update(image="/data/upload/1/gone.png".split("/")[-1])
    )


@case(make_labelstudio, "duplicate_entry", STUDIO, "task 1 is there twice")
def studio_task_twice(root):
    change(root, lambda tasks: tasks[1].update(id=1))


@case(
    make_labelstudio,
    "duplicate_entry",
    STUDIO,
    "task 9: its image is images/train/a.png, which export.json, task 1 has too",
)
def studio_image_in_two_tasks(root):
    change(root, lambda tasks: tasks.append(studio_task(9, "a.png", [])))


@case(make_labelstudio, "size_mismatch", STUDIO, "line 1", "says 640 x 480 (h x w)")
def studio_region_of_another_size(root):
    change(root, lambda tasks: first_region(tasks).update(original_width=480, original_height=640))


@case(
    make_labelstudio,
    "unlabelled_image",
    "images/train/a.png",
    "has no finished annotation (export.json, task 1)",
)
def studio_only_cancelled_annotations(root):
    change(root, lambda tasks: tasks[0]["annotations"][0].update(was_cancelled=True))


@case(
    make_labelstudio, "zero_area", STUDIO, "task 1, region rcat4: 'cat' [4, 2, 4, 30] has no area"
)
def studio_region_without_width(root):
    change(root, lambda tasks: first_region(tasks)["value"].update(width=0))


# --- labelme --------------------------------------------------------------------------------------

LABELME = "images/train/a.json"


def about(root, change):
    content = json.loads((root / LABELME).read_text())
    change(content)
    put(root / LABELME, json.dumps(content))


@case(make_labelme, "unreadable_annotation", LABELME, "no file of labelme")
def labelme_cut_off(root):
    put(root / LABELME, (root / LABELME).read_bytes()[:200])


@case(make_labelme, "unreadable_annotation", LABELME, "key 'label' is there twice in one object")
def labelme_key_twice(root):
    edit(root / LABELME, '{"label"', '{"label": "x", "label"')


@case(make_labelme, "unreadable_annotation", LABELME, "shapes is no list")
def labelme_without_a_list(root):
    about(root, lambda content: content.update(shapes={"a": 1}))


@case(make_labelme, "bad_entry", LABELME, "shapes[0] has no label")
def labelme_without_label(root):
    about(root, lambda content: content["shapes"][0].update(label=" "))


@case(make_labelme, "bad_entry", LABELME, "1 points, a rectangle has at least 2")
def labelme_of_one_corner(root):
    about(root, lambda content: content["shapes"][0]["points"].pop())


@case(make_labelme, "bad_entry", LABELME, "is no point")
def labelme_nan(root):
    about(root, lambda content: content["shapes"][0].update(points=[[1, float("nan")], [2, 3]]))


@case(make_labelme, "other_shape", LABELME, "shapes[0], linestrip of")
def labelme_of_a_line(root):
    about(root, lambda content: content["shapes"][0].update(shape_type="linestrip"))


@case(make_labelme, "bad_entry", LABELME, "'heart' is no shape of labelme")
def labelme_of_an_unknown_shape(root):
    about(root, lambda content: content["shapes"][0].update(shape_type="heart"))
