"""The path of a result: text, and what people do with a Path."""

import copy
import csv
import io
import json
import os
import pickle
import re
import sys
from pathlib import Path

import pytest
import yaml

from engine.detect.image_path import ImagePath

TEXT = "photos/a b.jpg"
PATH = ImagePath(Path(TEXT))


def test_as_text():
    assert isinstance(PATH, str) and PATH == TEXT and PATH != "photos" and "a b" in PATH
    assert PATH.split("/")[-1] == "a b.jpg" and PATH.endswith(".jpg") and PATH.upper()[-3:] == "JPG"
    assert PATH + ".txt" == "photos/a b.jpg.txt" and "x/" + PATH == "x/photos/a b.jpg"
    assert PATH.replace(".jpg", ".txt") == "photos/a b.txt" and PATH[-4:] == ".jpg"
    assert PATH in {TEXT} and {TEXT: 1}[PATH] == 1 and TEXT in {PATH} and hash(PATH) == hash(TEXT)
    assert f"{PATH:>20}" == f"{TEXT:>20}" and " ".join([PATH]) == str(PATH) == TEXT
    assert re.match("photos", PATH) and os.path.join("x", PATH) == "x/photos/a b.jpg"
    with pytest.raises(AttributeError, match="no attribute 'splitt'"):
        PATH.splitt("/")


def test_written_as_text_by_every_writer():
    assert json.loads(json.dumps({"path": PATH, PATH: 1})) == {"path": TEXT, TEXT: 1}
    for dump in (yaml.safe_dump, yaml.dump):
        assert dump({"path": [PATH, PATH]}) == dump({"path": [TEXT, TEXT]})
    table = io.StringIO()
    csv.writer(table).writerow([PATH])
    assert table.getvalue() == f"{TEXT}\r\n"


def test_as_a_path():
    assert PATH == Path(TEXT) and Path(TEXT) == PATH and PATH != Path("photos")
    assert Path(PATH) == Path(TEXT) and type(Path(PATH)) is type(Path())
    assert PATH.stem == "a b" and PATH.parent.name == "photos" and (PATH.parent / "c").name == "c"
    assert PATH / "c" == Path(TEXT, "c") and Path("x") / PATH == "x" / PATH == Path("x", TEXT)
    assert PATH.with_suffix(".txt") == Path("photos/a b.txt") and PATH.parts == (
        "photos",
        "a b.jpg",
    )
    assert os.path.basename(PATH) == "a b.jpg" and os.fspath(PATH) == TEXT
    assert isinstance(PATH, os.PathLike) and not PATH.exists() and "stem" in dir(PATH)
    assert sorted([Path("z"), PATH, Path("a")]) == [Path("a"), PATH, Path("z")]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a Path has another hash than its text")
def test_as_a_key_it_is_both():
    assert {Path(TEXT): 1}[PATH] == 1


def test_all_that_a_path_has_it_has():
    """But for its operators, which are above, what is text's own, and how classes are made."""
    assert [name for name in dir(Path) if name[0] != "_" and not hasattr(PATH, name)] == []


def test_copies_know_their_file_wherever_they_are_made(monkeypatch, tmp_path):
    packed, here = pickle.dumps(PATH), Path(TEXT).absolute()
    monkeypatch.chdir(tmp_path)
    copies = (copy.copy(PATH), copy.deepcopy(PATH), pickle.loads(packed), ImagePath(PATH))
    for copied in copies:
        assert type(copied) is ImagePath and copied == PATH and copied.stem == "a b"
        assert copied.file == here != Path(TEXT).absolute()


def test_it_still_renames_files(tmp_path):
    (tmp_path / "a").write_text("x")
    assert ImagePath(tmp_path / "a").replace(tmp_path / "b").read_text() == "x"
    assert ImagePath(tmp_path / "b").replace(target=tmp_path / "c").read_text() == "x"
