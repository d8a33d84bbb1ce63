"""A small dataset of generated images, and state outside the tree."""

from pathlib import Path

import cv2
import pytest

from engine.export.parity_images import generated_image


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """A small YOLO folder."""
    folder = tmp_path_factory.mktemp("dataset")
    for first, (split, count) in enumerate({"train": 3, "val": 5, "test": 3}.items()):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(
                str(folder / "images" / split / f"{split}{i}.png"),
                generated_image(10 * first + i, (48, 80)),
            )
            (folder / "labels" / split / f"{split}{i}.txt").write_text(
                f"{i % 2} 0.5 0.5 0.25 0.25\n"
            )
    splits = "".join(f"{split}: images/{split}\n" for split in ("train", "val", "test"))
    (folder / "data.yaml").write_text(f"path: .\n{splits}names: [square, disc]\n")
    return folder


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path_factory.getbasetemp() / "state"))
