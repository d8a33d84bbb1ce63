"""The path of a result: a Path, and what people do with text."""

import copy
import os
import pickle
from pathlib import Path

import pytest

from engine.detect.image_path import ImagePath

PATH = ImagePath("photos/a b.jpg")


def test_as_a_path():
    assert isinstance(PATH, Path) and PATH == Path("photos/a b.jpg")
    assert PATH.stem == "a b" and PATH.parent.name == "photos" and (PATH.parent / "c").name == "c"
    assert {Path("photos/a b.jpg"): 1}[PATH] == 1 and os.path.basename(PATH) == "a b.jpg"
    for copied in (copy.deepcopy(PATH), pickle.loads(pickle.dumps(PATH))):
        assert type(copied) is ImagePath and copied == PATH


def test_as_text():
    assert PATH == "photos/a b.jpg" and PATH != "photos" and "a b" in PATH
    assert PATH.split("/")[-1] == "a b.jpg" and PATH.endswith(".jpg") and PATH.upper()[-3:] == "JPG"
    assert PATH + ".txt" == "photos/a b.jpg.txt" and "x/" + PATH == "x/photos/a b.jpg"
    assert PATH.replace(".jpg", ".txt") == "photos/a b.txt" and PATH[-4:] == ".jpg"
    with pytest.raises(AttributeError, match="no attribute 'splitt'"):
        PATH.splitt("/")


def test_it_still_renames_files(tmp_path):
    (tmp_path / "a").write_text("x")
    assert ImagePath(tmp_path / "a").replace(tmp_path / "b").read_text() == "x"
