"""The classes of a project: fixed in a file, compared with what comes in, stopped with a difference
or mapped on purpose.
"""

from __future__ import annotations

import pytest
from dataset_builders import CONTENT, NAMES, make_coco, make_voc, make_yolo, put

from engine.cli import main
from engine.config import DataConfig, Params
from engine.data.manifest import class_hash, load_prepared
from engine.datasets.classes import load_classes, reconcile, write_classes
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.errors import ConfigError, DataError
from engine.stages import prepare as stage


@pytest.fixture
def classes(tmp_path):
    file = tmp_path / "classes.yaml"
    write_classes(file, NAMES)
    return file


def run(source, target, file=None, **settings):
    schema = load_classes(file) if file else None
    return prepare(
        load_description(source), target, DataConfig(source=str(source), **settings), schema=schema
    )


def yolo(root, names: list[str]):
    make_yolo(root)
    text = (
        (root / "data.yaml")
        .read_text()
        .replace("names: [cat, dog]", f"names: [{', '.join(names)}]")
    )
    put(root / "data.yaml", text.replace("nc: 2", f"nc: {len(names)}"))
    return root


def test_the_file_is_read_back_and_a_change_by_mistake_does_not_pass(classes):
    assert (
        load_classes(classes).names == tuple(NAMES)
        and f"hash: {class_hash(NAMES)}" in classes.read_text()
    )
    put(classes, classes.read_text().replace("- cat\n- dog", "- dog\n- cat"))
    with pytest.raises(
        ConfigError, match=rf"hash is {class_hash(NAMES)}.*write `hash: {class_hash(NAMES[::-1])}`"
    ):
        load_classes(classes)


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: []\n", "names"),
        ("names: [yes, no]\n", "in quotes"),
        ("names: [a, a]\n", "each class once: a"),
        ("hash: x\n", "names"),
    ],
)
def test_a_wrong_file_is_explained(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        load_classes(put(tmp_path / "classes.yaml", text))


@pytest.mark.parametrize(
    "names, lines",
    [
        (["dog", "cat"], ["0: cat -> dog  (another order)", "1: dog -> cat  (another order)"]),
        (["cat", "hound"], ["1: dog -> hound  (renamed, or another class)"]),
        (["cat", "dog", "cow"], ["2: - -> cow  ('cow' is new)"]),
    ],
    ids=["permuted", "renamed", "added"],
)
def test_other_classes_stop_the_import_with_the_difference(names, lines, classes, tmp_path):
    with pytest.raises(DataError) as caught:
        run(yolo(tmp_path / "yolo", names), tmp_path / "out", classes)
    text = str(caught.value)
    assert (
        all(line in text for line in lines)
        and class_hash(names) in text
        and class_hash(NAMES) in text
    )
    assert "data.class_map: {" in text and not (tmp_path / "out").exists()


def test_a_dropped_class_stops_it_too(tmp_path):
    write_classes(tmp_path / "classes.yaml", ["cat", "cow", "dog"])
    with pytest.raises(DataError, match=r"1: cow -> dog  \('cow' is gone\)") as caught:
        run(make_coco(tmp_path / "coco"), tmp_path / "out", tmp_path / "classes.yaml")
    assert 'names are right:    data.class_map: {"cat": "cat", "dog": "dog"}' in str(caught.value)
    assert 'numbers are right:  data.class_map: {"cat": "cat", "dog": "cow"}' in str(caught.value)


def classes_of(folder) -> dict[str, list[str]]:
    dataset = load_prepared(folder)
    return {
        record.name.rsplit("/", 1)[-1][0]: [dataset.names[index] for index in record.classes]
        for split in ("train", "val", "test")
        for record in dataset.records(split)
    }


def test_the_two_maps_that_the_message_offers(classes, tmp_path):
    """A tool wrote the names in another order: either its names are right, or its numbers."""
    source = yolo(tmp_path / "yolo", ["dog", "cat"])
    run(source, tmp_path / "names", classes, class_map={"dog": "dog", "cat": "cat"})
    run(source, tmp_path / "numbers", classes, class_map={"dog": "cat", "cat": "dog"})
    wanted = {name: [label for label, _ in boxes] for name, boxes in CONTENT.items()}
    swapped = {"cat": "dog", "dog": "cat"}
    assert classes_of(tmp_path / "numbers") == wanted
    assert classes_of(tmp_path / "names") == {
        name: [swapped[label] for label in labels] for name, labels in wanted.items()
    }
    assert (
        load_prepared(tmp_path / "names").names
        == load_prepared(tmp_path / "numbers").names
        == tuple(NAMES)
    )


def test_a_class_can_be_merged_or_left_out_on_purpose(classes, tmp_path):
    source = make_voc(
        tmp_path / "voc", {**CONTENT, "c": [("hound", (32, 16, 60, 28)), ("sky", (0, 0, 64, 9))]}
    )
    with pytest.raises(DataError, match="class 'hound' is not among cat, dog"):
        run(source, tmp_path / "out", classes)
    run(source, tmp_path / "out", classes, class_map={"hound": "dog", "sky": None})
    assert classes_of(tmp_path / "out")["c"] == ["dog"]
    with pytest.raises(
        ConfigError, match="'hound' becomes 'dgo', which is not among cat, dog .*Did you mean 'dog'"
    ):
        run(source, tmp_path / "out", classes, class_map={"hound": "dgo", "sky": None})


def test_what_a_tool_adds_can_be_left_out_without_mapping_the_rest(classes, tmp_path):
    source = yolo(tmp_path / "yolo", ["cat", "dog", "none"])
    run(source, tmp_path / "out", classes, class_map={"none": None})
    assert classes_of(tmp_path / "out") == {
        name: [label for label, _ in boxes] for name, boxes in CONTENT.items()
    }
    with pytest.raises(DataError, match="another order"):
        run(
            yolo(tmp_path / "other", ["dog", "cat", "none"]),
            tmp_path / "out",
            classes,
            class_map={"none": None},
        )


def test_a_yolo_folder_without_names_takes_those_of_the_project(classes, tmp_path):
    source = make_yolo(tmp_path / "yolo")
    (source / "data.yaml").unlink()
    run(source, tmp_path / "out", classes)
    assert classes_of(tmp_path / "out") == {
        name: [label for label, _ in boxes] for name, boxes in CONTENT.items()
    }


def test_the_map_does_not_change_what_the_source_holds(classes, tmp_path):
    source = make_voc(tmp_path / "voc")
    plain, mapped = (
        run(source, tmp_path / "out", classes, class_map=m).info for m in ({}, {"cat": "dog"})
    )
    assert plain["source_digest"] == mapped["source_digest"] and plain["digest"] != mapped["digest"]


def test_description_and_project_must_agree(classes, tmp_path):
    make_voc(tmp_path / "voc")
    put(tmp_path / "d.yaml", "name: x\npath: voc\nnames: [dog, cat]\n")
    with pytest.raises(
        DataError,
        match=r"(?s)d.yaml: its classes are not those of .*classes.yaml .*another order.*decides",
    ):
        run(tmp_path / "d.yaml", tmp_path / "out", classes)


def test_without_fixed_classes_a_map_still_renames(tmp_path):
    description = load_description(make_voc(tmp_path / "voc"))
    assert reconcile(description, None, ("a", "b", "c"), {"b": "a", "c": None}) == ("a",)
    assert reconcile(description, None, (), {}) == ()


def test_the_project_file_counts_in_stage_prepare(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    root = tmp_path / "project"
    make_voc(tmp_path / "voc")
    for name, text in (
        ("dvc.yaml", ""),
        ("params.yaml", ""),
        ("data/d.yaml", "name: d\npath: ../../voc\n"),
    ):
        put(root / name, text)
    params = Params.build(
        {
            "data": {
                "source": "data/d.yaml",
                "group_by": "folder",
                "policies": {"split_leak": "warn"},
            }
        }
    )
    assert stage.run(params, root)["names"] == ["cat", "dog"] and not stage.source_changed(
        params, root
    )
    write_classes(root / "data/classes.yaml", ["dog", "cat"])
    assert stage.source_changed(params, root), "other numbers: prepare must run"
    summary = stage.run(params, root)
    assert summary["names"] == ["dog", "cat"] and summary["class_hash"] == class_hash(
        ["dog", "cat"]
    )
    assert not stage.source_changed(params, root)


def test_check_writes_the_file_once_and_compares_from_then_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))
    words = ["check", f"data={make_yolo(tmp_path / 'yolo')}", "classes=classes.yaml"]
    assert main(words) == 0 and load_classes(tmp_path / "classes.yaml").names == tuple(NAMES)
    assert main(words) == 0
    yolo(tmp_path / "yolo", ["dog", "cat"])
    assert main(words) == 1 and "another order" in capsys.readouterr().err
