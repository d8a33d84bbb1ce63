"""Class numbers never move silently: pinned at the first prepare, dataset by dataset, and grown at
the end.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from dataset_builders import CONTENT, make_coco, make_voc, make_yolo, put, tree

from engine.cli import main
from engine.config import Params
from engine.data.manifest import class_hash, load_prepared
from engine.datasets.classes import edited_classes, load_classes, pin_classes, with_pinned
from engine.errors import ConfigError, DataError
from engine.stages import code
from engine.stages import prepare as stage

BIRD = {**CONTENT, "a": [("ant", (1, 1, 20, 20)), *CONTENT["a"]]}  # sorts before cat and dog


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path / "project"))
    for name, text in (
        ("dvc.yaml", ""),
        ("params.yaml", ""),
        ("data/d.yaml", "name: d\npath: raw/d\n"),
        ("data/other.yaml", "name: other\npath: raw/other\n"),
    ):
        put(tmp_path / "project" / name, text)
    return tmp_path / "project"


def params(source: str = "data/d.yaml", **data) -> Params:
    policies = {"split_leak": "warn", "unused_class": "warn"}
    return Params.build({"data": {"source": source, "policies": policies, **data}})


def prepared(root: Path, source: str = "data/d.yaml", **data) -> list[str]:
    return stage.run(params(source, **data), root)["names"]


def pins(root: Path, dataset: str = "d") -> tuple[str, ...]:
    return load_classes(root / "data/classes.yaml", dataset=dataset).names


def yolo(root: Path, names: str, nc: int) -> None:
    make_yolo(root)
    text = (root / "data.yaml").read_text().replace("names: [cat, dog]", f"names: [{names}]")
    put(root / "data.yaml", text.replace("nc: 2", f"nc: {nc}"))


def classes_of(root: Path) -> dict[str, list[str]]:
    data = load_prepared(root / "data/prepared")
    return {
        Path(record.name).stem[0]: [data.names[number] for number in record.classes]
        for split in ("train", "val", "test")
        for record in data.records(split)
    }


def test_a_new_class_is_appended_and_no_number_moves(root, caplog):
    make_voc(root / "data/raw/d")
    assert prepared(root) == ["cat", "dog"] == list(pins(root))
    first = tree(root / "data/prepared")
    assert prepared(root) == ["cat", "dog"] and tree(root / "data/prepared") == first
    make_voc(root / "data/raw/d", BIRD)
    assert prepared(root) == ["cat", "dog", "ant"] == list(pins(root))
    assert "'ant' is number 2" in caplog.text
    assert sorted(classes_of(root)["a"]) == sorted(label for label, _ in BIRD["a"])
    report = (root / "reports/data.json").read_bytes()
    file = (root / "data/classes.yaml").read_bytes()
    assert prepared(root) == ["cat", "dog", "ant"]
    assert (root / "reports/data.json").read_bytes() == report, "the same the second time"
    assert (root / "data/classes.yaml").read_bytes() == file


def test_a_class_that_went_away_keeps_its_number_until_a_person_removes_it(root):
    make_voc(root / "data/raw/d", BIRD)
    assert prepared(root) == ["ant", "cat", "dog"]
    make_voc(root / "data/raw/d")
    summary = stage.run(params(), root)
    assert summary["names"] == ["ant", "cat", "dog"]
    assert summary["classes"][0] == {"name": "ant", "train": 0, "val": 0, "test": 0}
    assert "class 'ant' has no box" in str(summary["findings"])
    file = root / "data/classes.yaml"
    put(file, file.read_text().replace('      - "ant"\n', ""))
    assert stage.source_changed(params(), root)
    assert prepared(root) == ["cat", "dog"] and not stage.source_changed(params(), root)


def test_two_datasets_have_their_own_pins(root):
    make_voc(root / "data/raw/d")
    make_voc(root / "data/raw/other", BIRD)
    prepared(root), prepared(root, "data/other.yaml")
    assert pins(root) == ("cat", "dog") and pins(root, "other") == ("ant", "cat", "dog")
    assert load_classes(root / "data/classes.yaml", dataset="third") is None


def test_an_order_that_only_lists_names_follows_the_pins(root):
    """COCO's categories have names of their own: another order there moves nothing."""
    make_voc(root / "data/raw/d", BIRD)
    prepared(root)
    for file in sorted((root / "data/raw/d").rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    make_coco(root / "data/raw/d")
    assert prepared(root) == ["ant", "cat", "dog"]
    expected = {name: sorted(label for label, _ in boxes) for name, boxes in CONTENT.items()}
    assert {name: sorted(labels) for name, labels in classes_of(root).items()} == expected


@pytest.mark.parametrize(
    "names, nc, line",
    [
        ("dog, cat", 2, "0: cat -> dog  (another order)"),
        ("ant, cat, dog", 3, "0: cat -> ant  ('ant' is new)"),
        ("cat, hound", 2, "1: dog -> hound  (renamed, or another class)"),
    ],
    ids=["permuted", "new in front", "renamed"],
)
def test_numbers_in_label_files_that_mean_something_else_are_refused(names, nc, line, root):
    yolo(root / "data/raw/d", "cat, dog", 2)
    assert prepared(root) == ["cat", "dog"]
    before = tree(root / "data")
    yolo(root / "data/raw/d", names, nc)
    put(root / "expected", "")
    with pytest.raises(DataError) as caught:
        prepared(root)
    assert line in str(caught.value) and "data.class_map: {" in str(caught.value)
    assert pins(root) == ("cat", "dog")
    assert tree(root / "data/prepared") == {
        name.removeprefix("prepared/"): content
        for name, content in before.items()
        if name.startswith("prepared/")
    }


def test_the_maps_of_the_message_settle_it_and_keep_the_pins(root):
    yolo(root / "data/raw/d", "cat, dog", 2)
    prepared(root)
    yolo(root / "data/raw/d", "ant, cat, dog", 3)
    names = prepared(root, class_map={"ant": "ant", "cat": "cat", "dog": "dog"})
    assert names == ["cat", "dog", "ant"] == list(pins(root))


def test_a_list_of_numbers_may_grow_and_shrink_at_its_end(root):
    yolo(root / "data/raw/d", "cat, dog", 2)
    prepared(root)
    yolo(root / "data/raw/d", "cat, dog, ant", 3)
    assert prepared(root) == ["cat", "dog", "ant"]
    yolo(root / "data/raw/d", "cat, dog", 2)
    assert prepared(root) == ["cat", "dog", "ant"]


@pytest.mark.parametrize("names", ["[dog, cat]", "[ant, cat, dog]"])
def test_a_description_that_says_another_order_is_refused(names, root):
    make_voc(root / "data/raw/d")
    prepared(root)
    put(root / "data/d.yaml", f"name: d\npath: raw/d\nnames: {names}\n")
    with pytest.raises(DataError, match=r"(?s)d.yaml: its classes.*new ones at the end.*'d' in"):
        prepared(root)
    put(root / "data/d.yaml", "name: d\npath: raw/d\nnames: [cat, dog, ant]\n")
    assert prepared(root) == ["cat", "dog", "ant"]


def test_what_a_person_fixed_for_the_project_is_not_touched(root):
    make_voc(root / "data/raw/d")
    file = put(root / "data/classes.yaml", "names: [dog, cat]\n")
    assert prepared(root) == ["dog", "cat"] and file.read_text() == "names: [dog, cat]\n"


def test_names_that_yaml_reads_otherwise_come_back(tmp_path):
    names = ["no", "1e5", "0123", "12:30", "ü: #x", "~", '"q"', "null"]
    file = tmp_path / "classes.yaml"
    pin_classes(file, "a: b", names)
    assert load_classes(file, dataset="a: b").names == tuple(names)
    assert pin_classes(file, "a: b", names[::-1]) == () == pin_classes(file, "a: b", names[:2])
    assert edited_classes(file) == {}


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: [a]\ndatasets: {}\n", "either names"),
        ("datasets:\n  d: {names: [a, a]}\n", "each class once: a"),
        ("datasets:\n  d: {names: [1]}\n", "in quotes"),
        ("datasets:\n  d: {names: []}\n", "line 2: datasets.*at least 1"),
    ],
)
def test_a_wrong_file_is_explained(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_classes(put(tmp_path / "classes.yaml", text), dataset="d")


def test_new_names_follow_pinned_ones():
    schema = load_schema(("b", "a"))
    assert with_pinned(schema, ("a", "c", "b")) == ("b", "a", "c")
    assert with_pinned(None, ("a", "c")) == ("a", "c")


def load_schema(names: tuple[str, ...]):
    from engine.datasets.classes import ClassSchema

    return ClassSchema(names, "data/classes.yaml", pinned=True)


def test_dvc_sees_an_edit_and_not_what_prepare_writes(root):
    """The record of stage code, which prepare depends on: the same before and after a prepare."""
    make_voc(root / "data/raw/d")
    code.write_code(params(), root)
    before = (root / "reports/code/prepare.json").read_bytes()
    prepared(root)
    assert code.write_code(params(), root) == {}
    assert (root / "reports/code/prepare.json").read_bytes() == before
    make_voc(root / "data/raw/d", BIRD)
    assert code.write_code(params(), root) == {"prepare": ["data/raw/d"]}  # other data, told once
    prepared(root)
    assert code.write_code(params(), root) == {}
    file = root / "data/classes.yaml"
    text = (
        file.read_text().replace('"cat"', '"x"').replace('"dog"', '"cat"').replace('"x"', '"dog"')
    )
    put(file, text)
    assert code.write_code(params(), root) == {"prepare": ["data/classes.yaml d"]}
    assert edited_classes(file) == {"d": class_hash(["dog", "cat", "ant"])}
    assert prepared(root) == ["dog", "cat", "ant"]
    assert code.write_code(params(), root) == {}


def test_git_versions_the_file():
    done = subprocess.run(
        ["git", "check-ignore", "-q", "data/classes.yaml"], cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 1, "not ignored"


def test_check_writes_no_pins(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    put(root / "params.yaml", "data: {source: data/d.yaml}\n")
    make_voc(root / "data/raw/d")
    assert main(["check", "out=runs/check"]) == 0
    assert not (root / "data/classes.yaml").exists()
