"""Everything that can be read as an image becomes frames; what is not there is named, what is broken
is left out.
"""

import functools
import http.server
import os
import shutil
import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.detect.sources import Frame, Skipped, open_source
from engine.errors import DataError


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, pixels):
    for name in ("b.png", "a.png", "c d ü.png"):
        Image.fromarray(pixels[..., ::-1]).save(tmp_path / name)
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def names_of(source):
    return [item.name.rsplit("/", 1)[-1] for item in open_source(source)]


def test_a_file_is_one_frame_with_its_pixels(folder, pixels):
    (frame,) = open_source(folder / "a.png")
    assert isinstance(frame, Frame) and frame.path == folder / "a.png" and frame.index == 0
    np.testing.assert_array_equal(frame.image, pixels)


def test_a_directory_gives_its_images_in_order_and_nothing_else(folder):
    assert names_of(folder) == ["a.png", "b.png", "c d ü.png"]
    assert open_source(str(folder)).len_hint == 3


def test_a_pattern_and_a_list_and_a_list_file(folder):
    assert names_of(str(folder / "[ab]*.png")) == ["a.png", "b.png"]
    assert names_of([folder / "b.png", str(folder / "a.png")]) == ["b.png", "a.png"]
    (folder / "list.txt").write_text("# mine\nb.png\n\n" + str(folder / "a.png") + "\n")
    assert names_of(folder / "list.txt") == ["b.png", "a.png"]


def test_a_recursive_pattern_reaches_subdirectories(folder):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.png").rename(folder / "deep" / "er" / "z.png")
    assert "z.png" in names_of(str(folder / "**" / "*.png"))


@pytest.mark.parametrize("name", ["pipe.png", "pipe.mp4"])
def test_a_pipe_is_left_out_and_not_waited_for(folder, name):
    os.mkfifo(folder / name)
    for source in (folder, folder / "*.*", [folder / "a.png", folder / name]):
        skipped = [str(item) for item in open_source(source) if isinstance(item, Skipped)]
        assert skipped == [f"{folder / name}: no regular file but a pipe, a socket or a device"]


def test_a_file_whose_name_looks_like_a_pattern_is_the_file(folder):
    (folder / "b.png").rename(folder / "x[1].png")
    assert names_of(folder / "x[1].png") == ["x[1].png"]


@pytest.mark.parametrize(
    "convert, equals",
    [
        (lambda p: p, lambda p: p),
        (lambda p: p[..., 0], lambda p: np.repeat(p[..., :1], 3, 2)),
        (lambda p: p[..., :1], lambda p: np.repeat(p[..., :1], 3, 2)),
        (lambda p: np.dstack((p, p[..., 0])), lambda p: p),
        (lambda p: p[::-1], lambda p: p[::-1]),
    ],
    ids=["bgr", "grey", "one channel", "alpha", "reversed view"],
)
def test_arrays_become_bgr(pixels, convert, equals):
    (frame,) = open_source(convert(pixels))
    np.testing.assert_array_equal(frame.image, equals(pixels))
    assert frame.image.flags.c_contiguous


def test_a_batch_array_is_many_frames(pixels):
    frames = list(open_source(np.stack((pixels, pixels[::-1]))))
    assert [frame.name for frame in frames] == ["array 0", "array 1"]


def test_a_pil_image_is_turned_as_its_exif_says(pixels):
    image = Image.fromarray(pixels[..., ::-1])
    (frame,) = open_source(image)
    np.testing.assert_array_equal(frame.image, pixels)
    image.getexif()[0x0112] = 6  # shown rotated by a quarter
    (turned,) = open_source(image)
    np.testing.assert_array_equal(turned.image, np.rot90(pixels, -1))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused_with_their_shape(array):
    with pytest.raises(DataError, match=r"shape \(.*uint8 BGR"):
        open_source(array)


def test_a_video_is_a_stream_of_numbered_frames(tmp_path, pixels):
    video = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    assert writer.isOpened()
    for _ in range(5):
        writer.write(pixels)
    writer.release()
    source = open_source(video)
    assert source.len_hint is None and not source.live
    frames = list(source)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert frames[3].name.endswith("video.avi frame 3") and frames[3].image.shape == (24, 32, 3)


