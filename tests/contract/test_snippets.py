"""An Ultralytics user's first hour: what people paste works here, or a sentence names the way."""

import re

import cv2
import numpy as np
import pytest
import yaml
from detectors import NAMES, random_detector, save_detector
from snippets import HEAD, REFUSED, WORK

from engine.errors import EngineError


@pytest.fixture(scope="module")
def desk(make_squares, tmp_path_factory):
    """A folder with what the snippets name: weights, images, a video, a description of data."""
    folder = tmp_path_factory.mktemp("desk")
    data = make_squares(folder / "coco8", names=NAMES, counts={"train": 4, "val": 4, "test": 4})
    described = {"path": str(data), "names": dict(enumerate(NAMES))}
    described |= {split: f"images/{split}" for split in ("train", "val", "test")}
    (folder / "coco8.yaml").write_text(yaml.safe_dump(described))
    save_detector(folder / "yolov8n.pt", random_detector(len(NAMES)))
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for name in ("bus.jpg", "zidane.jpg"):
        image = rng.integers(0, 255, (80, 64, 3), np.uint8)
        cv2.imwrite(str(folder / name), image)
        cv2.imwrite(str(folder / "images" / name), image)
    (folder / "list.txt").write_text("bus.jpg\nzidane.jpg\n")
    writer = cv2.VideoWriter(
        str(folder / "video.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64)
    )
    for _ in range(6):
        writer.write(rng.integers(0, 255, (64, 64, 3), np.uint8))
    writer.release()
    return folder


@pytest.fixture(autouse=True)
def at_the_desk(desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def test_there_are_enough_of_them():
    assert len(WORK) >= 60 and len(WORK) + len(REFUSED) >= 70


@pytest.mark.parametrize("name", WORK)
def test_it_works(name):
    exec(compile(HEAD + WORK[name], name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_with_the_way_on(name):
    code, said = REFUSED[name]
    with pytest.raises(EngineError, match=re.compile(said, re.S)):
        exec(compile(HEAD + code, name, "exec"), {"__name__": "__main__"})
