"""Boxes in another convention than their format's: refused, and called by their name, in every
format; honest boxes, also those at the edge and beyond it, are not.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_builders import put
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cli import main
from engine.config import DataConfig
from engine.datasets.conventions import (
    IN_WORDS,
    UNITS,
    Conventions,
    Reading,
    as_written,
    conventions_of,
    other_readings,
)
from engine.datasets.description import load_description
from engine.datasets.findings import Findings
from engine.datasets.formats import KINDS
from engine.datasets.formats.base import BoxNumbers, Row, SourceImage
from engine.datasets.prepare import prepare
from engine.datasets.scan import examine
from engine.errors import DataError

H, W = 120, 160
SIDES = np.array((W, H), float)
PER_SIDE = {"px": SIDES, "fraction": 1.0, "percent": 100.0, "thousandth": 1000.0}
KIND = "other_convention"


def boxes(rng, count: int, low: float = 0.1, high: float = 0.3, beyond: str = "") -> np.ndarray:
    """(count, 4) xyxy in fractions of the image. beyond: "all": centres anywhere, so that boxes
    leave on every side; "below": those of objects that stand on the lower edge.
    """
    sides = rng.uniform(low, high, (count, 2))
    centres = sides / 2 + rng.uniform(0, 1, (count, 2)) * (1 - sides)
    if beyond == "all":
        centres = rng.uniform(0, 1, (count, 2))
    elif beyond:
        centres[:, 1] = rng.uniform(0.6, 1, count)
    return np.concatenate((centres - sides / 2, centres + sides / 2), 1)


def written(box: np.ndarray, order: str, unit: str, swapped: bool = False) -> np.ndarray:
    """(n, 4) numbers, as somebody writes them who means this convention."""
    first, second = box[:, :2] * PER_SIDE[unit], box[:, 2:] * PER_SIDE[unit]
    if order == "xxyy":
        return np.stack((first[:, 0], second[:, 0], first[:, 1], second[:, 1]), 1)
    if order == "xywh":
        second = second - first
    elif order == "cxcywh":
        first, second = (first + second) / 2, second - first
    if swapped:
        first, second = first[:, ::-1], second[:, ::-1]
    return np.concatenate((first, second), 1)


# In memory: thousands of files in a moment ----------------------------------------------------------


def found(format: str, images: list[np.ndarray]) -> list[str]:
    """What is said of a dataset; images: (n, 4) numbers each, in the format's place."""
    counts, kind, own = conventions_of(format), KINDS[format], Reading(KINDS[format].numbers)
    fractions = kind.numbers.unit == "fraction"
    for number, raw in enumerate(images):
        low, high = own.corners(raw, SIDES)
        rows = tuple(
            Row("cup", tuple(box), line=line, written=tuple(raw[line - 1]))
            for line, box in enumerate(
                (np.concatenate((low, high), 1) * (1 if fractions else np.tile(SIDES, 2))).tolist(),
                1,
            )
        )
        size = None if fractions else (H, W)
        counts.add(
            SourceImage(f"{number}.jpg", rows, "all/x", fractions=fractions, size=size), (H, W)
        )
    findings = Findings.with_policies({})
    counts.report(findings)
    return [str(finding) for finding in findings.examples.get(KIND, [])]


def dataset(seed: int, images: int, each: int, **shape) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [boxes(rng, each, **shape) for _ in range(images)]


def wrongly(format: str) -> list[tuple[str, str, bool]]:
    return [
        (each.numbers.order, each.numbers.unit, each.swapped)
        for each in other_readings(KINDS[format].numbers)
    ]


def names(format: str) -> list:
    return [
        pytest.param(format, *each, id=f"{format}-{each[1]}-{each[0]}{'-swapped' * each[2]}")
        for each in wrongly(format)
    ]


WRONG = [case for format in sorted(KINDS) for case in names(format)]


@pytest.mark.parametrize("format, order, unit, swapped", WRONG)
def test_another_convention_is_refused_and_named(format, order, unit, swapped):
    """Thirty images of two boxes, small enough to lie anywhere."""
    named = 0
    for seed in range(5):
        raw = [written(box, order, unit, swapped) for box in dataset(seed, 30, 2)]
        said = found(format, raw)
        assert len(said) == 1, f"not refused with seed {seed}"
        named += f"look like {IN_WORDS[order]}" in said[0] and f"in {UNITS[unit]}:" in said[0]
    assert named >= (3 if swapped else 4)


