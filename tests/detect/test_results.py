"""One image's detections in every form."""

import json

import cv2
import numpy as np
import pytest

from engine.detect.results import Results
from engine.errors import DataError
from engine.types import Detections


@pytest.fixture
def result():
    detections = Detections(
        np.array([[10, 20, 30, 60], [0, 0, 100, 50]], np.float32),
        np.array([0.9, 0.5], np.float32),
        np.array([1, 0]),
    )
    return Results(
        detections,
        ("cat", "dög"),
        "shelf.jpg",
        (80, 100),
        pixels=np.full((80, 100, 3), 50, np.uint8),
    )


@pytest.fixture
def empty():
    none = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    return Results(none, ("cat",), "shelf.jpg", (80, 100), pixels=np.zeros((80, 100, 3), np.uint8))


def test_boxes_in_four_forms_by_hand(result):
    np.testing.assert_allclose(result.xyxy, [[10, 20, 30, 60], [0, 0, 100, 50]])
    np.testing.assert_allclose(result.xywh, [[20, 40, 20, 40], [50, 25, 100, 50]])
    np.testing.assert_allclose(result.xyxyn, [[0.1, 0.25, 0.3, 0.75], [0, 0, 1, 0.625]])
    np.testing.assert_allclose(result.xywhn, [[0.2, 0.5, 0.2, 0.5], [0.5, 0.3125, 1, 0.625]])


def test_length_iteration_and_labels(result):
    assert len(result) == 2 and result.labels == ["dög", "cat"]
    first, _ = result
    assert first.name == "dög" and first.class_id == 1 and first.score == pytest.approx(0.9)
    assert result.summary() == "shelf.jpg 80x100: 1 dög, 1 cat"


def test_json_can_be_read_back(result):
    data = json.loads(result.to_json())
    assert (data["height"], data["width"]) == (80, 100)
    assert data["detections"][0] == {
        "class": 1,
        "name": "dög",
        "score": 0.9,
        "xyxy": [10, 20, 30, 60],
    }


def test_a_dataframe_has_a_row_per_box(result, empty):
    pytest.importorskip("pandas")
    frame = result.to_dataframe()
    assert list(frame.columns) == [
        "source",
        "index",
        "class",
        "name",
        "score",
        "x1",
        "y1",
        "x2",
        "y2",
    ]
    assert frame.loc[1, "x2"] == 100 and frame.loc[0, "name"] == "dög"
    assert (
        list(empty.to_dataframe().columns) == list(frame.columns) and len(empty.to_dataframe()) == 0
    )


def test_nothing_found_is_a_result_too(empty):
    assert len(empty) == 0 and list(empty) == [] and empty.xywhn.shape == (0, 4)
    assert "nothing found" in empty.summary() and json.loads(empty.to_json())["detections"] == []


def test_plot_draws_on_a_copy(result, empty):
    before = result.image.copy()
    drawn = result.plot()
    assert drawn.shape == before.shape and drawn.dtype == np.uint8 and (drawn != before).any()
    np.testing.assert_array_equal(result.image, before)
    np.testing.assert_array_equal(empty.plot(), empty.image)


def test_save_writes_the_plotted_picture(result, tmp_path):
    path = result.save(tmp_path / "new" / "out.png")
    np.testing.assert_array_equal(cv2.imread(str(path)), result.plot())
    assert result.save(tmp_path / "bare").suffix == ".jpg"
    with pytest.raises(DataError, match=r"\.xyz.*\.png"):
        result.save(tmp_path / "out.xyz")


def test_pixels_are_read_again_from_the_file(result, tmp_path):
    from dataclasses import replace

    path = tmp_path / "shelf.png"
    cv2.imwrite(str(path), result.image)
    light = replace(result, path=path).without_pixels()
    assert light.pixels is None
    np.testing.assert_array_equal(light.image, result.image)
    assert result.without_pixels().pixels is not None, "an array cannot be read again"
    with pytest.raises(DataError, match="stream"):
        _ = replace(result, pixels=None).image
