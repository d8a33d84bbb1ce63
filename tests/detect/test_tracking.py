"""Digits that move through films of known identities keep their numbers; films are written, whole,
and read back.
"""

import csv
import dataclasses
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from moving_digits import FPS, SIZE, CardTracker, crossings, film, numbers_of, straight

from engine import YOLO
from engine.cli import main
from engine.config.goal import read_goal
from engine.detect import DetectionPredictor
from engine.detect.sources import Video, open_source
from engine.detect.tracking import INSTALL
from engine.detect.videos import VideoWriter
from engine.errors import ConfigError, WorkspaceError
from engine.metrics.operating_point import OperatingPoint
from engine.metrics.score_maps import Calibration, ScoreMap

QUIET = {"save": False, "verbose": False}
LANES = [
    straight((0, 4), (160, 4), 30),
    straight((160, 50), (0, 50), 30),
    straight((60, 100), (100, 100), 30),
    straight((10, 150), (150, 150), 30),
]


def read(path):
    """(frames, frames a second) of a film."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (got := capture.read())[0]:
        frames.append(got[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def test_each_digit_keeps_one_number_from_its_second_frame_on(tmp_path):
    truth = film(tmp_path / "lanes.avi", LANES)
    results = CardTracker(QUIET)(tmp_path / "lanes.avi")
    numbers = numbers_of(results, truth)
    assert (numbers[0] == 0).all() and (numbers[1:] == numbers[1]).all()
    assert sorted(numbers[1]) == [1, 2, 3, 4]
    for result in results[1:]:
        assert result.ids.dtype == np.int64 and len(result.ids) == len(result) == 4
        assert [box.id for box in result] == result.ids.tolist()
        assert (np.diff(result.scores) <= 0).all()


def test_digits_that_cross_keep_their_numbers(tmp_path):
    """Where the detector tells them apart: 50 of 50 in 25 films; where two that overlap are one box
    to it, 47 of 80 (docs/howto/videos.md).
    """
    kept = 0
    for number, ways in enumerate(crossings(6)):
        path = tmp_path / f"{number}.avi"
        truth = film(path, ways)
        numbers = numbers_of(CardTracker(QUIET)(path), truth)
        kept += int((numbers[5] == numbers[-1]).sum())
        assert set(numbers[5]) == {1, 2}
    assert kept == 12


@pytest.mark.parametrize("buffer_s, same", [(1.0, True), (0.2, False)])
def test_a_digit_that_was_hidden_comes_back_under_its_number(buffer_s, same, tmp_path):
    """Half a second, ten frames."""
    truth = film(tmp_path / "gap.avi", LANES, hidden={2: range(10, 20)})
    task = CardTracker({**QUIET, "track_buffer_s": buffer_s})
    numbers = numbers_of(task(tmp_path / "gap.avi"), truth)
    assert (numbers[10:20, 2] == 0).all()
    assert (numbers[25, 2] == numbers[5, 2]) == same and numbers[25, 2] > 0
    assert (numbers[25, :2] == numbers[5, :2]).all()


def test_numbers_begin_anew_in_every_video(tmp_path):
    for name, ways in (("a.avi", LANES[:2]), ("b.avi", LANES[2:])):
        film(tmp_path / name, ways)
    both = CardTracker(QUIET)(tmp_path)
    assert len(both) == 60
    for half in (both[1:30], both[31:]):
        assert all(sorted(result.ids) == [1, 2] for result in half)


def test_frames_one_by_one_are_the_same_as_the_film(tmp_path):
    film(tmp_path / "lanes.avi", LANES)
    whole = CardTracker(QUIET)(tmp_path / "lanes.avi")
    task, again = CardTracker(QUIET), CardTracker(QUIET)
    frames = [frame.image for frame in open_source(tmp_path / "lanes.avi")]
    for frame, expected in zip(frames, whole, strict=True):
        (result,) = task.track(frame, persist=True)
        np.testing.assert_array_equal(result.ids, expected.ids)
        (alone,) = again.track(frame)
        assert len(alone) == 0  # every call begins anew: nothing has been seen twice
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(frames[:5]):
        cv2.imwrite(str(folder / f"{i:03}.png"), frame)
    for result, expected in zip(CardTracker(QUIET)(folder), whole):
        np.testing.assert_array_equal(result.ids, expected.ids)


def test_a_track_begins_from_a_score_on(tmp_path):
    film(tmp_path / "lanes.avi", LANES)
    strict = CardTracker({**QUIET, "new_track_conf": 0.95})(tmp_path / "lanes.avi")
    assert not any(len(result) for result in strict)
    loose = CardTracker({**QUIET, "new_track_conf": 0.85})(tmp_path / "lanes.avi")
    assert all(len(result) == 4 for result in loose[1:])


def test_the_thresholds_of_the_model_say_what_begins_a_track(tmp_path):
    yes, plain = (True,), Calibration("none", (ScoreMap(),), (True,))

    class WithPoint(CardTracker):
        threshold = 0.95

        def get_model(self):
            point = OperatingPoint(
                read_goal("max_f1"), "val", 0.5, (self.threshold,), yes, yes, plain
            )
            return dataclasses.replace(super().get_model(), operating_point=point)

    class Lower(WithPoint):
        threshold = 0.6

    film(tmp_path / "lanes.avi", LANES)
    count = [
        len(task(tmp_path / "lanes.avi")[-1])
        for task in (WithPoint(QUIET), Lower(QUIET), WithPoint({**QUIET, "new_track_conf": 0.5}))
    ]
    assert count == [0, 4, 4]


# --- what is written ------------------------------------------------------------------------------


def test_a_film_with_numbers_and_tables_are_written(tmp_path):
    film(tmp_path / "lanes.avi", LANES)
    task = CardTracker(
        {"verbose": False, "project": str(tmp_path), "save_json": True, "save_csv": True}
    )
    results = task(tmp_path / "lanes.avi")
    out = tmp_path / "track"
    assert {p.name for p in out.iterdir()} == {"lanes.mp4", "detections.jsonl", "detections.csv"}
    assert task.written() == ["lanes.mp4", "detections.jsonl", "detections.csv"]
    frames, fps = read(out / "lanes.mp4")
    plain, _ = read(tmp_path / "lanes.avi")
    assert len(frames) == len(plain) == 30 and fps == pytest.approx(FPS)
    assert frames[0].shape == (SIZE, SIZE, 3)
    change = [np.abs(a.astype(int) - b).max(-1) > 60 for a, b in zip(frames, plain)]
    for result, changed in zip(results[1:], change[1:]):
        for box in result:  # its frame is drawn
            x1, y1, x2, y2 = (round(v) for v in box.xyxy)
            assert changed[y1 : y2 + 1, max(x1 - 2, 0) : x1 + 3].any(1).mean() > 0.5
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [[d["id"] for d in line["detections"]] for line in lines] == [
        result.ids.tolist() for result in results
    ]
    with (out / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["id"]) for row in rows] == [i for result in results for i in result.ids]
    assert {int(row["index"]) for row in rows} == set(range(1, 30))
    table = results[5].to_dataframe()
    assert table["id"].tolist() == results[5].ids.tolist()


def test_boxes_of_plain_predictions_have_no_number(tmp_path):
    class Finder(DetectionPredictor):
        get_model = CardTracker.get_model

    film(tmp_path / "lanes.avi", LANES)
    task = Finder(QUIET)
    plain = task(tmp_path / "lanes.avi")[3]
    assert plain.ids is None and all(box.id is None for box in plain)
    assert "id" not in json.loads(plain.to_json())["detections"][0]


@pytest.mark.parametrize("fps", [10.0, 23.976023976023978, 29.97002997, 25, 59.94, 1000, 7.5])
@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
def test_films_of_every_rate_and_size_are_whole(fps, size, tmp_path):
    writer = VideoWriter(lambda video: tmp_path / "film.mp4")
    video = Video("film", fps)
    for i in range(12):
        writer.add(video, i, np.full((*size, 3), 20 * i, np.uint8))
    writer.close()
    frames, rate = read(tmp_path / "film.mp4")
    assert len(frames) == 12 and rate == pytest.approx(fps, rel=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    assert abs(frames[0].shape[0] - size[0]) <= 1 and abs(frames[0].shape[1] - size[1]) <= 1


def test_a_missing_frame_is_bridged_and_a_new_size_is_another_film(tmp_path):
    names = iter(["a.mp4", "b.mp4"])
    writer = VideoWriter(lambda video: tmp_path / next(names))
    video = Video("camera", 10.0)
    for i in (0, 1, 4, 5):
        writer.add(video, i, np.full((64, 64, 3), 40 * i, np.uint8))
    writer.add(video, 6, np.zeros((32, 64, 3), np.uint8))
    writer.close()
    assert writer.written == [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    frames, _ = read(tmp_path / "a.mp4")
    assert [round(frame.mean() / 40) for frame in frames] == [0, 1, 1, 1, 4, 5]
    assert len(read(tmp_path / "b.mp4")[0]) == 1


def test_a_film_that_lacks_frames_is_no_film(tmp_path):
    writer = VideoWriter(lambda video: tmp_path / "film.mp4")
    for i in range(5):
        writer.add(
            Video("film", 10.0) if i == 0 else writer._film.video,
            i,
            np.zeros((32, 32, 3), np.uint8),
        )
    writer._film.frames += 20  # as if they had not gone through
    with pytest.raises(WorkspaceError, match="film.mp4: only 5 of 25 frames could be written"):
        writer.close()
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_left_leaves_a_film_of_what_was_seen(tmp_path):
    film(tmp_path / "lanes.avi", LANES)
    task = CardTracker({"verbose": False, "project": str(tmp_path), "batch": 2})
    results = task(tmp_path / "lanes.avi", stream=True)
    for _ in range(7):
        next(results)
    results.close()
    assert len(read(tmp_path / "track" / "lanes.mp4")[0]) == 8  # of whole batches


# --- from the command line, and without the package ----------------------------------------------


def test_track_from_the_command_line_and_from_yolo(random_weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "lanes.mp4", [way[:6] for way in LANES])
    line = f"track model={random_weights} source=lanes.mp4 device=cpu new_track_conf=0.1 save_json=true"
    assert main([*line.split(), "tracker=bytetrack.yaml"]) == 0
    said = capsys.readouterr().out
    assert "boxes in 6 images, lanes.mp4 and detections.jsonl in runs/track/" in said
    assert len(read(tmp_path / "runs/track/lanes.mp4")[0]) == 6
    model = YOLO(random_weights)
    results = model.track("lanes.mp4", new_track_conf=0.1, device="cpu")
    assert len(results) == 6 and all(result.ids is not None for result in results)
    frames = read(tmp_path / "lanes.mp4")[0]
    for frame, expected in zip(frames, results):
        (result,) = model.track(frame, persist=True, new_track_conf=0.1, device="cpu")
        np.testing.assert_array_equal(result.ids, expected.ids)
    assert len(model.track(frames[0], new_track_conf=0.1, device="cpu")[0]) == 0
    assert main(["track", "source=lanes.mp4", "tracker=botsort.yaml"]) == 2
    assert "There is none here (file of a tracker's settings)" in capsys.readouterr().err
    assert main(["track", "source=lanes.mp4", "track_buffer=60"]) == 2
    assert "Here it is called track_buffer_s" in capsys.readouterr().err


def test_without_the_package_one_sentence_says_how_it_is_installed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(ConfigError, match="track needs the package trackers") as refused:
        CardTracker(QUIET)(np.zeros((SIZE, SIZE, 3), np.uint8))
    assert INSTALL in str(refused.value) and "make install" in str(refused.value)


def test_predicting_does_not_load_the_tracker():
    code = "import sys; import engine.detect, engine.cli.modes; print([m for m in ('trackers', 'supervision') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