STRONG = [
    pytest.param(format, each.numbers.order, each.numbers.unit)
    for format in sorted(KINDS)
    for each in other_readings(KINDS[format].numbers)
    if not each.weak  # one that honest boxes fit too: only a whole file of them shows it
]


@pytest.mark.parametrize("format, order, unit", STRONG)
def test_half_of_the_images_are_enough_where_most_boxes_show_it(format, order, unit):
    own = KINDS[format].numbers
    raw = [
        written(box, own.order, own.unit) if number % 2 else written(box, order, unit)
        for number, box in enumerate(dataset(3, 60, 2))
    ]
    assert len(found(format, raw)) == 1


shapes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 1 << 32),
        "images": st.integers(1, 60),
        "each": st.integers(1, 8),
        "low": st.floats(0.01, 0.3),
        "high": st.floats(0.3, 0.9),
    }
)


@pytest.mark.parametrize("format", sorted(KINDS))
@settings(max_examples=40, deadline=None)
@given(shape=shapes)
def test_honest_boxes_are_never_refused(format, shape):
    own = KINDS[format].numbers
    assert not found(format, [written(box, own.order, own.unit) for box in dataset(**shape)])


@pytest.mark.parametrize("beyond", ["all", "below"])
@pytest.mark.parametrize("format", sorted(KINDS))
@settings(max_examples=25, deadline=None)
@given(shape=shapes)
def test_nor_are_those_of_objects_that_go_on_beyond_the_edge(format, beyond, shape):
    """Drawn whole: up to a third of the boxes are cut."""
    own, shape = KINDS[format].numbers, {**shape, "high": min(shape["high"], 0.4), "images": 40}
    images = dataset(**shape, beyond=beyond)
    assert not found(format, [written(box, own.order, own.unit) for box in images])


def test_odd_boxes_that_fit_another_order_by_chance_do_not_go_together_as_it_does():
    """12 of 40 are cut, and fit as edges; hypothesis found it."""
    images = dataset(2000, 40, 1, low=0.0625, high=0.4, beyond="below")
    assert not found("yolo", [written(box, "cxcywh", "fraction") for box in images])


@pytest.mark.parametrize("format", sorted(KINDS))
def test_nor_is_one_large_box_an_image_or_the_whole_image(format):
    own = KINDS[format].numbers
    whole = [np.array([[0, 0, 1, 1]], float)] * 40
    for images in (whole, dataset(1, 60, 1, low=0.6, high=0.95)):
        assert not found(format, [written(box, own.order, own.unit) for box in images])


def test_labelmes_corners_may_be_drawn_from_either_end():
    """All from the lower right one, and all in the upper left quarter: sizes would fit as well."""
    images = [box / 2 for box in dataset(1, 18, 1)]
    assert not found("labelme", [written(box[:, [2, 3, 0, 1]], "xyxy", "px") for box in images])


def test_a_few_wrong_boxes_are_for_the_other_checks():
    images = [written(box, "xywh", "px") for box in dataset(1, 30, 2)]
    images[0] = written(dataset(2, 1, 3)[0], "xyxy", "px")
    assert not found("coco", images)


@pytest.mark.parametrize("share, refused", [(0.5, False), (0.9, True)])
def test_a_large_part_of_boxes_that_would_be_cut_is_refused_whatever_they_are(share, refused):
    rng = np.random.default_rng(1)
    images = dataset(1, 50, 2)
    for box in images:
        box += 2 * (rng.random((2, 1)) < share) * np.sign(rng.random((2, 1)) - 0.5)
    said = found("coco", [written(box, "xywh", "px") for box in images])
    assert bool(said) is refused and all("would be cut or left out" in text for text in said)


@pytest.mark.parametrize("count, refused", [(19, False), (24, True)])
def test_so_are_many_boxes_without_area(count, refused):
    images = dataset(1, 60, 1)
    for box in images[:count]:
        box[:, 2:] = box[:, :2]
    said = found("yolo", [written(box, "cxcywh", "fraction") for box in images])
    assert bool(said) is refused and all(f"{count} of 60 have no area" in text for text in said)


