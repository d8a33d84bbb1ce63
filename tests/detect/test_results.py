"""One image's detections in every form."""

import copy
import json
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from engine.detect.results import Results
from engine.errors import ConfigError, DataError
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
    path = tmp_path / "shelf.png"
    cv2.imwrite(str(path), result.image)
    light = replace(result, path=path).without_pixels()
    assert light.pixels is None
    np.testing.assert_array_equal(light.image, result.image)
    assert result.without_pixels().pixels is not None, "an array cannot be read again"
    with pytest.raises(DataError, match="stream"):
        _ = replace(result, pixels=None).image


# Under the names that people know ---------------------------------------------------------------


def test_attributes_of_boxes_by_hand(result):
    boxes = result.boxes
    assert boxes.xyxy.tolist() == [[10, 20, 30, 60], [0, 0, 100, 50]]
    assert boxes.xywh.tolist() == [[20, 40, 20, 40], [50, 25, 100, 50]]
    torch.testing.assert_close(
        boxes.xyxyn, torch.tensor([[0.1, 0.25, 0.3, 0.75], [0, 0, 1, 0.625]])
    )
    torch.testing.assert_close(boxes.xywhn[0], torch.tensor([0.2, 0.5, 0.2, 0.5]))
    assert boxes.cls.tolist() == [1, 0] and boxes.conf.tolist() == pytest.approx([0.9, 0.5])
    assert boxes.id is None and not boxes.is_track and boxes.orig_shape == (80, 100)
    assert boxes.data.tolist()[1] == [0, 0, 100, 50, 0.5, 0] and len(boxes) == 2


def test_boxes_are_the_array_that_they_were(result):
    boxes = result.boxes
    assert isinstance(boxes, np.ndarray) and boxes.shape == (2, 4) and boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, result.xyxy)
    x1, y1, x2, y2 = boxes[0]
    assert (x1, y1, x2, y2) == (10, 20, 30, 60) and boxes[1][2] == boxes[1, 2] == 100
    assert boxes[:, 0].tolist() == [10, 0] and type(boxes * 2) is np.ndarray
    assert torch.from_numpy(boxes).shape == (2, 4) and boxes.tolist()[0] == [10, 20, 30, 60]
    assert (boxes[:, 2:] - boxes[:, :2]).max() == 100 and np.concatenate([boxes, boxes]).shape == (
        4,
        4,
    )


KEYS = {  # a key -> the rows that it chooses
    "number": (1, [1]),
    "from the end": (-1, [1]),
    "slice": (slice(None, None, -1), [1, 0]),
    "list": ([1, 0, 1], [1, 0, 1]),
    "array": (np.array([1]), [1]),
    "tensor": (torch.tensor([1]), [1]),
    "tensors in a list": ([torch.tensor(1)], [1]),
    "mask": (np.array([False, True]), [1]),
    "mask of a tensor": (torch.tensor([True, False]), [0]),
    "mask of nothing": (np.array([False, False]), []),
    "none of them": ([], []),
}


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("ids", [None, [7, 8]])
def test_a_part_has_the_rows_of_the_whole(result, name, ids):
    key, rows = KEYS[name]
    result = replace(result, ids=None if ids is None else np.array(ids))
    of_boxes, of_result = result.boxes[key], result[key].boxes
    whole = result.boxes.data[rows] if rows else result.boxes.data[:0]
    assert torch.equal(of_boxes.data, whole) and torch.equal(of_result.data, whole)
    assert len(result[key]) == len(rows) and len(result) == 2
    assert result[key].source == result.source and result[key].image is result.image
    if ids:
        assert of_boxes.id.tolist() == [ids[row] for row in rows]


def test_tracks_are_shown_everywhere(result):
    tracked = replace(result, ids=np.array([7, 8]))
    assert tracked.boxes.id.tolist() == [7, 8] and tracked.boxes.is_track and tracked.is_tracked
    assert tracked.boxes.data[0].tolist() == pytest.approx([10, 20, 30, 60, 7, 0.9, 1])
    assert tracked.summary()[1]["track_id"] == 8 and tracked.to_dict()["detections"][0]["id"] == 7
    assert list(tracked.to_dataframe()["id"]) == list(tracked.to_df()["track_id"]) == [7, 8]
    assert (tracked.plot() != result.plot()).any()


def test_a_loop_gives_boxes_that_are_results_too(result):
    for number, box in enumerate(result):
        assert len(box.boxes) == 1 and box.boxes.cls.item() == box.class_id
        assert box.boxes.xyxy[0].tolist() == list(box.xyxy) and box.masks is None
        assert box.names[box.class_id] == box.name == result.labels[number]


def test_arrays_instead_of_tensors_also_of_a_part(result):
    for boxes in (result.boxes.cpu().numpy(), result.numpy().boxes, result.numpy()[:1].boxes):
        assert type(boxes.xyxy) is type(boxes[0].conf) is np.ndarray
    assert result.numpy().to("cpu").boxes.conf.dtype == torch.float32
    assert result.to(torch.float64).boxes[0].xyxy.dtype == torch.float64


def test_what_is_given_is_a_copy(result):
    result.boxes.xyxy[:] = 0
    result.boxes.numpy().xyxy[:] = 0
    result.boxes.data[:] = 0
    assert result.xyxy.max() == 100


