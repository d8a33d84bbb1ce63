"""Predictions of other tools, in COCO's format, as one side of a comparison: whose boxes they are is
certain, or it is an error.
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tracking"))
import toys

from engine.comparison.measure import measure
from engine.comparison.models import find_model
from engine.config import ValidateConfig
from engine.data.manifest import load_prepared
from engine.errors import DataError

SETTINGS = ValidateConfig()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return load_prepared(
        toys.make_workspace(tmp_path_factory.mktemp("boxes") / "project") / "data" / "prepared"
    )


def rows(data, image=lambda number, record: record.file.name, first=0, keep=(0, 1)):
    """The truth, as a tool would write it that finds everything."""
    return [
        {
            "image_id": image(number, record),
            "category_id": int(c) + first,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": 0.9,
        }
        for number, record in enumerate(data.records("test"))
        for (x1, y1, x2, y2), c in zip(record.boxes.tolist(), record.classes)
        if c in keep
    ]


def ap(data, content, folder):
    file = folder / "boxes.json"
    file.write_text(json.dumps(content))
    return measure(find_model(str(file), folder), data, SETTINGS).table.mean_ap() or 0.0


def stem(number, record):
    return record.file.stem


def as_number(number, record):
    return int(record.file.stem)


@pytest.mark.parametrize("image", [stem, as_number, lambda n, r: r.file.name])
@pytest.mark.parametrize("first", [0, 1])
def test_images_by_name_or_number_and_classes_from_zero_or_one(data, tmp_path, image, first):
    assert ap(data, rows(data, image, first), tmp_path) == pytest.approx(1.0)


def test_a_whole_coco_file_says_what_its_numbers_mean(data, tmp_path):
    images = [
        {"id": 7 * n, "file_name": f"shop/{r.file.name}"}
        for n, r in enumerate(data.records("test"))
    ]
    categories = [
        {"id": 40, "name": "bright"},
        {"id": 30, "name": "dark"},
        {"id": 9, "name": "cat"},
    ]
    found = rows(data, lambda number, record: 7 * number)
    for row in found:
        row["category_id"] = (30, 40)[row["category_id"]]
    found.append({**found[0], "category_id": 9})
    content = {"images": images, "categories": categories, "annotations": found}
    assert ap(data, content, tmp_path) == pytest.approx(1.0)


@pytest.mark.parametrize("first", [0, 1])
def test_one_class_alone_whose_number_could_be_either_asks_for_names(data, tmp_path, first):
    lone = rows(data, first=first, keep=(1 - first,))
    assert {row["category_id"] for row in lone} == {1}
    names = [{"id": 1, "name": data.names[1 - first]}]
    # "1" of two classes: the first one counted from 1, or the second from 0
    with pytest.raises(DataError, match="whether classes count from 0 or from 1"):
        ap(data, lone, tmp_path)
    assert ap(data, {"annotations": lone, "categories": names}, tmp_path) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": [1]}, "box 0 is not complete"),
        ({"category_id": None}, "box 0 is not complete"),
        ({"bbox": [1, 2, 3]}, "no predictions in COCO's format"),
        ({"score": float("nan")}, "box 0 is not complete"),
        ({"category_id": 5}, "category_id 5 is no class of the data"),
    ],
)
def test_what_is_not_clear_is_an_error(data, tmp_path, change, said):
    found = rows(data)
    with pytest.raises(DataError, match=said):
        ap(data, [found[0] | change, *found[1:]], tmp_path)


def test_boxes_of_other_images_are_left_out_and_all_of_them_an_error(data, tmp_path, caplog):
    found = rows(data)
    assert ap(data, [*found, {**found[0], "image_id": "²"}], tmp_path) == pytest.approx(1.0)
    assert "1 of 49 boxes are of other images" in caplog.text
    with pytest.raises(DataError, match="none of its image_ids is an image"):
        ap(data, [{**row, "image_id": "elsewhere"} for row in found], tmp_path)
    assert ap(data, [], tmp_path) == 0.0