def test_each_folder_counts_for_itself_and_all_together_where_none_has_enough():
    counts = Conventions(BoxNumbers("cxcywh", "fraction"), by_file=False)
    rng = np.random.default_rng(1)
    own = Reading(BoxNumbers("cxcywh", "fraction"))

    def add(folder, order, images):
        for number in range(images):
            low, high = own.corners(written(boxes(rng, 2), order, "fraction"), SIDES)
            rows = tuple(Row("cup", tuple(b)) for b in np.concatenate((low, high), 1).tolist())
            counts.add(SourceImage("x.jpg", rows, f"{folder}/{number}.txt", fractions=True), (H, W))

    add("labels/one", "cxcywh", 40)
    add("labels/two", "xyxy", 20)
    findings = Findings.with_policies({})
    counts.report(findings)
    assert [finding.file for finding in findings.examples[KIND]] == ["labels/two"]
    counts = Conventions(BoxNumbers("cxcywh", "fraction"), by_file=False)
    for place in range(12):
        add(f"labels/{place}", "xyxy", 1)
    findings = Findings.with_policies({})
    counts.report(findings)
    assert [finding.file for finding in findings.examples[KIND]] == [""]


@pytest.mark.parametrize("format", sorted(KINDS))
def test_the_numbers_of_a_row_come_back(format):
    numbers = KINDS[format].numbers
    raw = written(boxes(np.random.default_rng(1), 5), numbers.order, numbers.unit)
    low, high = Reading(numbers).corners(raw, SIDES)
    unit = np.tile(PER_SIDE[numbers.unit] * np.ones(2), 2)
    box = np.concatenate((low, high), 1) * unit
    assert np.allclose(as_written(numbers, [Row("cup", (0, 0, 0, 0))] * 5, box), raw)


# On disk: through the readers -----------------------------------------------------------------------


def put_yolo(root: Path, stem: str, raw: np.ndarray) -> None:
    rows = "".join(f"0 {' '.join(f'{v:.6f}' for v in row)}\n" for row in raw.tolist())
    put(root / f"labels/{stem}.txt", rows)
    put(root / "data.yaml", "names: [cup]\n")


def put_voc(root: Path, stem: str, raw: np.ndarray) -> None:
    tags = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><name>cup</name><bndbox>"
        + "".join(f"<{tag}>{value:.4f}</{tag}>" for tag, value in zip(tags, row, strict=True))
        + "</bndbox></object>"
        for row in raw.tolist()
    )
    size = f"<size><width>{W}</width><height>{H}</height></size>"
    put(
        root / f"Annotations/{stem}.xml",
        f"<annotation><filename>{stem}.png</filename>{size}{objects}</annotation>",
    )


def put_labelme(root: Path, stem: str, raw: np.ndarray) -> None:
    shapes = [
        {"label": "cup", "shape_type": "rectangle", "points": [row[:2], row[2:]]}
        for row in raw.tolist()
    ]
    about = {"shapes": shapes, "imagePath": f"{stem}.png", "imageHeight": H, "imageWidth": W}
    put(root / f"images/{stem}.json", json.dumps({"flags": {}, **about}))


def put_coco(root: Path, stem: str, raw: np.ndarray) -> None:
    file = root / "annotations.json"
    if not file.exists():
        empty = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cup"}]}
        put(file, json.dumps(empty))
    content = json.loads(file.read_text())
    number = len(content["images"])
    content["images"].append({"id": number, "file_name": f"{stem}.png", "height": H, "width": W})
    for row in raw.round(3).tolist():
        identity = len(content["annotations"])
        content["annotations"].append(
            {"id": identity, "image_id": number, "category_id": 1, "bbox": row}
        )
    put(file, json.dumps(content))


def put_cvat(root: Path, stem: str, raw: np.ndarray) -> None:
    file = root / "annotations.xml"
    text = (
        file.read_text() if file.exists() else "<annotations><version>1.1</version></annotations>"
    )
    keys = ("xtl", "ytl", "xbr", "ybr")
    shapes = "".join(
        '<box label="cup" '
        + " ".join(f'{key}="{value:.3f}"' for key, value in zip(keys, row, strict=True))
        + "/>"
        for row in raw.tolist()
    )
    image = f'<image name="{stem}.png" width="{W}" height="{H}">{shapes}</image>'
    put(file, text.replace("</annotations>", f"{image}</annotations>"))


def put_studio(root: Path, stem: str, raw: np.ndarray) -> None:
    file = root / "export.json"
    tasks = json.loads(file.read_text()) if file.exists() else []
    regions = [
        {
            "type": "rectanglelabels",
            "to_name": "image",
            "original_width": W,
            "original_height": H,
            "value": {
                **dict(zip(("x", "y", "width", "height"), row, strict=True)),
                "rectanglelabels": ["cup"],
            },
        }
        for row in raw.tolist()
    ]
    task = {"id": len(tasks), "data": {"image": f"{stem}.png"}}
    put(file, json.dumps([*tasks, {**task, "annotations": [{"result": regions}]}]))


