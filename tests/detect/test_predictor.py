"""Detection end to end: from any source and any weight file to boxes in the pixels of the original
image.
"""

import functools
import http.server
import json
import logging
import threading

import cv2
import numpy as np
import pytest
import torch
from detectors import NAMES
from PIL import Image

from engine.detect import DetectionPredictor
from engine.detect.runtime import Runtime
from engine.detect.sources import open_source
from engine.errors import ConfigError, DataError
from engine.export import FORMATS
from engine.export.parity_images import generated_image


@pytest.fixture(scope="module")
def weights(random_weights):
    return random_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six images of several sizes."""
    folder = tmp_path_factory.mktemp("images")
    for i, size in enumerate(((64, 64), (40, 90), (90, 40), (200, 120), (64, 64), (30, 30))):
        cv2.imwrite(str(folder / f"{i}.png"), generated_image(i, size))
    return folder


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def predictor(model, **settings):
    defaults = {"model": str(model), "device": "cpu", "save": False, "verbose": False}
    return DetectionPredictor({**defaults, **settings})


def assert_same(first, second, px=0.1, score=1e-3):
    for one, other in zip(first, second, strict=True):
        assert one.source == other.source and one.labels == other.labels
        np.testing.assert_allclose(one.boxes, other.boxes, atol=px)
        np.testing.assert_allclose(one.scores, other.scores, atol=score)


def test_results_are_in_order_within_their_images_and_best_first(weights, folder):
    results = predictor(weights)(folder)
    assert [r.source for r in results] == [str(folder / f"{i}.png") for i in range(6)]
    assert [r.size for r in results] == [
        (64, 64),
        (40, 90),
        (90, 40),
        (200, 120),
        (64, 64),
        (30, 30),
    ]
    assert sum(map(len, results)) > 20
    for result in results:
        h, w = result.size
        assert (
            result.names == NAMES
            and (result.boxes >= 0).all()
            and (result.boxes <= [w, h, w, h]).all()
        )
        assert (np.diff(result.scores) <= 0).all() and (result.scores > 0.25).all()
        assert set(result.speed_ms) == {"preprocess", "inference", "postprocess"}
        assert all(value > 0 for value in result.speed_ms.values())
        assert result.pixels is None and result.plot().shape == (
            h,
            w,
            3,
        )  # read again when it is needed


@pytest.mark.parametrize("format", FORMATS)
def test_every_model_file_gives_the_same_boxes(weights, exported, folder, format):
    assert_same(predictor(weights)(folder), predictor(exported[format].path)(folder))


def test_the_batch_size_changes_nothing(weights, folder):
    alone = predictor(weights, batch=1)(folder)
    for batch in (2, 4, 16):
        assert_same(alone, predictor(weights, batch=batch)(folder), px=0.01)
    one_by_one = [predictor(weights)(folder / f"{i}.png")[0] for i in range(6)]
    assert_same(alone, one_by_one, px=0.01)


def test_a_path_an_array_and_a_list_are_the_same_picture(weights, folder):
    task = predictor(weights)
    image = cv2.imread(str(folder / "3.png"))
    (from_path,), (from_array,) = task(folder / "3.png"), task(image)
    np.testing.assert_array_equal(from_path.boxes, from_array.boxes)
    assert [len(r) for r in task([image, folder / "3.png"])] == [len(from_path)] * 2
    np.testing.assert_array_equal(
        from_array.image, image
    )  # an array cannot be read again, so it is kept


def test_every_kind_of_source_gives_the_boxes_of_its_pictures(weights, folder):
    """File, list, directory, pattern, list file, array, batch of arrays, PIL image, address; in
    batches of several.
    """
    files = [folder / "0.png", folder / "4.png"]
    images = [cv2.imread(str(file)) for file in files]
    task = predictor(weights, batch=4)
    truth = task(images)
    (folder / "list.txt").write_text("0.png\n4.png\n")
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        addresses = [f"http://127.0.0.1:{server.server_port}/{file.name}" for file in files]
        sources = [
            files,
            [str(file) for file in files],
            str(folder / "[04].png"),
            folder / "list.txt",
            np.stack(images),
            [Image.open(file) for file in files],
            addresses,
        ]
        found = [task(source) for source in sources]
    finally:
        server.shutdown()
        server.server_close()
        (folder / "list.txt").unlink()
    assert sum(map(len, truth)) > 4
    for results in found:
        for one, other in zip(results, truth, strict=True):
            np.testing.assert_array_equal(one.boxes, other.boxes)
            np.testing.assert_array_equal(one.classes, other.classes)


def test_a_video_is_looked_at_frame_by_frame_and_its_pixels_pass_by(weights, tmp_path):
    video = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (96, 64))
    for i in range(5):
        writer.write(generated_image(i, (64, 96)))
    writer.release()
    capture = cv2.VideoCapture(str(video))
    frames = [capture.read()[1] for _ in range(5)]
    task = predictor(weights, batch=2, save=True, save_json=True, project=str(tmp_path), name="out")
    results, truth = task(video), predictor(weights)(frames)
    assert task.total is None and [r.index for r in results] == [0, 1, 2, 3, 4]
    for one, other in zip(results, truth, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=0.01)
    assert all(r.pixels is None for r in results) and all(
        r.pixels is not None for r in task(video, stream=True)
    )
    with pytest.raises(DataError, match="video.avi frame 2: .* use stream=True"):
        results[2].plot()
    names = {f"video.avi_frame_{i}.jpg" for i in range(5)}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "detections.jsonl",
        "video.mp4",
    } | names


def test_a_camera_does_not_wait_for_a_whole_batch(weights):
    camera = open_source(97)
    assert predictor(weights).batch_size(camera) == 1
    assert (
        predictor(weights, batch=4).batch_size(camera) == 4
        and predictor(weights).batch_size(open_source(np.zeros((9, 9), np.uint8))) > 1
    )


def test_only_the_wanted_classes_are_reported(weights, folder):
    everything = predictor(weights)(folder)
    assert {label for r in everything for label in r.labels} == set(NAMES)
    for wanted in (["disc"], [1], ["1"], "disc", 1):
        for whole, part in zip(everything, predictor(weights, classes=wanted)(folder), strict=True):
            np.testing.assert_array_equal(part.boxes, whole.boxes[whole.classes == 1])
    with pytest.raises(ConfigError, match="no class 'disk'. Did you mean 'disc'.*square, disc"):
        predictor(weights, classes=["disk"])(folder)


def test_confidence_and_number_are_limited(weights, folder):
    everything = predictor(weights)(folder)
    for whole, part in zip(everything, predictor(weights, conf=0.5)(folder), strict=True):
        np.testing.assert_array_equal(part.scores, whole.scores[whole.scores > 0.5])
    assert max(map(len, predictor(weights, max_det=2)(folder))) == 2
    one_class = predictor(weights, agnostic_nms=True, iou=0.3)(folder)
    assert 0 < sum(map(len, one_class)) < sum(map(len, everything))


def test_another_input_size_is_checked_and_used(weights, exported, folder):
    task = predictor(weights, imgsz=(96, 64))
    task.add_callback("on_predict_batch_end", lambda p: shapes.append(p.preprocess(p.batch).shape))
    shapes = []
    task(folder / "0.png")
    assert shapes == [(1, 3, 96, 64)]
    with pytest.raises(ConfigError, match="multiple of 32.*got 100, try 96 or 128"):
        predictor(weights, imgsz=100)(folder)
    with pytest.raises(ConfigError, match="96x96 does not fit"):
        predictor(exported["onnx"].path, imgsz=96)(folder)


def test_broken_images_are_left_out_counted_and_named(weights, folder, tmp_path, caplog):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), generated_image(i, (64, 64)))
    (tmp_path / "1.png").write_bytes(b"not a picture")
    task = predictor(weights, batch=2)
    with caplog.at_level(logging.WARNING):
        results = task(tmp_path)
    assert [r.source[-5:] for r in results] == ["0.png", "2.png"]
    assert task.seen == 2 and len(task.skipped) == 1 and task.skipped[0].name.endswith("1.png")
    assert "1.png" in caplog.text
    (tmp_path / "0.png").unlink(), (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match="No input could be read: .*1.png"):
        task(tmp_path)


def test_a_stream_works_while_it_is_read_and_ends_when_it_is_left(weights, folder):
    seen = []
    task = predictor(weights, batch=2)
    for event in (
        "on_predict_start",
        "on_predict_batch_start",
        "on_predict_batch_end",
        "on_predict_end",
    ):
        task.add_callback(
            event, lambda p, event=event: seen.append((event, len(p.batch), len(p.results)))
        )
    stream = task(folder, stream=True)
    assert seen == []
    first = next(stream)
    assert seen == [
        ("on_predict_start", 0, 0),
        ("on_predict_batch_start", 2, 0),
        ("on_predict_batch_end", 2, 2),
    ]
    assert first.pixels is not None and task.seen == 2  # the rest has not been read
    stream.close()
    assert seen[3:] == [("on_predict_end", 0, 0)]
    seen.clear()
    assert len(list(task(folder, stream=True))) == 6
    assert [event for event, *_ in seen] == [
        "on_predict_start",
        *["on_predict_batch_start", "on_predict_batch_end"] * 3,
        "on_predict_end",
    ]


def test_pictures_and_lines_are_written_where_they_belong(weights, folder, tmp_path):
    settings = {"save": True, "save_json": True, "project": str(tmp_path), "name": "out"}
    task = predictor(weights, **settings)
    results = task(
        [folder / "0.png", folder / "3.png", folder / "0.png", generated_image(9, (64, 64))]
    )
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "0-2.png",
        "0.png",
        "3.png",
        "array.jpg",
        "detections.jsonl",
    ]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / "3.png")), results[1].plot())
    lines = (tmp_path / "out" / "detections.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [result.to_dict() for result in results]
    task(folder / "0.png")
    assert (
        len((tmp_path / "out" / "detections.jsonl").read_text().splitlines()) == 1
    )  # of this run, not of the last


def test_mistakes_are_explained_before_anything_runs(weights, folder, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'conf'"):
        DetectionPredictor({"cnf": 0.3})
    with pytest.raises(ConfigError, match="no source given"):
        predictor(weights)()
    with pytest.raises(DataError, match="Source not found"):
        predictor(weights)(tmp_path / "none.jpg", stream=True)


# -- a detector whose answers are known: it finds the white blobs ----------------------------------


def find_blobs(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 3, H, W) -> boxes (B, 40, 4), scores (B, 40, 1): the bounding box of each white blob,
    score .9; the other candidates score 0.
    """
    boxes, scores = torch.zeros(len(images), 40, 4), torch.zeros(len(images), 40, 1)
    for index, image in enumerate((images[:, 1] > 0.6).numpy().astype(np.uint8)):
        _, _, stats, _ = cv2.connectedComponentsWithStats(image)
        for i, (x, y, w, h, _) in enumerate(stats[1:40]):
            boxes[index, i] = torch.tensor([x, y, x + w, y + h])
            scores[index, i] = 0.9
    return boxes, scores