def test_boxes_travel(result):
    boxes = replace(result, ids=np.array([7, 8])).boxes
    for copied in (pickle.loads(pickle.dumps(boxes)), copy.deepcopy(boxes)):
        assert torch.equal(copied.data, boxes.data)
    assert torch.equal(pickle.loads(pickle.dumps(result)).boxes.data, result.boxes.data)


def test_numbers_made_of_boxes_say_that_they_are_none(result):
    with pytest.raises(DataError, match="computed from boxes.*result.boxes"):
        _ = result.boxes.copy().conf


def test_nothing_found_in_every_form(empty, tmp_path):
    boxes = empty.boxes
    assert len(boxes) == 0 and not boxes and boxes.data.shape == (0, 6) and boxes.conf.shape == (0,)
    assert boxes.xywhn.shape == (0, 4) and list(empty.summary()) == [] and empty.verbose() == ""
    assert list(empty.to_df().columns) == ["name", "class", "confidence", "box"]
    assert empty.save_txt(tmp_path / "a.txt").read_text() == "" and empty.save_crop(tmp_path) == []
    assert len(empty[:1]) == 0 and empty.tojson() == "[]"


def test_a_summary_is_rows_and_the_line_that_it_was(result):
    summary = result.summary()
    assert f"{summary}" == result.line == "shelf.jpg 80x100: 1 dög, 1 cat"
    box = {"x1": 10.0, "y1": 20.0, "x2": 30.0, "y2": 60.0}
    assert summary[0] == {"name": "dög", "class": 1, "confidence": 0.9, "box": box}
    assert result.summary(normalize=True, decimals=2)[0]["box"] == {
        "x1": 0.1,
        "y1": 0.25,
        "x2": 0.3,
        "y2": 0.75,
    }
    assert json.loads(json.dumps(summary)) == list(summary) == json.loads(result.tojson())
    assert pickle.loads(pickle.dumps(summary)) == summary


def test_labels_as_text_by_hand(result, tmp_path):
    path = result.save_txt(tmp_path / "labels" / "a.txt")
    assert path.read_text() == "1 0.2 0.5 0.2 0.5\n0 0.5 0.3125 1 0.625\n"
    replace(result, ids=np.array([7, 8])).save_txt(path, save_conf=True)
    assert path.read_text() == "1 0.2 0.5 0.2 0.5 0.9 7\n0 0.5 0.3125 1 0.625 0.5 8\n"


def test_crops_are_what_is_inside_the_boxes_and_stay_in_their_folder(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (80, 100, 3), np.uint8)
    corners = [[10, 20, 30, 60], [-5, -5, 4, 4], [50, 50, 50, 60], [90, 70, 200, 90]]
    found = Detections(
        np.array(corners, np.float32), np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.zeros(4, int)
    )
    result = Results(found, ("../../up",), "a.jpg", (80, 100), pixels=image)
    files = result.save_crop(tmp_path / "crops", "../name.png")
    folder = tmp_path / "crops" / "_.._up"
    assert files == [folder / "name.jpg", folder / "name2.jpg", folder / "name3.jpg"]
    shapes = [cv2.imread(str(file)).shape[:2] for file in files]
    assert shapes == [(40, 20), (4, 4), (10, 10)], "one without a pixel is left out"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "crops"]


def test_options_of_a_plot(result, empty, tmp_path):
    plain, image = result.plot(), result.image
    bare = result.plot(labels=False, conf=False)
    assert (bare != plain).any() and (bare != image).any()
    assert (result.plot(conf=False) != plain).any() and (result.plot(line_width=6) != plain).any()
    np.testing.assert_array_equal(result.plot(boxes=False), image)
    canvas = np.zeros_like(image)
    assert result.plot(img=canvas).max() > 0 and canvas.max() == 0
    np.testing.assert_array_equal(np.array(result.plot(pil=True))[..., ::-1], plain)
    same_class = Detections(result.detections.boxes, result.scores, np.zeros(2, np.int64))
    pair = replace(result, detections=same_class)
    assert (pair.plot(color_mode="instance") != pair.plot()).any()
    result.plot(save=True, filename=tmp_path / "a.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), plain)
    np.testing.assert_array_equal(result.plot(masks=True, probs=False, kpt_line=True), plain)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"line_widht": 2}, "Did you mean 'line_width'"),
        ({"font": "Arial.ttf"}, "font='Arial.ttf' is not done here"),
        ({"color_mode": "box"}, "color_mode is 'class' or 'instance'"),
    ],
)
def test_wrong_options_of_a_plot(result, options, said):
    for method in (result.plot, result.show, result.save):
        with pytest.raises(ConfigError, match=said):
            method(**options)


def test_no_screen_is_said_once_and_ends_nothing(result, monkeypatch, caplog):
    from engine.plots import screen

    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(screen.sys, "platform", "linux")
    screen._say_once.cache_clear()
    assert result.show() is None
    result.show()
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and "no screen here" in said[0] and "save=True" in said[0]


@pytest.mark.parametrize("name", ["pandas", "render", "boxs", "xyxys"])
def test_what_is_not_here_names_the_way(result, name):
    with pytest.raises(ConfigError, match=rf"Results has no '{name}'(:|\.)"):
        getattr(result, name)
    assert not hasattr(result, name)
