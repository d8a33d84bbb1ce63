"""A data.yaml given as the dataset: where its images are, as its author sees it; and that one in a
folder leads nowhere else.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from dataset_builders import CONTENT, NAMES, SPLIT_OF, image_bytes, make_yolo, put, tree

from engine.cli import main
from engine.config import DataConfig
from engine.data.manifest import load_prepared
from engine.datasets.description import load_description
from engine.datasets.open import open_dataset
from engine.datasets.prepare import prepare
from engine.errors import ConfigError, DataError, EngineError

SPLITS = "".join(f"{split}: images/{split}\n" for split in ("train", "val", "test"))
TAIL = f"nc: 2\nnames: [{', '.join(NAMES)}]\n"


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A YOLO dataset without a data.yaml of its own."""
    make_yolo(tmp_path / "datasets/pictures")
    (tmp_path / "datasets/pictures/data.yaml").unlink()
    return tmp_path / "datasets/pictures"


def prepared(file: Path, out: Path, **settings):
    return prepare(load_description(file), out, DataConfig(source=str(file), **settings))


def is_whole(report, out: Path) -> None:
    """All six images, in their own splits, with all their boxes."""
    dataset = load_prepared(out)
    found = {
        Path(r.name).stem: (split, len(r.boxes))
        for split in ("train", "val", "test")
        for r in dataset.records(split)
    }
    assert found == {name: (SPLIT_OF[name], len(boxes)) for name, boxes in CONTENT.items()}
    assert dataset.names == tuple(NAMES) and set(report.findings.counts) <= {"empty_image"}


@pytest.mark.parametrize("path", ["../datasets/pictures", "{absolute}"])
def test_path_leads_to_the_images_from_where_the_file_lies(path, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    before = tree(pictures)
    file = put(
        tmp_path / "configs/mine.yaml", f"path: {path.format(absolute=pictures)}\n{SPLITS}{TAIL}"
    )
    is_whole(prepared(file, tmp_path / "out"), tmp_path / "out")
    assert load_prepared(tmp_path / "out").name == "mine" and tree(pictures) == before


def test_path_as_seen_from_the_current_folder(pictures, tmp_path, monkeypatch):
    """`path: ../datasets/x` of a file deep in a checkout, run from the checkout's root."""
    put(tmp_path / "checkout/cfg/deep/x.yaml", f"path: ../datasets/pictures\n{SPLITS}{TAIL}")
    (tmp_path / "checkout").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "checkout")
    is_whole(prepared(Path("cfg/deep/x.yaml"), tmp_path / "out"), tmp_path / "out")


def test_the_folder_of_the_file_serves_where_path_is_of_another_machine(tmp_path):
    make_yolo(tmp_path / "set")  # path: ../anywhere/else
    is_whole(prepared(tmp_path / "set/data.yaml", tmp_path / "out"), tmp_path / "out")
    assert load_prepared(tmp_path / "out").name == "set"


def test_absolute_splits_inside_the_folder(pictures, tmp_path):
    splits = "".join(f"{split}: {pictures}/images/{split}\n" for split in ("train", "val", "test"))
    for number, text in enumerate(
        (f"path: {pictures}\n{splits}{TAIL}", f"path: ../datasets/pictures\n{splits}{TAIL}")
    ):
        file = put(tmp_path / "configs/mine.yaml", text)
        is_whole(prepared(file, tmp_path / f"out{number}"), tmp_path / f"out{number}")


def test_the_file_that_was_given_counts_not_its_neighbours(tmp_path):
    make_yolo(tmp_path / "set")
    put(tmp_path / "set/data.yaml", f"{SPLITS}names: [one, two]\n")
    put(tmp_path / "set/other.yaml", f"{SPLITS}{TAIL}")
    assert prepared(tmp_path / "set/other.yaml", tmp_path / "out").info["names"] == NAMES
    assert prepared(tmp_path / "set", tmp_path / "out2").info["names"] == ["one", "two"]
    (tmp_path / "set/data.yaml").rename(tmp_path / "set/third.yaml")
    with pytest.raises(
        DataError,
        match="both list class names; call the right one data.yaml, or give it as the dataset: "
        "data=",
    ):
        prepared(tmp_path / "set", tmp_path / "out3")


def test_a_place_that_does_not_exist_is_an_error_with_all_that_was_tried(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "configs/mine.yaml", f"path: ../datasets/gone\n{SPLITS}{TAIL}")
    assert main(["check", "data=configs/mine.yaml"]) == 1
    said = capsys.readouterr().err
    assert (
        "none of its splits (train: images/train, val: images/val, test: images/test) is in any "
        "of these folders" in said
    )
    for place in (
        tmp_path / "datasets/gone",
        tmp_path.parent / "datasets/gone",
        tmp_path / "configs",
    ):
        assert f"  {place}\n" in said
    assert (
        "Next: correct `path`" in said and "-S data.path=FOLDER" in said and "Traceback" not in said
    )
    put(
        tmp_path / "configs/mine.yaml",
        f"path: gone\n{SPLITS}{TAIL}download: https://example.org/x.zip\n",
    )
    assert main(["check", "data=configs/mine.yaml"]) == 1
    assert (
        "Next: `download` is never run: get the dataset by hand, then correct `path`"
        in capsys.readouterr().err
    )