class BlobFinder(DetectionPredictor):
    def get_model(self):
        return Runtime(find_blobs, ("blob",), (96, 96), torch.device("cpu"))


def blobs(size, *boxes):
    """A black image with white boxes x1, y1, x2, y2."""
    array = np.zeros((*size, 3), np.uint8)
    for x1, y1, x2, y2 in boxes:
        array[y1:y2, x1:x2] = 255
    return array


def sorted_boxes(result):
    return np.array(sorted(result.boxes.tolist())).reshape(-1, 4)


@pytest.mark.parametrize(
    "size, px", [((96, 96), 0.01), ((40, 70), 0.01), ((192, 96), 1.1), ((96, 384), 4.1)]
)
def test_boxes_are_mapped_back_to_the_pixels_of_the_original(size, px):
    """Images are never enlarged; a smaller one keeps its pixels, a larger one is exact to one pixel
    of the input.
    """
    truth = [[8, 12, 24, 32], [40, 8, 64, 36]]
    (result,) = BlobFinder({"save": False, "verbose": False})(blobs(size, *truth))
    np.testing.assert_allclose(sorted_boxes(result), truth, atol=px)


def test_tiles_find_what_is_too_small_for_the_whole_picture():
    small = [[100, 100, 104, 104], [250, 30, 254, 34], [300, 380, 303, 383]]
    array = blobs((400, 500), *small)
    settings = {"save": False, "verbose": False, "batch": 3}
    (whole,), (tiled,) = (
        BlobFinder(settings)(array),
        BlobFinder({**settings, "tile": 96})(array),
    )
    np.testing.assert_allclose(sorted_boxes(tiled), small, atol=0.01)
    assert len(whole) < 3 or np.abs(sorted_boxes(whole) - small).max() > 1