def test_videos_are_opened_one_at_a_time_when_their_turn_comes(tmp_path, pixels):
    (tmp_path / "broken.avi").write_bytes(b"RIFFnothing")
    cv2.imwrite(str(tmp_path / "z.png"), pixels)
    first, second = open_source(tmp_path)
    assert isinstance(first, Skipped) and "video" in first.reason
    assert isinstance(second, Frame)


def test_a_camera_that_is_not_there_is_skipped_with_its_number():
    source = open_source(97)
    assert source.live
    (item,) = source
    assert isinstance(item, Skipped) and item.name == "camera 97"


def test_broken_images_are_left_out_and_say_why(folder, pixels):
    (folder / "a.png").write_bytes(b"")
    (folder / "b.png").write_bytes(b"not an image at all")
    (folder / "cut.jpg").write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes()[:-200])
    (folder / "folder.jpg").mkdir()
    items = list(open_source(folder))
    reasons = {
        item.name.rsplit("/", 1)[-1]: item.reason for item in items if isinstance(item, Skipped)
    }
    assert reasons.keys() == {"a.png", "b.png", "cut.jpg"}
    assert "empty" in reasons["a.png"] and "cut off" in reasons["cut.jpg"]
    assert len(items) == 4


@pytest.mark.parametrize("name", ["missing.jpg", "no/such/place.jpg"])
def test_a_missing_file_says_what_and_where(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}.*director"):
        open_source(tmp_path / name)


def test_an_empty_directory_says_what_it_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"No images in the directory .*\.jpg"):
        open_source(tmp_path)
    (tmp_path / "inner").mkdir()
    with pytest.raises(DataError, match=r"and its sub-folders \(1 entries"):
        open_source(tmp_path)


def test_sub_folders_are_searched_where_the_folder_has_no_images_and_named_where_it_has(
    folder, tmp_path, caplog
):
    for place in ("below/one", "below/two/three", "below/.hidden"):
        (tmp_path / place).mkdir(parents=True)
        shutil.copy(folder / "a.png", tmp_path / place / "x.png")
    with caplog.at_level("INFO"):
        found = open_source(tmp_path / "below")
        assert [frame.name[len(str(tmp_path)) + 1 :] for frame in found] == [
            "below/one/x.png",
            "below/two/three/x.png",
        ]
        assert "has no images itself: those of its sub-folders are taken (one, two/three)" in (
            caplog.text
        )
        assert names_of(folder) == ["a.png", "b.png", "c d ü.png"]
        said = (
            f"2 more in sub-folders (below/one, below/two/three) are left out; source='{folder}/**'"
        )
        assert said in caplog.text
    everything = names_of(f"{folder}/**")
    assert sorted(everything) == ["a.png", "b.png", "c d ü.png", "x.png", "x.png"]


def test_a_pattern_without_match_says_where_it_looked(tmp_path):
    with pytest.raises(DataError, match=r"matches nothing \(looked in"):
        open_source(str(tmp_path / "*.jpg"))
    (tmp_path / "a.md").write_text("")
    with pytest.raises(DataError, match=r"matches 1 files, none of them an image"):
        open_source(str(tmp_path / "*"))


@pytest.mark.parametrize("source", [[], None, 3.5, True, {"a": 1}])
def test_things_that_are_no_pictures_are_refused(source):
    with pytest.raises(DataError):
        open_source(source)


def test_a_list_file_within_a_list_file_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("list.txt\n")
    with pytest.raises(DataError, match="list.txt:1"):
        open_source(tmp_path / "list.txt")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_an_address_is_fetched_and_a_dead_one_skipped(folder, pixels):
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        good, missing, text = open_source(
            [f"{base}/a.png?size=1", f"{base}/gone.png", f"{base}/notes.md"]
        )
    finally:
        server.shutdown()
        server.server_close()
    np.testing.assert_array_equal(good.image, pixels)
    assert isinstance(missing, Skipped) and "404" in missing.reason
    assert isinstance(text, Skipped)


