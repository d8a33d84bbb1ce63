"""COCO as people's tools write it: ids that are texts or floats, masks without boxes, Roboflow's root
category.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_builders import CONTENT, H, W, coco_json, image_bytes, make_coco, put
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as oracle
from reading import read, rows

from engine.config import DataConfig
from engine.datasets.convert import convert
from engine.datasets.description import load_description
from engine.datasets.findings import Findings
from engine.datasets.formats.coco_boxes import id_of
from engine.datasets.formats.masks import box_around
from engine.datasets.scan import examine
from engine.errors import DataError

FILE = "annotations.json"


def make(root, change=lambda content: None):
    """All images in one file, after `change`."""
    content = coco_json(CONTENT)
    change(content)
    for name in CONTENT:
        put(root / "images" / f"{name}.png", image_bytes(name))
    put(root / FILE, json.dumps(content))
    return root


def boxes(root, **options):
    images, findings = read(root, **options)
    return {name: rows(image) for name, image in images.items()}, findings


# Ids ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, key",
    [
        (1, 1),
        (1.0, 1),
        ("1", 1),
        (" 1 ", 1),
        ("01", "01"),
        ("1.0", "1.0"),
        ("a", "a"),
        ("²", "²"),
        (1.5, None),
        (float("nan"), None),
        (float("inf"), None),
        (True, None),
        (None, None),
        ("", None),
        ([], None),
        (1 << 63, None),
        (1e300, None),
        (-1, -1),
        ("-1", "-1"),
    ],
)
def test_what_an_id_counts_as(value, key):
    assert id_of(value) == key and type(id_of(value)) is type(key)


def other_type(section, key, kind):
    def change(content):
        for entry in content[section]:
            entry[key] = kind(entry[key])

    return change


@pytest.mark.parametrize("kind", [str, float, lambda n: f"id-{n}"], ids=["text", "float", "word"])
@pytest.mark.parametrize("which", ["images", "annotations", "categories", "all"])
def test_numbers_and_texts_are_one_id(which, kind, tmp_path):
    """A word has to be written alike on both sides; a number may be a text on one of them."""
    sides = {
        "images": [("images", "id")],
        "annotations": [("annotations", "image_id"), ("annotations", "category_id")],
        "categories": [("categories", "id")],
    }
    if kind("1") == "id-1":
        sides["images"] += sides["annotations"][:1]
        sides["categories"] += sides["annotations"][1:]
        sides["annotations"] = [("annotations", "id")]
    chosen = sides.get(which) or sorted({pair for pairs in sides.values() for pair in pairs})

    def change(content):
        for section, key in chosen:
            other_type(section, key, kind)(content)

    expected = boxes(make(tmp_path / "plain"))
    assert boxes(make(tmp_path / "other", change)) == expected and not expected[1]


def test_a_text_that_no_image_has_is_named(tmp_path):
    def change(content):
        content["annotations"][0]["image_id"] = "img_7"

    found = read(make(tmp_path, change))[1]["bad_entry"]
    assert found == [f"{FILE}, line 1: annotation 1: image_id 'img_7' is not among the images"]


def test_one_id_written_in_two_ways_is_there_twice(tmp_path):
    def change(content):
        content["images"][1]["id"] = "1"

    assert "image id 1 is there twice" in read(make(tmp_path, change))[1]["duplicate_entry"][0]


def test_ids_of_63_bits_meet_no_text(tmp_path):
    """Texts are held as numbers from 2**62 on: a file may have both."""

    def change(content):
        content["images"][0]["id"] = "a"
        content["images"][1]["id"] = 1 << 62
        for entry in content["annotations"]:
            entry["image_id"] = {1: "a", 2: 1 << 62}.get(entry["image_id"], entry["image_id"])

    assert boxes(make(tmp_path / "a", change)) == boxes(make(tmp_path / "b"))


# Masks --------------------------------------------------------------------------------------------


def with_masks(write, bbox=None):
    def change(content):
        for entry in content["annotations"]:
            x, y, w, h = entry.pop("bbox")
            entry["segmentation"] = write(x, y, w, h)
            if bbox is not None:
                entry["bbox"] = bbox

    return change


def polygon(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + 1], [x, y + h - 1, x + w, y + h, x, y + h]]


def bitmap(x, y, w, h):
    mask = np.zeros((H, W), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return mask


def compressed(x, y, w, h):
    coded = oracle.encode(bitmap(x, y, w, h))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def plain_runs(mask):
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    ends = [*changes.tolist(), flat.size]
    runs = np.diff([0, *ends]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


@pytest.mark.parametrize("bbox", [None, [], [0, 0, 0, 0]], ids=["gone", "empty", "zeros"])
@pytest.mark.parametrize(
    "write",
    [polygon, compressed, lambda *box: plain_runs(bitmap(*box))],
    ids=["polygons", "compressed", "runs"],
)
def test_a_box_that_is_missing_is_the_one_around_the_mask(write, bbox, tmp_path):
    found, findings = boxes(make(tmp_path / "masks", with_masks(write, bbox)))
    assert found == boxes(make(tmp_path / "boxes"))[0]
    assert len(findings["no_bbox"]) == sum(map(len, found.values())) and len(findings) == 1
    left, _ = boxes(tmp_path / "masks", policies={"no_bbox": "drop"})
    assert not any(left.values())


def test_a_box_that_is_there_counts_whatever_the_mask_says(tmp_path):
    def change(content):
        for entry in content["annotations"]:
            entry["segmentation"] = [[0, 0, 1, 0, 1, 1]]

    assert boxes(make(tmp_path / "a", change)) == boxes(make(tmp_path / "b"))


@given(
    st.integers(1, 9).flatmap(
        lambda h: st.integers(1, 9).flatmap(
            lambda w: st.lists(
                st.lists(st.integers(0, 1), min_size=w, max_size=w), min_size=h, max_size=h
            )
        )
    )
)
def test_the_box_around_any_mask_is_that_of_its_pixels(pixels):
    mask = np.asfortranarray(np.array(pixels, np.uint8))
    coded = oracle.encode(mask)
    text = {"size": coded["size"], "counts": coded["counts"].decode()}
    if not mask.any():
        for each in (plain_runs(mask), text):
            with pytest.raises(ValueError, match="the mask is empty"):
                box_around(each)
        return
    ys, xs = np.nonzero(mask)
    expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert box_around(plain_runs(mask)) == box_around(text) == expected


def test_long_runs_have_several_characters():
    mask = np.zeros((700, 900), np.uint8, order="F")
    mask[300:, 400:] = 1
    coded = oracle.encode(mask)
    assert box_around({"size": [700, 900], "counts": coded["counts"].decode()}) == (
        400,
        300,
        900,
        700,
    )


@given(st.text(max_size=12) | st.lists(st.integers(-3, 20) | st.floats() | st.text(max_size=2)))
def test_counts_that_are_none_are_a_value_error(counts):
    try:
        x1, y1, x2, y2 = box_around({"size": [4, 5], "counts": counts})
    except ValueError:
        return
    assert 0 <= x1 < x2 <= 5 and 0 <= y1 < y2 <= 4


@pytest.mark.parametrize(
    "segmentation, says",
    [
        (None, "no polygons and no mask"),
        ([], "no polygons and no mask"),
        ([[1, 2, 3, 4]], "is no polygon"),
        ([1, 2, 3, 4, 5, 6], "is no polygon"),
        ([[1, 2, 3, 4, 5, None]], "is no polygon"),
        ({"size": [4], "counts": []}, "is not [height, width]"),
        ({"size": [4, True], "counts": []}, "is not [height, width]"),
        ({"size": [2, 2], "counts": [1, 2]}, "runs are 3 pixels, 2 x 2 has 4"),
        ({"size": [2, 2], "counts": [4]}, "the mask is empty"),
        ({"size": [2, 2], "counts": "P"}, "within a number"),
        ({"size": [2, 2], "counts": "P" * 99}, "no compressed run lengths"),
        ({"size": [2, 2]}, "no run lengths"),
    ],
)
def test_a_segmentation_without_a_box_says_why(segmentation, says):
    with pytest.raises(ValueError) as caught:
        box_around(segmentation)
    assert says in str(caught.value)


def with_mask(root, size, runs, stated=True):
    """One image of which a mask is all there is."""

    def change(content):
        content["annotations"] = content["annotations"][:1]
        entry = content["annotations"][0]
        entry.pop("bbox")
        entry["segmentation"] = {"size": size, "counts": runs}
        for image in content["images"] if not stated else ():
            image.pop("height"), image.pop("width")

    return make(root, change)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize(
    "size, runs",
    [([W, H], [5, 50, W * H - 55]), ([10**9, 10**9], [0, 10**18]), ([8, 16], [0, 128])],
)
def test_a_mask_of_another_size_than_its_image_is_named(size, runs, stated, tmp_path):
    """Its box would be somewhere else, or the whole image."""
    root = with_mask(tmp_path, size, runs, stated)
    policies = {"missing_size": "fix", "unused_class": "warn"}
    findings = Findings.with_policies(policies)
    found = examine(load_description(root), DataConfig(source=str(root)), findings)
    (said,) = findings.examples["bad_entry"]
    assert said.file == FILE and "annotation 1: its mask is of" in str(said)
    h, w = size
    assert f"{h} x {w} (h x w), the image images/a.png of {H} x {W}; write `bbox`" in str(said)
    assert not any(len(record.boxes) for record in found.records)
    assert "other_convention" not in findings.counts
    with pytest.raises(DataError, match="its mask is of"):
        convert(root, tmp_path.parent / "yolo", "yolo", DataConfig(policies=policies))


@pytest.mark.parametrize("stated", [True, False])
def test_a_mask_of_the_size_of_its_image_is_taken(stated, tmp_path):
    root = with_mask(tmp_path, [H, W], [5, 50, W * H - 55], stated)
    findings = Findings.with_policies({"missing_size": "fix"})
    found = examine(load_description(root), DataConfig(source=str(root)), findings)
    assert sum(len(record.boxes) for record in found.records) == 1
    assert "bad_entry" not in findings.counts


# Roboflow's root category -------------------------------------------------------------------------


def rooted(*names, root="parts", used=False):
    def change(content):
        first = {"id": 0, "name": root, "supercategory": "none"}
        others = [
            {"id": item["id"], "name": name, "supercategory": root}
            for item, name in zip(content["categories"], names, strict=True)
        ]
        content["categories"] = [first, *others]
        if used:
            content["annotations"][0]["category_id"] = 0

    return change


def names_of(root, **policies):
    from engine.datasets.formats import open_reader
    from engine.datasets.formats.folder import Folder

    findings = Findings.with_policies(policies)
    reader = open_reader(Folder(root), None, findings)
    used = {row.name for image in reader for row in image.rows}
    return reader.names, used, findings.counts


def test_a_category_that_only_groups_the_others_is_no_class(tmp_path):
    root = make(tmp_path, rooted("cat", "dog"))
    assert names_of(root) == (("cat", "dog"), {"cat", "dog"}, {"root_class": 1})
    kept = names_of(root, root_class="warn")
    assert kept == (("parts", "cat", "dog"), {"cat", "dog"}, {"root_class": 1})


def test_a_group_that_is_called_like_one_of_its_classes(tmp_path):
    """Roboflow names the group as the project does; the class of that name keeps its boxes."""
    root = make(tmp_path, rooted("cat", "dog", root="cat"))
    assert names_of(root) == (("cat", "dog"), {"cat", "dog"}, {"root_class": 1})


def test_a_root_that_is_used_or_is_no_root_stays_a_class(tmp_path):
    names, used, counts = names_of(make(tmp_path / "used", rooted("cat", "dog", used=True)))
    assert names == ("parts", "cat", "dog") and "parts" in used and not counts

    def change(content):
        rooted("cat", "dog")(content)
        content["categories"][1]["supercategory"] = "animals"

    assert names_of(make(tmp_path / "other", change))[0] == ("parts", "cat", "dog")


def test_a_root_that_another_split_uses_stays_a_class(tmp_path):
    make_coco(tmp_path)
    for file in sorted((tmp_path / "annotations").iterdir()):
        content = json.loads(file.read_text())
        rooted("cat", "dog", used="val" in file.name)(content)
        put(file, json.dumps(content))
    assert names_of(tmp_path)[0] == ("parts", "cat", "dog")