def test_an_object_on_a_seam_is_one_object():
    # Tiles of 96 with a fifth of overlap begin at 0, 75, 149, 224, .. in x: the boxes lie across
    # their borders.
    crossing = [[60, 40, 100, 60], [140, 140, 165, 180], [200, 20, 260, 44]]
    array = blobs((300, 320), *crossing)
    (result,) = BlobFinder({"save": False, "verbose": False, "tile": 96})(array)
    np.testing.assert_allclose(sorted_boxes(result), crossing, atol=2.2)


def test_a_tile_as_large_as_the_picture_is_no_tile():
    array = blobs((96, 90), [10, 10, 30, 30])
    task = BlobFinder({"save": False, "verbose": False, "tile": 96})
    views = []
    task.add_callback("on_predict_batch_start", lambda p: views.extend(p.batch))
    task(array)
    assert len(views) == 1 and not views[0].is_tile


def test_frames_and_their_tiles_stay_together_over_batches():
    arrays = [blobs((200, 200), [20 * i, 30, 20 * i + 8, 50]) for i in range(1, 6)]
    for batch in (1, 4, 64):
        results = BlobFinder({"save": False, "verbose": False, "tile": 96, "batch": batch})(arrays)
        assert [len(r) for r in results] == [1] * 5
        for i, result in enumerate(results, 1):
            np.testing.assert_allclose(
                result.boxes, [[20 * i, 30, 20 * i + 8, 50]], atol=2.1
            )  # a pixel of the input