PUT = {
    "yolo": put_yolo,
    "voc": put_voc,
    "labelme": put_labelme,
    "coco": put_coco,
    "cvat": put_cvat,
    "labelstudio": put_studio,
}


def make(root: Path, format: str, order: str, unit: str, swapped: bool = False) -> Path:
    for number, box in enumerate(dataset(4, 20, 2)):
        pixels = np.random.default_rng(number).integers(0, 256, (H, W, 3), np.uint8)
        put(root / f"images/{number:02}.png", cv2.imencode(".png", pixels)[1].tobytes())
        PUT[format](root, f"{number:02}", written(box, order, unit, swapped))
    return root


@pytest.fixture(autouse=True)
def caches_stay_in_the_test(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))


def prepared(source: Path, target: Path, **policies):
    settings = DataConfig(source=str(source), policies=policies, find_crops=False)
    return prepare(load_description(source), target, settings).findings


@pytest.mark.parametrize("format", sorted(KINDS))
def test_every_reader_takes_its_own_convention(format, tmp_path):
    own = KINDS[format].numbers
    findings = prepared(make(tmp_path / "set", format, own.order, own.unit), tmp_path / "out")
    assert KIND not in findings.counts and "outside_image" not in findings.counts


@pytest.mark.parametrize(
    "format, order, unit",
    [
        ("coco", "xyxy", "px"),
        ("coco", "cxcywh", "px"),
        ("coco", "xywh", "fraction"),
        ("coco", "xyxy", "thousandth"),
        ("coco", "xyxy", "percent"),
        ("coco", "cxcywh", "percent"),
        ("voc", "xywh", "px"),
        ("voc", "xyxy", "fraction"),
        ("voc", "cxcywh", "fraction"),
        ("voc", "xyxy", "percent"),
        ("yolo", "xyxy", "fraction"),
        ("yolo", "xywh", "fraction"),
        ("yolo", "xyxy", "px"),
        ("cvat", "xywh", "px"),
        ("cvat", "xyxy", "fraction"),
        ("labelstudio", "xyxy", "percent"),
        ("labelstudio", "xywh", "fraction"),
        ("labelstudio", "cxcywh", "percent"),
        ("labelstudio", "xywh", "px"),
        ("labelstudio", "cxcywh", "fraction"),
        ("labelstudio", "xyxy", "fraction"),
        ("labelstudio", "xxyy", "fraction"),
        ("labelme", "xywh", "px"),
        ("labelme", "xyxy", "fraction"),
        ("labelme", "xywh", "thousandth"),
        ("labelme", "cxcywh", "thousandth"),
    ],
)
def test_through_every_reader_another_convention_is_refused_by_name(format, order, unit, tmp_path):
    source = make(tmp_path / "set", format, order, unit)
    with pytest.raises(DataError) as refused:
        prepared(source, tmp_path / "out")
    text = str(refused.value)
    named = f"look like {IN_WORDS[order]} in {UNITS[unit]}" in text
    assert named or "are these fractions?" in text or "are these pixels" in text, text
    if named:
        assert "-S data.policies.other_convention=warn" in text
    assert not (tmp_path / "out").exists()


def test_the_policy_lets_it_through_in_prepare_check_and_convert(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "set", "coco", "xyxy", "px")
    assert main(["check", "data=set"]) == 1
    said = capsys.readouterr().out
    assert f"{KIND}: boxes that are not written as" in said
    assert "annotations.json: read as upper left corner and size x, y, w, h in pixels" in said
    assert "-S data.policies.other_convention=warn" in said
    assert main(["convert", "data=set", "format=yolo", "out=yolo"]) == 1
    assert "they look like corners x1, y1, x2, y2 in pixels" in capsys.readouterr().err
    assert not (tmp_path / "yolo").exists()
    assert main(["check", "data=set", f"policies.{KIND}=warn"]) == 0
    assert main(["convert", "data=set", "format=yolo", "out=yolo", f"policies.{KIND}=warn"]) == 0
    assert prepared(tmp_path / "set", tmp_path / "out", **{KIND: "warn"}).counts[KIND] == 1


def test_swapped_corners_that_a_policy_mends_are_not_those_of_another_order(tmp_path):
    """`inverted_box=fix` is for corners in the wrong order, not for sizes in their place."""
    source = make(tmp_path / "set", "voc", "xywh", "px")
    with pytest.raises(DataError, match="look like upper left corner and size"):
        prepared(source, tmp_path / "out", inverted_box="fix")


