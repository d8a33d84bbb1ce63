"""A dataset of coloured squares and discs, small enough to learn in seconds, real enough to go
every real way.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest

COUNTS = {"train": 12, "val": 6, "test": 6}


def draw_shapes(
    folder: Path, counts: dict[str, int], names=("square", "disc"), size: int = 64, seed: int = 0
) -> Path:
    """A YOLO folder: images/<split>, labels/<split>, data.yaml."""
    rng = np.random.default_rng(seed)
    for split, count in counts.items():
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for i in range(count):
            image = rng.integers(90, 140, (size, size, 3), np.uint8)
            lines = []
            for corner in ((2, 2), (2, size // 2), (size // 2, 2)):
                kind = int(rng.integers(0, 2))
                side = int(rng.integers(16, size // 2 - 4))
                y, x = (int(c + rng.integers(0, 4)) for c in corner)
                colour = (30, 30, 220) if kind == 0 else (220, 200, 30)
                if kind == 0:
                    cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), colour, -1)
                else:
                    cv2.ellipse(
                        image,
                        (x + side // 2, y + side // 2),
                        (side // 2, side // 2),
                        0,
                        0,
                        360,
                        colour,
                        -1,
                    )
                lines.append(
                    f"{kind} {(x + side / 2) / size} {(y + side / 2) / size} {side / size} "
                    f"{side / size}"
                )
            cv2.imwrite(str(folder / "images" / split / f"{split}{i}.png"), image)
            (folder / "labels" / split / f"{split}{i}.txt").write_text("\n".join(lines) + "\n")
    entries = "".join(f"{split}: images/{split}\n" for split in counts)
    (folder / "data.yaml").write_text(f"path: .\n{entries}names: [{', '.join(names)}]\n")
    return folder


@pytest.fixture(scope="session")
def make_shapes():
    """The function that draws such a dataset."""
    return draw_shapes


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("shapes"), COUNTS)


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory, monkeypatch):
    """Caches of a test lie in its session's folder, never in the tree."""
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture(scope="session")
def trained(shapes, tmp_path_factory):
    """A detector that has learnt the shapes a little: (trainer, result)."""
    import os

    from engine.detect import DetectionTrainer

    os.environ["DETECTFLOW_STATE"] = str(tmp_path_factory.getbasetemp() / "state")
    trainer = DetectionTrainer(
        overrides={
            "model": "yolov8n",
            "data": str(shapes),
            "imgsz": 64,
            "epochs": 30,
            "batch": 4,
            "mosaic": 0.0,
            "lr0": 0.004,
            "project": str(tmp_path_factory.mktemp("run")),
            "verbose": False,
            "device": "cpu",
            "fliplr": 0.0,
        }
    )
    return trainer, trainer.train()