def test_tiles_with_a_real_network_stay_inside_and_keep_the_class_filter(weights):
    (result,) = predictor(weights, tile=64, classes=["disc"], conf=0.4)(
        generated_image(3, (150, 130))
    )
    assert len(result) and set(result.labels) == {"disc"}
    assert (result.boxes >= 0).all() and (result.boxes <= [130, 150, 130, 150]).all()


def test_labels_and_crops_are_written_where_they_belong(weights, folder, tmp_path):
    (tmp_path / "b").mkdir()
    cv2.imwrite(str(tmp_path / "b" / "0.jpg"), generated_image(1, (64, 64)))
    settings = {"save_txt": True, "save_conf": True, "save_crop": True, "project": str(tmp_path)}
    seen = predictor(weights, **settings, name="out")
    one, other = seen([str(folder / "0.png"), str(tmp_path / "b" / "0.jpg")])
    out = tmp_path / "out"
    assert one.save_dir == out and sorted(p.name for p in out.iterdir()) == ["crops", "labels"]
    for result, name in ((one, "0.txt"), (other, "0-2.txt")):
        rows = np.loadtxt(out / "labels" / name, ndmin=2)
        np.testing.assert_array_equal(rows[:, 0], result.classes)
        np.testing.assert_allclose(rows[:, 1:5], result.xywhn, rtol=1e-4)
        np.testing.assert_allclose(rows[:, 5], result.scores, rtol=1e-4)
    names = [name for result in (one, other) for name in result.labels]
    for kind in NAMES:
        assert len(list((out / "crops" / kind).glob("*.jpg"))) == names.count(kind)
    assert seen(str(folder / "1.png"))[0].save_dir == out
    assert predictor(weights)(str(folder / "1.png"))[0].save_dir is None


def test_labels_of_a_second_run_replace_those_of_the_first(weights, folder, tmp_path):
    for conf in (0.25, 1.0):
        writes = predictor(weights, save_txt=True, project=str(tmp_path), name="out", conf=conf)
        (result,) = writes(str(folder / "0.png"))
        assert len((tmp_path / "out" / "labels" / "0.txt").read_text().splitlines()) == len(result)
    assert len(result) == 0


def test_three_looks_at_an_image_stay_inside_and_agree_over_formats(weights, exported, folder):
    once = predictor(weights, conf=0.4)(folder)
    thrice = predictor(weights, conf=0.4, augment=True)(folder)
    assert [r.source for r in once] == [r.source for r in thrice]
    assert any(len(a) != len(b) for a, b in zip(once, thrice))
    for result in thrice:
        h, w = result.size
        assert (result.xyxy >= 0).all() and (result.xyxy <= [w, h, w, h]).all()
    assert_same(thrice, predictor(exported["onnx"].path, conf=0.4, augment=True)(folder))


def test_half_is_said_to_be_for_gpus_and_changes_nothing_on_the_cpu(weights, folder, caplog):
    assert_same(predictor(weights)(folder), predictor(weights, half=True)(folder), px=0, score=0)
    assert [r.message for r in caplog.records] == [
        "half: float16 is for GPUs; on cpu it is computed in float32"
    ]


def test_how_boxes_are_drawn_is_a_setting(weights, folder, tmp_path):
    drawn = {}
    for name, settings in {
        "all": {},
        "bare": {"show_labels": False, "show_conf": False},
        "wide": {"line_width": 6},
        "none": {"show_boxes": False},
    }.items():
        writes = predictor(weights, project=str(tmp_path), name=name, **{"save": True, **settings})
        (result,) = writes(str(folder / "0.png"))
        drawn[name] = cv2.imread(str(tmp_path / name / "0.png"))
    np.testing.assert_array_equal(drawn["none"], result.image)
    np.testing.assert_array_equal(drawn["all"], result.plot())
    assert all((drawn["all"] != drawn[name]).any() for name in ("bare", "wide"))
