"""Writers and `detectflow convert`: whatever was labelled is still so after any way through the
formats.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_builders import (
    CONTENT,
    MAKERS,
    NAMES,
    SPLIT_OF,
    H,
    W,
    image_bytes,
    make_coco,
    make_voc,
    make_yolo,
    put,
    tree,
    voc_xml,
)
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from engine.cli import main
from engine.config import DataConfig
from engine.datasets.convert import convert
from engine.datasets.description import load_description
from engine.datasets.findings import Findings
from engine.datasets.formats import KINDS, open_reader, writable
from engine.datasets.formats.base import Row
from engine.datasets.formats.folder import Folder
from engine.datasets.formats.writers import Labelled
from engine.datasets.prepare import prepare
from engine.errors import ConfigError, DataError

CLASSES = ("red cell", "no", "weiß & <klein>", 'q"uote', "7", "x: y")


def to(data: Path, target: Path, format: str, **options):
    return convert(data, target, format, DataConfig(source=str(data), **options))


# --- round trips ----------------------------------------------------------------------------------


@st.composite
def images(draw) -> list[Labelled]:
    """Up to five images of any name, size and split, with boxes anywhere in them, of any class."""
    chars = st.sampled_from("abAB01 ._-'\"&<>äß血,;()%#")
    names = draw(st.lists(st.text(chars, min_size=1, max_size=12), min_size=1, max_size=5))
    given_splits = draw(st.booleans())
    made = []
    for number, name in enumerate(names):
        h, w = draw(st.integers(1, 60)), draw(st.integers(1, 60))
        content = cv2.imencode(".png", np.full((h, w, 3), number, np.uint8))[1].tobytes()
        rows = []
        for _ in range(draw(st.integers(0, 4))):
            x1, x2 = sorted(draw(st.tuples(*[st.decimals(0, w, places=3)] * 2)))
            y1, y2 = sorted(draw(st.tuples(*[st.decimals(0, h, places=3)] * 2)))
            flags = {"crowd": draw(st.booleans()), "difficult": draw(st.booleans())}
            rows.append(
                Row(draw(st.sampled_from(CLASSES)), tuple(map(float, (x1, y1, x2, y2))), **flags)
            )
        split = draw(st.sampled_from(("train", "val", "test"))) if given_splits else ""
        made.append(Labelled(f"{name}.png", (h, w), tuple(rows), content, split))
    return made


@dataclass(frozen=True)
class SupervisedServer:
    """What has to survive of one image."""

    split: str
    rows: list[tuple]  # (class, crowd, difficult) and corners in pixels, in order


def as_written(written: list[Labelled], formats: tuple[str, ...]) -> dict[str, SupervisedServer]:
    """What can be left after a way through `formats`, by content."""
    crowds, difficult = {*formats} <= {"coco"}, {*formats} <= {"voc"}
    return {
        hashlib.sha256(image.content).hexdigest(): SupervisedServer(
            image.split,
            [
                ((row.name, row.crowd, row.difficult and difficult), row.box)
                for row in image.rows
                if crowds or not row.crowd
            ],
        )
        for image in written
    }


def as_read(root: Path, format: str) -> dict[str, SupervisedServer]:
    findings = Findings.with_policies({})
    found = {}
    for image in open_reader(Folder(root), None, findings):
        data = image.read()
        h, w = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2]
        assert image.size == (None if format == "yolo" else (h, w))
        gain = (w, h, w, h) if image.fractions else (1, 1, 1, 1)
        rows = [
            (
                (row.name, row.crowd, row.difficult),
                tuple(v * g for v, g in zip(row.box, gain, strict=True)),
            )
            for row in image.rows
        ]
        found[hashlib.sha256(data).hexdigest()] = SupervisedServer(image.split, rows)
    assert findings.counts == {}
    return found


def assert_same(
    found: dict[str, SupervisedServer], expected: dict[str, SupervisedServer], within_px: float
) -> None:
    assert found.keys() == expected.keys()
    for key, kept in expected.items():
        assert found[key].split == kept.split
        assert [labels for labels, _ in found[key].rows] == [labels for labels, _ in kept.rows]
        for (_, box), (_, original) in zip(found[key].rows, kept.rows, strict=True):
            assert np.abs(np.subtract(box, original)).max() <= within_px


# One folder for all examples of a test, emptied by giving each its own name.
ROUND_TRIP = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ROUND_TRIP
@given(written=images(), format=st.sampled_from(sorted(writable())))
def test_what_a_writer_wrote_its_reader_reads(tmp_path_factory, written, format):
    folder = tmp_path_factory.mktemp("one")
    writer = KINDS[format].write(folder, CLASSES)
    for image in written:
        writer.add(image)
    writer.close()
    expected = as_written(written, (format,))
    assert_same(as_read(folder, format), expected, within_px=1e-3)
    crowds = sum(row.crowd for image in written for row in image.rows)
    assert (+writer.lost)["crowd boxes"] == (0 if format == "coco" else crowds)


@ROUND_TRIP
@given(written=images(), way=st.lists(st.sampled_from(sorted(writable())), min_size=2, max_size=6))
def test_any_way_through_the_formats_moves_no_box(tmp_path_factory, written, way):
    assume(
        any(not row.crowd for image in written for row in image.rows)
    )  # else VOC holds no class to go on with
    folder = tmp_path_factory.mktemp("way")
    writer = KINDS[way[0]].write(folder / "0", CLASSES)
    for image in written:
        writer.add(image)
    writer.close()
    for step, format in enumerate(way[1:], 1):
        to(folder / f"{step - 1}", folder / f"{step}", format)
    assert_same(
        as_read(folder / f"{len(way) - 1}", way[-1]),
        as_written(written, tuple(way)),
        within_px=0.01,
    )


SHARE = st.integers(0, 1000).map(lambda number: number / 1000)


@ROUND_TRIP
@given(
    polygons=st.lists(
        st.lists(st.tuples(SHARE, SHARE), min_size=3, max_size=9), min_size=1, max_size=4
    ),
    boxes=st.lists(st.tuples(SHARE, SHARE, SHARE, SHARE), max_size=3),
    size=st.tuples(st.integers(2, 90), st.integers(2, 90)),
    format=st.sampled_from(sorted(writable())),
)
def test_polygon_rows_become_the_boxes_around_them_in_every_format(
    tmp_path_factory, polygons, boxes, size, format
):
    """A YOLO file of polygon rows and detection rows, mixed: every corner of every box within a
    hundredth of a pixel.
    """
    folder, (h, w) = tmp_path_factory.mktemp("polygons"), size
    rows = [" ".join(["1", *(f"{v}" for point in polygon for v in point)]) for polygon in polygons]
    around = [(*np.min(polygon, 0), *np.max(polygon, 0)) for polygon in polygons]
    rows += [" ".join(["0", *(f"{v}" for v in box)]) for box in boxes]
    around += [(x - bw / 2, y - bh / 2, x + bw / 2, y + bh / 2) for x, y, bw, bh in boxes]
    put(
        folder / "set/images/a.png",
        cv2.imencode(".png", np.zeros((h, w, 3), np.uint8))[1].tobytes(),
    )
    put(folder / "set/labels/a.txt", "\n".join(rows))
    put(folder / "set/data.yaml", "names: [cat, dog]\n")
    to(folder / "set", folder / "out", format)
    (found,) = as_read(folder / "out", format).values()
    assert [label for (label, _, _), _ in found.rows] == ["dog"] * len(polygons) + ["cat"] * len(
        boxes
    )
    assert (
        np.abs(np.array([box for _, box in found.rows]) - np.array(around) * (w, h, w, h)).max()
        <= 0.01
    )


def test_real_annotations_come_back_box_for_box(bccd, tmp_path):
    """Blood cells, VOC -> COCO -> YOLO -> VOC: every corner."""
    for xml in sorted((bccd / "Annotations").iterdir())[::10]:
        put(tmp_path / "set/Annotations" / xml.name, xml.read_bytes())
        put(
            tmp_path / f"set/JPEGImages/{xml.stem}.jpg",
            (bccd / f"JPEGImages/{xml.stem}.jpg").read_bytes(),
        )
    to(tmp_path / "set", tmp_path / "coco", "coco")
    to(tmp_path / "coco", tmp_path / "yolo", "yolo")
    done = to(tmp_path / "yolo", tmp_path / "voc", "voc")
    assert done.images == 37 and done.boxes > 400 and not done.lost

    def boxes(root: Path, places: int) -> dict:
        reader = open_reader(Folder(root), "voc", Findings.with_policies({}))
        return {
            (Path(image.name).stem, image.split): [
                (row.name, *(round(v, places) for v in row.box)) for row in image.rows
            ]
            for image in reader
        }

    assert boxes(tmp_path / "voc", 3) == boxes(tmp_path / "set", 3)


@pytest.mark.parametrize("source", MAKERS)
@pytest.mark.parametrize("format", writable())
def test_every_format_that_is_read_can_be_converted(source, format, tmp_path):
    """And preparing either gives the same dataset: one digest."""
    MAKERS[source](tmp_path / "set")
    put(tmp_path / "d.yaml", "name: x\npath: set\nnames: [cat, dog]\n")
    done = to(tmp_path / "d.yaml", tmp_path / "out", format)
    assert (done.images, done.boxes, done.names) == (
        len(CONTENT),
        sum(map(len, CONTENT.values())),
        tuple(NAMES),
    )
    put(tmp_path / "e.yaml", "name: x\npath: out\nnames: [cat, dog]\n")
    digests = {
        prepare(
            load_description(tmp_path / file), tmp_path / file[0], DataConfig(source=file)
        ).info["digest"]
        for file in ("d.yaml", "e.yaml")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("format", writable())
def test_real_numbers_are_rounded_once(format, tmp_path):
    """Prepared as it is and prepared as converted, a dataset has one digest, whatever digits its
    tool wrote.
    """
    random = np.random.default_rng(3)
    content = {}
    for name in CONTENT:
        corners = random.uniform((1, 1), (W / 2, H / 2), (40, 2))
        rows = np.concatenate(
            (corners, corners + random.uniform(2, (W / 2 - 1, H / 2 - 1), (40, 2))), 1
        )
        content[name] = [("cat", tuple(row)) for row in rows.tolist()]
    make_coco(tmp_path / "set", content)
    put(tmp_path / "d.yaml", "name: x\npath: set\nnames: [cat, dog]\n")
    put(tmp_path / "e.yaml", "name: x\npath: out\nnames: [cat, dog]\n")
    to(tmp_path / "d.yaml", tmp_path / "out", format)
    one, other = (
        prepare(load_description(tmp_path / f), tmp_path / f[0], DataConfig()).info
        for f in ("d.yaml", "e.yaml")
    )
    assert one["digest"] == other["digest"]


def test_a_prepared_dataset_can_be_converted(tmp_path):
    prepare(
        load_description(make_coco(tmp_path / "set")),
        tmp_path / "prepared",
        DataConfig(source="set"),
    )
    to(tmp_path / "prepared", tmp_path / "out", "voc")
    findings = Findings.with_policies({})
    found = {
        Path(i.name).stem: (i.split, [(r.name, r.box) for r in i.rows])
        for i in open_reader(Folder(tmp_path / "out"), None, findings)
    }
    assert found == {name: (SPLIT_OF[name], boxes) for name, boxes in CONTENT.items()}


# --- what a format can hold -----------------------------------------------------------------------


def flagged(root: Path) -> Path:
    """COCO with a crowd box in `b`."""
    make_coco(root)
    file = root / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["iscrowd"] = 1
    put(file, json.dumps(content))
    return root


def test_crowds_stay_in_coco_and_are_left_out_and_counted_elsewhere(tmp_path):
    flagged(tmp_path / "set")
    assert to(tmp_path / "set", tmp_path / "coco", "coco").lost == {}
    content = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 1, 0, 0]
    for format in ("voc", "yolo"):
        done = to(tmp_path / "set", tmp_path / format, format)
        assert done.lost == {"crowd boxes": 1} and done.boxes == 5
    assert (tmp_path / "yolo/labels/train/b.txt").read_text().count("\n") == 1


def test_boxes_that_were_written_are_not_kept_in_memory(tmp_path):
    count, writer = 120, KINDS["coco"].write(tmp_path, NAMES)
    rows = tuple(Row(NAMES[k % 2], (k, 1.5, k + 9.25, 20), crowd=k == 7) for k in range(100))
    tracemalloc.start()
    for number in range(count):
        writer.add(Labelled(f"{number}.png", (32, 64), rows, b"x", "train"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"], (
        "nothing with a name waits beside the images"
    )
    writer.close()
    content = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert [each["id"] for each in content["annotations"]] == list(
        range(1, 100 * count + 1)
    ) and len(content["images"]) == count
    assert content["annotations"][107] == {
        "id": 108,
        "image_id": 2,
        "category_id": 2,
        "bbox": [7, 1.5, 9.25, 18.5],
        "area": 171.125,
        "iscrowd": 1,
    }
    assert peak < 4 << 20, f"{peak} bytes for {100 * count} boxes"


def test_difficult_stays_in_voc_and_is_counted_elsewhere(tmp_path):
    make_voc(tmp_path / "set")
    text = voc_xml("a", CONTENT["a"]).replace(
        "<name>cat</name>", "<name>cat</name><difficult>1</difficult>"
    )
    put(tmp_path / "set/Annotations/a.xml", text)
    assert to(tmp_path / "set", tmp_path / "voc", "voc").lost == {}
    assert "<difficult>1</difficult>" in (tmp_path / "voc/Annotations/a.xml").read_text()
    for format in ("coco", "yolo"):
        done = to(tmp_path / "set", tmp_path / format, format)
        assert done.lost == {"the mark `difficult`": 1} and done.boxes == 6


def test_what_is_written_by_hand(tmp_path):
    make_yolo(tmp_path / "set", {"a": [("dog", (4.5, 2, 20, 30))], "d": []})
    to(tmp_path / "set", tmp_path / "coco", "coco")
    content = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert content == {
        "images": [{"id": 1, "file_name": "a.png", "height": H, "width": W}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2,
                "bbox": [4.5, 2, 15.5, 28],
                "area": 434,
                "iscrowd": 0,
            }
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    to(tmp_path / "coco", tmp_path / "yolo", "yolo")
    assert (
        tmp_path / "yolo/labels/train/a.txt"
    ).read_text() == "1 0.19140625 0.5 0.2421875 0.875\n"
    assert (
        tmp_path / "yolo/data.yaml"
    ).read_text() == "train: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
    to(tmp_path / "yolo", tmp_path / "voc", "voc")
    text = (tmp_path / "voc/Annotations/a.xml").read_text()
    assert "<bndbox><xmin>4.5</xmin><ymin>2</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>" in text
    assert (tmp_path / "voc/ImageSets/Main/val.txt").read_text() == "d\n"


def test_images_of_one_name_get_names_of_their_own(tmp_path):
    for place in ("left", "right"):
        for suffix in (".png", ".jpg"):
            put(
                tmp_path / f"set/JPEGImages/{place}{suffix[1:]}/x{suffix}",
                image_bytes(place, suffix=suffix),
            )
            text = voc_xml("x", [("cat", (1, 1, 9, 9))]).replace(".png", suffix)
            put(tmp_path / f"set/Annotations/{place}{suffix[1:]}/x.xml", text)
    done = to(tmp_path / "set", tmp_path / "out", "yolo")
    assert done.images == 4 == len(list((tmp_path / "out/labels").glob("*.txt")))
    assert sorted(p.stem for p in (tmp_path / "out/images").iterdir()) == ["x", "x-2", "x-3", "x-4"]


def test_an_image_may_be_called_like_a_list(tmp_path):
    make_voc(
        tmp_path / "set",
        {name: [("cat", (1, 1, 9, 9))] for name in ("train", "classes", "readme")},
        lists=False,
    )
    to(tmp_path / "set", tmp_path / "yolo", "yolo")
    assert to(tmp_path / "yolo", tmp_path / "voc", "voc").boxes == 3


# --- the source, the target -----------------------------------------------------------------------


def test_the_source_is_only_read(tmp_path):
    make_voc(tmp_path / "set")
    before = tree(tmp_path / "set")
    folders = [tmp_path / "set", *(p for p in (tmp_path / "set").rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        to(tmp_path / "set", tmp_path / "out", "coco")
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)
    assert tree(tmp_path / "set") == before


def test_the_target_is_never_the_source_nor_something_that_is_there(tmp_path):
    make_voc(tmp_path / "set")
    with pytest.raises(DataError, match="lies in the dataset"):
        to(tmp_path / "set", tmp_path / "set" / "coco", "coco")
    os.symlink(tmp_path / "set", tmp_path / "link")
    with pytest.raises(DataError, match="lies in the dataset"):
        to(tmp_path / "set", tmp_path / "link" / "coco", "coco")
    put(tmp_path / "mine/letter.txt", "dear")
    for target in (tmp_path / "mine", tmp_path / "mine/letter.txt", tmp_path / "link"):
        with pytest.raises(DataError, match="is there already and is not overwritten"):
            to(tmp_path / "set", target, "coco")
    assert tree(tmp_path / "mine") == {"letter.txt": b"dear"}
    (tmp_path / "empty").mkdir()
    assert to(tmp_path / "set", tmp_path / "empty", "coco").images == 6


def test_a_refused_dataset_leaves_nothing(tmp_path):
    make_voc(tmp_path / "set")
    put(tmp_path / "set/Annotations/b.xml", "<annotation>")
    with pytest.raises(DataError, match="Annotations/b.xml: not well-formed XML"):
        to(tmp_path / "set", tmp_path / "out", "coco")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]
    done = to(
        tmp_path / "set", tmp_path / "out", "coco", policies={"unreadable_annotation": "drop"}
    )
    assert done.images == 5 and done.findings.counts == {
        "unreadable_annotation": 1,
        "unlabelled_image": 1,
    }


def test_what_cannot_be_written_is_said(tmp_path):
    make_coco(tmp_path / "set")
    file = tmp_path / "set/annotations/instances_train2017.json"
    put(file, file.read_text().replace('"cat"', '"c\\u0001t"'))
    with pytest.raises(DataError, match="holds a character that XML cannot"):
        to(tmp_path / "set", tmp_path / "out", "voc")
    make_voc(tmp_path / "empty", {"a": []}, lists=False)
    with pytest.raises(DataError, match="YOLO numbers its classes, and there are none"):
        to(tmp_path / "empty", tmp_path / "out", "yolo")
    assert to(tmp_path / "empty", tmp_path / "coco", "coco").images == 1
    with pytest.raises(ConfigError, match="no writer for 'coc'. Did you mean 'coco'"):
        to(tmp_path / "set", tmp_path / "out", "coc")


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_what_it_did(tmp_path, monkeypatch, capsys):
    flagged(tmp_path / "set")
    put(tmp_path / "set/images/new.png", image_bytes("new"))
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "data=set", "format=yolo", "out=out"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 x image without annotation (drop: the image is left out); first: images/new.png: is in "
        "no JSON file",
        "yolo has no place for 1 x crowd boxes: left out",
        "6 images, 5 boxes, 2 classes as yolo in out/",
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["data=set", "format=coco"], 2, "convert: no out given, for example out=converted/"),
        (["data=set", "out=out", "format=cooc"], 2, "no writer for 'cooc'. Did you mean 'coco'"),
        (["data=set", "fromat=coco", "out=out"], 2, "unknown key 'fromat'. Did you mean 'format'"),
        (["data=set", "format=coco", "out=out", "path.x=1"], 2, "path: Input should be a valid st"),
        (
            ["data=set", "format=coco", "out=out", "policies.missing_siz=fix"],
            2,
            "Did you mean 'missing_size'",
        ),
        (["data=nowhere", "format=coco", "out=out"], 1, "nowhere: no such description or folder"),
        (["data=set", "format=coco", "out=set"], 1, "set: is there already"),
    ],
)
def test_wrong_words_are_one_message(words, code, message, tmp_path, monkeypatch, capsys):
    make_voc(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *words]) == code
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()