def found_of(root: Path, **policies) -> Findings:
    findings = Findings.with_policies(policies)
    examine(load_description(root), DataConfig(source=str(root)), findings)
    return findings


def with_outlines(root: Path, change) -> Path:
    """A COCO file whose boxes are polygons, each its points as `change` has them."""
    make(root, "coco", "xywh", "px")
    content = json.loads((root / "annotations.json").read_text())
    for entry in content["annotations"]:
        x, y, w, h = entry.pop("bbox")
        points = [(x, y), (x + w, y), (x + w, y + h)]
        entry["segmentation"] = [[value for point in points for value in change(*point)]]
    put(root / "annotations.json", json.dumps(content))
    return root


@pytest.mark.parametrize(
    "change, wrong",
    [
        (lambda x, y: (x, y), ""),
        (lambda x, y: (100 * x / W, 100 * y / H), "points x, y in percent of the image"),
        (lambda x, y: (1000 * x / W, 1000 * y / H), "points x, y in thousandths of the image"),
        (lambda x, y: (y, x), "points x, y, y before x, in pixels"),
        (lambda x, y: (x + W, y), "40 of 40 would be cut or left out"),
    ],
)
def test_outlines_have_no_order_but_a_unit(change, wrong, tmp_path):
    """The numbers of the boxes around them were made here, their points were not."""
    said = found_of(with_outlines(tmp_path, change)).examples.get(KIND, [])
    assert [wrong in str(finding) for finding in said] == [True] * bool(wrong)


def test_outlines_in_fractions_beside_boxes_in_pixels(tmp_path):
    """All of them in fractions, the reader says so; here the boxes are as COCO has them."""
    with_outlines(tmp_path, lambda x, y: (x / W, y / H))
    content = json.loads((tmp_path / "annotations.json").read_text())
    for entry in content["annotations"][::2]:
        entry["bbox"] = [10, 10, 40, 30]
    put(tmp_path / "annotations.json", json.dumps(content))
    (said,) = found_of(tmp_path).examples[KIND]
    assert "20 of 20 boxes do not fit" in str(said)
    assert "they look like points x, y in fractions of the image" in str(said)


@pytest.mark.parametrize("format", sorted(KINDS))
def test_crowds_are_not_counted(format):
    numbers = KINDS[format].numbers
    counts, findings = conventions_of(format), Findings.with_policies({})
    scale = 1 if numbers.unit == "fraction" else W
    rows = tuple(Row("cup", (2 * scale, 0, 3 * scale, scale), crowd=True) for _ in range(40))
    counts.add(SourceImage("a.jpg", rows, "all/x", fractions=scale == 1, size=(H, W)), (H, W))
    counts.report(findings)
    assert not findings.counts


@settings(max_examples=40, deadline=None)
@given(shape=shapes)
@pytest.mark.parametrize("format", sorted(KINDS))
def test_honest_outlines_are_never_refused(format, shape):
    numbers = KINDS[format].numbers
    counts, findings = conventions_of(format), Findings.with_policies({})
    scale = np.ones(4) if numbers.unit == "fraction" else np.tile(SIDES, 2)
    for box in dataset(**shape):
        rows = tuple(Row("cup", tuple(each), outline=True) for each in (box * scale).tolist())
        fractions = numbers.unit == "fraction"
        counts.add(SourceImage("a.jpg", rows, "all/x", fractions=fractions), (H, W))
    counts.report(findings)
    assert not findings.counts


@pytest.mark.parametrize("format", ["voc", "cvat", "labelme", "coco", "yolo", "labelstudio"])
def test_mistaken_clicks_are_no_centres(format):
    """A box without area, [x, y, x, y], is one in every other order: no evidence of it."""
    images = dataset(1, 30, 3)
    for number, box in enumerate(images):
        if number % 3:
            box[0, 2:] = box[0, :2]
    own = KINDS[format].numbers
    assert not found(format, [written(box, own.order, own.unit) for box in images])


def test_label_studios_boxes_far_beyond_the_edge_are_cut_as_in_other_formats(tmp_path):
    own = KINDS["labelstudio"].numbers
    for number, box in enumerate(dataset(4, 20, 2, beyond="all", high=0.4)):
        pixels = np.random.default_rng(number).integers(0, 256, (H, W, 3), np.uint8)
        put(tmp_path / f"{number:02}.png", cv2.imencode(".png", pixels)[1].tobytes())
        put_studio(tmp_path, f"{number:02}", written(box, own.order, own.unit))
    findings = found_of(tmp_path)
    assert findings.counts["outside_image"] > 4 and "bad_entry" not in findings.counts