def test_a_tensor_is_the_image_that_it_was_made_of(pixels):
    rgb = torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)
    for tensor in (
        rgb,
        rgb[None],
        rgb / 255,
        (rgb / 255)[None].double(),
        (rgb / 255).requires_grad_(),
    ):
        (frame,) = open_source(tensor)
        np.testing.assert_array_equal(frame.image, pixels)
        assert frame.name.startswith("tensor") and frame.path is None
    assert [frame.name for frame in open_source(torch.stack([rgb, rgb]))] == [
        "tensor 0",
        "tensor 1",
    ]
    assert len(list(open_source([rgb, pixels]))) == 2


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(64, 64), r"shape \(64, 64\)"),
        (torch.zeros(64, 64, 3), r"Expected RGB, \(3, H, W\)"),
        (torch.full((3, 8, 8), 255.0), "values from 255 to 255.*divide 0..255 by 255"),
        (torch.full((3, 8, 8), float("nan")), "values from nan"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "torch.int64"),
        (torch.zeros(0, 3, 8, 8), r"\(0, 3, 8, 8\)"),
    ],
)
def test_tensors_that_are_no_images(tensor, said):
    with pytest.raises(DataError, match=said):
        open_source(tensor)


def test_every_nth_frame_of_a_video_keeps_its_number(tmp_path, pixels):
    video = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 24))
    for shade in range(7):
        writer.write(np.full((24, 32, 3), 30 * shade, np.uint8))
    writer.release()
    every = list(open_source(video))
    third = list(open_source([video], vid_stride=3))
    assert [frame.index for frame in third] == [0, 3, 6]
    for frame in third:
        np.testing.assert_array_equal(frame.image, every[frame.index].image)


def test_the_screen_is_no_source():
    with pytest.raises(DataError, match="screen is no source here"):
        open_source("screen 0 100 100 512 256")


@pytest.fixture
def two_servers(folder):
    """(address of one that sends everybody to the other, the other's requests, its address): the
    user names the first.
    """
    asked = []

    class Inner(_Quiet):
        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

    inner = http.server.ThreadingHTTPServer(
        ("127.0.0.2", 0), functools.partial(Inner, directory=str(folder))
    )
    there = f"http://127.0.0.2:{inner.server_port}"

    class Outer(_Quiet):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", there + self.path)
            self.end_headers()

    outer = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Outer)
    for each in (inner, outer):
        threading.Thread(target=each.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{outer.server_port}", asked, there
    for each in (inner, outer):
        each.shutdown()
        each.server_close()


@pytest.fixture
def film(folder, pixels):
    writer = cv2.VideoWriter(
        str(folder / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, pixels.shape[1::-1]
    )
    for _ in range(3):
        writer.write(pixels)
    writer.release()


def test_an_answer_does_not_lead_to_another_machine_inside(two_servers, film, pixels):
    outer, asked, inner = two_servers
    image, video = open_source([f"{outer}/a.png", f"{outer}/film.avi"])
    for each in (image, video):
        assert isinstance(each, Skipped)
        assert "leads to 127.0.0.2, which is 127.0.0.2: inside this machine" in each.reason
    assert asked == []
    image, *frames = open_source([f"{inner}/a.png", f"{inner}/film.avi"])  # named by the user
    np.testing.assert_array_equal(image.image, pixels)
    assert [each.name for each in frames] == [f"{inner}/film.avi frame {k}" for k in range(3)]


def test_a_video_at_an_address_has_no_length_and_is_not_kept(
    two_servers, film, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    source = open_source(f"{two_servers[2]}/film.avi")
    assert source.len_hint is None and not source.live
    frames = iter(source)
    assert next(frames).index == 0 and list((tmp_path / "temporary").iterdir())
    frames.close()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_an_address_that_sends_too_much_is_left(two_servers, film, monkeypatch):
    for name in ("URL_LIMIT_BYTES", "VIDEO_LIMIT_BYTES"):
        monkeypatch.setattr(f"engine.detect.sources.{name}", 100)
    for each in open_source([f"{two_servers[2]}/a.png", f"{two_servers[2]}/film.avi"]):
        assert isinstance(each, Skipped) and "more than 0 MiB" in each.reason


def test_what_an_address_keeps_secret_is_not_shown(two_servers):
    place = two_servers[2].replace("http://", "http://me:PASSWORD@")
    (frame,) = open_source(f"{place}/a.png?token=TOKEN")
    (skipped,) = open_source(f"{place}/no?token=TOKEN")
    assert isinstance(frame, Frame) and isinstance(skipped, Skipped)
    for said in (frame.name, str(skipped)):
        assert "PASSWORD" not in said and "TOKEN" not in said and "***" in said


@pytest.mark.parametrize("nothing", ["", " ", "\t"])
def test_an_empty_word_is_not_the_working_directory(nothing):
    with pytest.raises(DataError, match="source is empty"):
        open_source(nothing)