def test_a_folder_on_the_command_line_replaces_path(pictures, tmp_path):
    file = put(tmp_path / "configs/mine.yaml", f"path: ../nowhere\n{SPLITS}{TAIL}")
    is_whole(prepared(file, tmp_path / "out", path=str(pictures)), tmp_path / "out")


def test_splits_outside_the_files_folder_need_a_path(pictures, tmp_path):
    splits = "".join(
        f"{split}: ../datasets/pictures/images/{split}\n" for split in ("train", "val", "test")
    )
    file = put(tmp_path / "configs/mine.yaml", f"{splits}{TAIL}")
    with pytest.raises(
        DataError, match="(?s)none of its splits.*correct `path`, the folder that holds all of them"
    ):
        prepared(file, tmp_path / "out")


def test_a_split_cannot_climb_out_of_path(pictures, tmp_path):
    put(tmp_path / "datasets/secret/x.png", image_bytes("x"))
    put(tmp_path / "datasets/secret/x.txt", "0 0.5 0.5 0.5 0.5\n")
    text = f"path: ../datasets/pictures\n{SPLITS}{TAIL}".replace(
        "test: images/test", "test: ../secret"
    )
    report = prepared(put(tmp_path / "configs/mine.yaml", text), tmp_path / "out")
    assert report.findings.counts["split_path"] == 1
    assert not any(
        "x.png" in r.name
        for split in ("train", "val", "test")
        for r in load_prepared(tmp_path / "out").records(split)
    )


def test_a_data_yaml_found_in_a_folder_leads_nowhere_else(pictures, tmp_path):
    """Whoever gives a folder gets what is in it; the error says how the file is meant to be
    used.
    """
    put(tmp_path / "configs/data.yaml", f"path: ../datasets/pictures\n{SPLITS}{TAIL}")
    with pytest.raises(
        DataError,
        match="leaves the folder and is only followed where the file itself is given: "
        "data=.*data.yaml",
    ):
        prepared(tmp_path / "configs", tmp_path / "out")


def test_one_folder_for_train_and_val_is_a_leak(tmp_path):
    make_yolo(tmp_path / "set")
    file = put(
        tmp_path / "set/data.yaml",
        f"{SPLITS}{TAIL}".replace("val: images/val", "val: images/train"),
    )
    with pytest.raises(
        EngineError,
        match="(?s)same image, or group, in two given splits.*val is the same folder as train",
    ):
        prepared(file, tmp_path / "out")
    policies = {"split_leak": "warn", "empty_split": "fix"}
    assert (
        prepared(file, tmp_path / "out", policies=policies).info["counts"]["train"]["images"] >= 3
    )


def test_rows_of_poses_give_their_boxes(tmp_path):
    """`class x y w h` and key points after it: even in number, they could be taken for a
    polygon.
    """
    make_yolo(tmp_path / "set")
    for file in (tmp_path / "set/labels").rglob("*.txt"):
        put(file, "".join(f"{line} 0.1 0.1 0.9 0.9\n" for line in file.read_text().splitlines()))
    file = put(tmp_path / "set/data.yaml", f"kpt_shape: [2, 2]\n{SPLITS}{TAIL}")
    report = prepared(file, tmp_path / "out")
    is_whole(report, tmp_path / "out")
    record = next(
        r for r in load_prepared(tmp_path / "out").records("train") if r.name.endswith("a.png")
    )
    assert record.boxes.tolist() == [[4, 2, 20, 30]]
    put(file, f"kpt_shape: 17\n{SPLITS}{TAIL}")
    with pytest.raises(
        DataError, match=r"kpt_shape is '17', expected \[number of points, 2 or 3\]"
    ):
        prepared(file, tmp_path / "out")


def test_training_data_is_opened_the_same_way_and_anew_when_the_file_changes(pictures, tmp_path):
    file = put(tmp_path / "configs/mine.yaml", f"path: ../datasets/pictures\n{SPLITS}{TAIL}")
    assert open_dataset(file, tmp_path / "cache").names == tuple(NAMES)
    put(file, f"path: ../datasets/pictures\n{SPLITS}names: [one, two]\n")
    assert open_dataset(file, tmp_path / "cache").names == ("one", "two")


def test_a_path_that_is_no_text(tmp_path):
    with pytest.raises(ConfigError, match="`path` is a list"):
        load_description(put(tmp_path / "mine.yaml", f"path: [a]\n{SPLITS}{TAIL}"))


def test_without_names(pictures, tmp_path):
    file = put(tmp_path / "configs/mine.yaml", f"path: ../datasets/pictures\n{SPLITS}nc: 2\n")
    with pytest.raises(DataError, match="no names were found"):
        prepared(file, tmp_path / "out")
    shutil.copy(put(tmp_path / "n.txt", "cat\ndog\n"), pictures / "classes.txt")
    is_whole(prepared(file, tmp_path / "out"), tmp_path / "out")


def test_a_pipe_is_no_description_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "data.yaml")
    with pytest.raises(DataError, match="not a device or pipe"):
        prepared(tmp_path / "data.yaml", tmp_path / "out")
