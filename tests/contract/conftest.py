"""The smallest things a contract can be kept on: a few images with one coloured square each,
trivially easy to learn.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

NAMES = ("red", "blue")
COLOURS = {"red": (30, 30, 220), "blue": (220, 200, 30)}  # BGR
SIZE_PX = 64
COUNTS = {"train": 8, "val": 4, "test": 4}


def draw_squares(
    folder: Path, names: tuple[str, ...] = NAMES, counts: dict[str, int] = COUNTS
) -> Path:
    """A YOLO folder: images/<split>, labels/<split>, data.yaml. Picture i holds a square of class
    names[i % len(names)].
    """
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(90, 140, (SIZE_PX, SIZE_PX, 3), np.uint8)
            number, side = i % len(names), int(rng.integers(28, 36))
            x, y = (int(v) for v in rng.integers(4, SIZE_PX - side - 4, 2))
            cv2.rectangle(
                image,
                (x, y),
                (x + side - 1, y + side - 1),
                COLOURS.get(names[number], (40, 200, 40)),
                -1,
            )
            cv2.imwrite(str(folder / "images" / split / f"{split}{i}.png"), image)
            box = [
                (x + side / 2) / SIZE_PX,
                (y + side / 2) / SIZE_PX,
                side / SIZE_PX,
                side / SIZE_PX,
            ]
            line = " ".join(map(str, [number, *box]))
            (folder / "labels" / split / f"{split}{i}.txt").write_text(line + "\n")
    entries = "".join(f"{split}: images/{split}\n" for split in counts)
    (folder / "data.yaml").write_text(f"path: .\n{entries}names: [{', '.join(names)}]\n")
    return folder


@pytest.fixture(scope="session")
def squares(tmp_path_factory) -> Path:
    return draw_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def make_squares():
    """The function that draws such a dataset."""
    return draw_squares


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory, monkeypatch):
    """Caches of a test lie in its session's folder, never in the tree."""
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture
def tiny(squares, tmp_path):
    """The settings of a run of a second; `tiny(epochs=2)` changes some."""

    def settings(**changes):
        return {
            "model": "yolov8n",
            "data": str(squares),
            "imgsz": SIZE_PX,
            "epochs": 1,
            "batch": 4,
            "project": str(tmp_path),
            "mosaic": 0.0,
            "verbose": False,
            "device": "cpu",
            "plots": False,
            **changes,
        }

    return settings


@pytest.fixture(scope="session")
def trained(squares, tmp_path_factory):
    """A detector after one epoch: its `TrainResult`."""
    from engine.detect import DetectionTrainer

    os.environ["DETECTFLOW_STATE"] = str(tmp_path_factory.getbasetemp() / "state")
    return DetectionTrainer(
        overrides={
            "model": "yolov8n",
            "data": str(squares),
            "imgsz": SIZE_PX,
            "epochs": 1,
            "batch": 4,
            "verbose": False,
            "device": "cpu",
            "project": str(tmp_path_factory.mktemp("trained")),
            "plots": False,
        }
    ).train()
