"""The checks of a whole dataset, what a model says against labels, and the report: table, values,
page.
"""

from __future__ import annotations

import html
import html.parser
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_builders import CONTENT, coco_json, image_bytes, make_voc, put, tree, voc_xml
from detectors import save_detector
from test_duplicates import scene

from engine.cli import main
from engine.config import DataConfig
from engine.data.manifest import load_prepared
from engine.datasets.description import load_description
from engine.datasets.findings import KINDS, SEVERITIES, Findings
from engine.datasets.label_errors import SURE
from engine.datasets.prepare import prepare
from engine.datasets.reports.check_report import report_page, report_text, report_values, verdict
from engine.datasets.reports.html_page import Page
from engine.datasets.reports.html_page import crop_jpeg as draw
from engine.datasets.scan import Examination, examine
from engine.detect import DetectionPredictor
from engine.errors import DataError
from engine.types import SPLITS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def caches_stay_in_the_test(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_STATE", str(tmp_path))


def checked(source: Path, **settings) -> tuple[Examination, Findings]:
    findings = Findings.with_policies(settings.pop("policies", {}))
    return examine(
        load_description(source), DataConfig(source=str(source), **settings), findings
    ), findings


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


@pytest.fixture
def voc(tmp_path):
    return make_voc(tmp_path / "voc")


@pytest.fixture
def twins(voc):
    """Image a (in train) stands in val again, as d, out of focus; and once more in train, as c, a
    little brighter.
    """
    image = scene(1)
    for name, pixels in (
        ("a", image),
        ("d", cv2.GaussianBlur(image, (0, 0), 1.5)),
        ("c", cv2.add(image, (9, 9, 9, 0))),
    ):
        put(voc / f"JPEGImages/{name}.png", png(pixels))
        put(voc / f"Annotations/{name}.xml", voc_xml(name, CONTENT[name], size=(96, 96)))
    return voc


# --- findings of the dataset ----------------------------------------------------------------------


def test_severity_follows_the_policy():
    findings = Findings.with_policies({"zero_area": "error"})
    assert findings.worst == ""
    for kind, severity in (
        ("class_imbalance", "note"),
        ("duplicate_box", "warning"),
        ("zero_area", "error"),
    ):
        findings.add(kind, "x", "y")
        assert findings.severity(kind) == findings.worst == severity
    assert SEVERITIES == ("error", "warning", "note")


def test_near_duplicates_within_a_split_and_across_given_ones(twins):
    _, findings = checked(twins)
    assert findings.counts["near_leak"] == 1 and findings.counts["near_duplicate"] == 1
    leak, near = findings.examples["near_leak"][0], findings.examples["near_duplicate"][0]
    assert {leak.image, leak.other} < {
        f"JPEGImages/{n}.png" for n in "acd"
    } and "(in train) is nearly the same as" in str(leak)
    assert {near.image, near.other} == {"JPEGImages/a.png", "JPEGImages/c.png"}
    assert "near_leak" not in checked(twins, near_duplicate_bits=0)[1].counts


def test_what_the_policies_of_near_duplicates_do(twins, tmp_path):
    def left(**policies) -> dict[str, str]:
        found, _ = checked(twins, policies=policies)
        return {Path(record.name).stem: record.split for record in found.records}

    everything = {"a": "train", "b": "train", "c": "train", "f": "train", "d": "val", "e": "test"}
    assert left() == everything
    assert left(near_leak="drop") == {
        name: side for name, side in everything.items() if name not in "ac"
    }
    dropped = left(near_duplicate="drop")
    assert len(dropped) == 5 and dropped["d"] == "val" and ("a" in dropped) != ("c" in dropped)
    with pytest.raises(DataError, match="nearly the same image in two given splits"):
        prepare(
            load_description(twins), tmp_path / "out", DataConfig(policies={"near_leak": "error"})
        )


def test_near_duplicates_never_part_when_splits_go_by_content(tmp_path):
    content = {f"{i}{twin}": [("cat", (1, 1, 9, 9))] for i in range(20) for twin in "ab"}
    root = make_voc(tmp_path / "voc", content, lists=False)
    for name in content:
        image = scene(int(name[:-1]))
        put(
            root / f"JPEGImages/{name}.png",
            png(cv2.GaussianBlur(image, (0, 0), 1.0) if name.endswith("b") else image),
        )
        put(root / f"Annotations/{name}.xml", voc_xml(name, content[name], size=(96, 96)))
    found, findings = checked(root)
    sides = {Path(record.name).stem: record.split for record in found.records}
    assert all(sides[f"{i}a"] == sides[f"{i}b"] for i in range(20)) and set(sides.values()) == set(
        SPLITS
    )
    assert findings.counts["near_duplicate"] == 20


def test_tiny_boxes(voc, tmp_path):
    put(
        voc / "Annotations/a.xml", voc_xml("a", [("cat", (4, 2, 20, 30)), ("dog", (8, 8, 9.5, 20))])
    )
    _, findings = checked(voc)
    assert findings.counts["tiny_box"] == 1 and "'dog' is 12 x 1.5 pixels (h x w)" in str(
        findings.examples["tiny_box"][0]
    )
    assert "tiny_box" not in checked(voc, tiny_box_px=1.5)[1].counts
    found, _ = checked(voc, policies={"tiny_box": "drop"})
    assert [len(r.boxes) for r in found.records if r.name.endswith("a.png")] == [1]


# --- the report -----------------------------------------------------------------------------------


class Reader(html.parser.HTMLParser):
    """Collects what a page would load, and whether its tags match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.sources += [
            value for key, value in attrs if key in ("src", "href", "data", "poster", "srcset")
        ]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_with_the_pictures_of_the_findings(twins):
    put(twins / "Annotations/b.xml", voc_xml("b", [("cat", (5, 5, 5, 5)), ("dog", (0, 0, 64, 32))]))
    found, findings = checked(twins)
    text = report_page("<twins> & co", found, findings)
    page = Reader(text)
    assert page.open == [] and "<twins>" not in text and "&lt;twins&gt; &amp; co" in text
    shown = [source for source in page.sources if not source.startswith("#")]
    assert all(source.startswith("data:image/jpeg;base64,") for source in shown)
    expected = {"zero_area": 1, "near_leak": 2, "near_duplicate": 2, "empty_image": 1}
    assert expected.keys() <= findings.counts.keys() and len(shown) == sum(expected.values())
    assert {source[1:] for source in page.sources if source.startswith("#")} == set(findings.counts)
    assert "http" not in text and "prefers-color-scheme:dark" in text and 'name="viewport"' in text


def test_one_sentence_says_whether_the_dataset_can_be_used(voc):
    found, _ = checked(voc)
    findings = Findings.with_policies({"near_leak": "error"})
    assert verdict(found, findings) == "Nothing was found."
    findings.add("zero_area", "a.xml", "x")
    assert verdict(found, findings) == "This dataset can be used. 1 warning."
    for _ in range(2):
        findings.add("class_imbalance", "", "x")
        findings.add("near_leak", "a.png", "x")
    assert verdict(found, findings) == (
        "This dataset would be refused: nothing is prepared until the errors are gone. 2 errors, "
        "1 warning, 2 notes."
    )


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"missing_image": "drop"}, "no image can be used: 6 x image that is not there"),
        ({"split_leak": "drop", "empty_split": "warn"}, "no image of 1 is left to train on"),
    ],
)
def test_a_dataset_that_prepare_refuses_cannot_be_used(
    settings, message, voc, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for file in [*(voc / "JPEGImages").iterdir()]:
        if "missing_image" in settings or file.stem != "d":
            file.unlink()
            if "missing_image" not in settings:
                (voc / f"Annotations/{file.stem}.xml").unlink()
    if "split_leak" in settings:
        for split in ("train", "val", "test"):
            put(voc / f"ImageSets/Main/{split}.txt", "d\n" if split == "val" else "")
    words = [f"policies.{kind}={policy}" for kind, policy in settings.items()]
    code, values = check(tmp_path, f"data={voc}", *words)
    assert (
        code == 1
        and values["severity"] == "error"
        and f"would be refused: {message}" in capsys.readouterr().out
    )
    assert f"would be refused: {message}" in (tmp_path / "report/report.html").read_text()
    with pytest.raises(DataError, match=message):
        prepare(load_description(voc), tmp_path / "out", DataConfig(policies=settings))


def test_a_dataset_without_any_image_cannot_be_used(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "set/a.json", json.dumps(coco_json({})))
    assert check(tmp_path, "data=set")[0] == 1
    assert (
        "This dataset would be refused: no image can be used: the dataset holds none."
        in capsys.readouterr().out
    )


def test_many_boxes_in_one_picture_stay_bright():
    """Their rims, dark so that few boxes show on any ground, would cover them."""
    image = np.full((340, 340, 3), 230, np.uint8)
    boxes = [
        ((x, y, x + 12, y + 12), 1, False) for x in range(10, 320, 30) for y in range(10, 320, 30)
    ]
    shown = cv2.imdecode(np.frombuffer(draw(image, boxes), np.uint8), cv2.IMREAD_COLOR)
    assert shown.max(2).min() > 120, "no black lines"


def test_a_name_with_a_line_end_stays_on_its_line():
    findings = Findings.with_policies({})
    findings.add("zero_area", "a\nb.xml", "'c\u2028d' \x1b[31m ä €")
    assert str(findings.examples["zero_area"][0]) == r"a\nb.xml: 'c\u2028d' \x1b[31m ä €"


@pytest.mark.parametrize(
    ("content", "said"), [("c", ", and their labels differ: 1 and 2 boxes"), ("b", "")]
)
def test_copies_whose_labels_differ_are_reported(content, said, tmp_path):
    root = make_voc(
        tmp_path / "voc", {"a": CONTENT["b"], "b": CONTENT[content], "d": CONTENT["d"]}, lists=False
    )
    for name in "ab":
        put(root / f"JPEGImages/{name}.png", image_bytes("a"))
    _, findings = checked(root)
    assert (
        str(findings.examples["duplicate_image"][0])
        == f"JPEGImages/b.png: is the same as JPEGImages/a.png{said}"
    )


def test_pictures_per_finding_are_limited(tmp_path):
    root = make_voc(
        tmp_path / "voc",
        {f"x{i}": [("cat", (5, 5, 5, 5)), ("cat", (1, 1, 9, 9))] for i in range(30)},
        lists=False,
    )
    found, findings = checked(root)
    assert len(findings.examples["zero_area"]) == 10, "memory stays flat, however much is wrong"
    findings = Findings.with_policies({}, keep=40)
    for i in range(45):
        findings.add(
            "zero_area",
            f"x{i % 30}.xml",
            f"number {i}",
            image=f"JPEGImages/x{i % 30}.png",
            boxes=((5, 5, 5, 5),),
        )
    text = report_page("many", found, findings)
    assert (
        text.count("<img") == 12
        and "number 31" in text
        and "number 32" not in text
        and "... and 13 more; report.json names the first 40" in text
    )
    assert len(report_values("many", found, findings)["findings"]["zero_area"]["examples"]) == 40


def test_a_box_is_drawn_where_it_is():
    image = np.full((100, 200, 3), 128, np.uint8)
    small = cv2.imdecode(
        np.frombuffer(draw(image, [((50, 20, 150, 80), 0, False)]), np.uint8), cv2.IMREAD_COLOR
    )
    assert small.shape[1] == 340 and small.shape[0] == 170
    reddish = (small[..., 2].astype(int) - small[..., 0]) > 80
    ys, xs = np.nonzero(reddish)
    assert np.allclose(
        [xs.min(), ys.min(), xs.max(), ys.max()], np.array([50, 20, 150, 80]) * 1.7, atol=3
    )


@pytest.mark.parametrize(
    "box",
    [(5, 5, 5, 5), (-30, -30, 500, 300), (199, 99, 400, 400), (300, 300, 310, 310), (20, 30, 4, 2)],
)
def test_any_box_can_be_drawn(box):
    assert draw(np.zeros((100, 200, 3), np.uint8), [(box, 0, True)], [box])[:2] == b"\xff\xd8"


def test_the_values_are_plain_and_the_same_everywhere(twins, tmp_path):
    found, findings = checked(twins)
    values = report_values("twins", found, findings)
    text = json.dumps(values)
    assert str(tmp_path) not in text and values["severity"] == "warning"
    assert (
        values["findings"]["near_leak"]["policy"] == "warn"
        and values["findings"]["near_leak"]["count"] == 1
    )
    assert list(values["findings"]) == sorted(
        values["findings"],
        key=lambda kind: (
            SEVERITIES.index(values["findings"][kind]["severity"]),
            list(KINDS).index(kind),
        ),
    )
    assert "near_leak" in report_text("twins", found, findings)


def test_each_refusal_of_check_ends_as_that_of_prepare_does(voc, tmp_path):
    """With what lets the dataset through; and it does."""
    put(voc / "Annotations/a.xml", voc_xml("a", [("cat", (20, 2, 4, 30)), ("cow", (1, 1, 9, 9))]))
    (voc / "JPEGImages/d.png").write_bytes(b"no image")
    found, findings = checked(voc)
    text, page = report_text("voc", found, findings), report_page("voc", found, findings)
    with pytest.raises(DataError) as refused:
        prepare(load_description(voc), tmp_path / "out", DataConfig(source=str(voc)))
    ways = [line.strip() for line in str(refused.value).split("\n") if "Next: " in line]
    errors = [kind for kind in findings.counts if findings.severity(kind) == "error"]
    assert len(ways) == len(errors) >= 3
    for kind, way in zip(sorted(errors, key=list(KINDS).index), ways, strict=True):
        assert f"{kind}: {KINDS[kind].what}\n    {findings.examples[kind][0]}\n    {way}\n" in text
        assert html.escape(way, quote=False) in html.unescape(page) or way in html.unescape(page)
        assert f"-S data.policies.{kind}=" in way
    policies = {kind: next(iter(set(KINDS[kind].choices()) - {"error"})) for kind in errors}
    assert checked(voc, policies=policies)[1].worst != "error"


def test_the_checks_of_check_are_those_of_prepare(twins, tmp_path):
    _, findings = checked(twins)
    report = prepare(load_description(twins), tmp_path / "out", DataConfig(source=str(twins)))
    assert report.findings.summary() == findings.summary()
    assert load_prepared(tmp_path / "out").counts["train"]["images"] == 4


def test_a_number_stands_to_the_right_and_text_is_escaped():
    page = Page("t")
    page.table(("a", "b"), [("<x>", 1200)])
    assert (
        '<td class="n">1,200</td>' in str(page)
        and "&lt;x&gt;" in str(page)
        and '<th class="n">b</th>' in str(page)
    )


# --- the command ----------------------------------------------------------------------------------


def check(tmp_path: Path, *words: str) -> tuple[int, dict]:
    code = main(["check", f"out={tmp_path / 'report'}", *words])
    return code, json.loads((tmp_path / "report/report.json").read_text())


def test_the_command(twins, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = tree(twins)
    code, values = check(tmp_path, f"data={twins}")
    out = capsys.readouterr().out
    assert code == 0 and values["severity"] == "warning" and tree(twins) == before
    assert "warning        1  near_leak" in out and "report.html" in out
    assert check(tmp_path, f"data={twins}", "policies.near_leak=error")[0] == 1
    (twins / "JPEGImages/b.png").unlink()
    code, values = check(tmp_path, f"data={twins}")
    assert (
        code == 1
        and values["severity"] == "error"
        and values["findings"]["missing_image"]["count"] == 1
    )
    assert (tmp_path / "report/report.html").read_text().startswith("<!doctype html>")


def test_a_clean_dataset_ends_with_zero_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = make_voc(tmp_path / "voc", {name: boxes for name, boxes in CONTENT.items() if boxes})
    assert check(tmp_path, f"data={root}") == (
        0,
        json.loads((tmp_path / "report/report.json").read_text()),
    )
    assert (
        "nothing found" in capsys.readouterr().out
        and "Nothing was found." in (tmp_path / "report/report.html").read_text()
    )


def test_a_dataset_of_which_nothing_is_left_still_gets_its_report(voc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in CONTENT:
        put(voc / f"JPEGImages/{name}.png", b"")
    code, values = check(tmp_path, f"data={voc}")
    assert (
        code == 1 and values["findings"]["unreadable_image"]["count"] == 6 and values["boxes"] == 0
    )


@pytest.mark.parametrize("lists", [("train",), ("train", "val", "test")])
def test_lists_that_name_no_image_leave_none_and_say_so(lists, voc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in (voc / "ImageSets/Main").iterdir():
        file.unlink()
    for split in lists:
        put(voc / f"ImageSets/Main/{split}.txt", "")
    code, values = check(tmp_path, f"data={voc}")
    assert code == 1 and values["findings"]["not_in_split"]["count"] == 6
    assert values["findings"]["empty_split"]["count"] == 3
    with pytest.raises(DataError, match="split train: has no images; 6 images can be used in all"):
        prepare(load_description(voc), tmp_path / "out", DataConfig())


def test_wrong_words(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 2 and main(["check", "data=x", "polices.zero_area=warn"]) == 2
    assert "Did you mean 'policies'" in capsys.readouterr().err
    assert main(["check", "data=nothing"]) == 1 and main(["check", "data=x", "path.y=1"]) == 2


def test_nothing_is_written_where_it_does_not_belong(twins, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "letter.md", "dear")
    before = tree(tmp_path)
    for words, code, message in (
        ([f"data={twins}", f"out={twins}"], 1, "lies in the dataset"),
        ([f"data={twins}", f"out={twins}/report"], 1, "lies in the dataset"),
        (
            [f"data={twins}", f"classes={twins}/classes.yaml"],
            1,
            "nothing is written; give another place as classes=",
        ),
        ([f"data={twins}", "out=letter.md"], 2, "letter.md is a file, not a folder"),
        ([f"data={twins}", "out=letter.md/a"], 2, "letter.md is a file, not a folder"),
        ([f"data={twins}", "out=/proc/x"], 1, "/proc/x: cannot be written"),
        (["data=[1]"], 1, "[1]"),
        ([f"data={twins}", "model=[1]"], 1, "[1]"),
        ([f"data={twins}", "workers=65"], 2, "workers: Input should be less than or equal to 64"),
    ):
        assert main(["check", *words]) == code, words
        assert message in capsys.readouterr().err
        assert {
            name: at for name, at in tree(tmp_path).items() if not name.startswith(".cache")
        } == before
    fixed = put(twins / "names.yml.txt", "names: [cat, dog]\n")
    assert main(["check", f"data={twins}", f"classes={fixed}"]) == 0, (
        "one that is there is only read"
    )


def test_a_dataset_that_is_the_current_folder_is_left_alone(voc, tmp_path, monkeypatch):
    monkeypatch.chdir(voc)
    monkeypatch.delenv("DETECTFLOW_STATE")
    before = tree(voc)
    assert (
        check(tmp_path, "data=.")[0] == 0 and tree(voc) == before and not (voc / ".cache").exists()
    )


def test_policies_of_the_project_count(twins, tmp_path, monkeypatch):
    project = tmp_path / "project"
    put(project / "dvc.yaml", "")
    put(project / "params.yaml", "data: {source: data/other.yaml, policies: {near_leak: error}}\n")
    monkeypatch.chdir(project)
    assert check(tmp_path, f"data={twins}")[0] == 1
    put(project / "data/other.yaml", "name: other\npath: ../../voc\n")
    assert check(tmp_path)[1]["dataset"] == "other"


def test_generated_images_are_in_the_page_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(
        tmp_path / "d.yaml",
        "name: d\nformat: generated\ngenerator: digits\noptions: {train: 3, val: 2, test: 2, "
        "size: 96}\n",
    )
    check(tmp_path, "data=d.yaml", "tiny_box_px=60")
    assert "data:image/jpeg" in (tmp_path / "report/report.html").read_text()
    assert list((tmp_path / ".cache/check").iterdir()) == []


def test_a_model_finds_the_labels_it_contradicts(tmp_path, monkeypatch, capsys):
    """Labels that are the model's own sure findings, two of them then spoilt: those and no others
    are found.
    """
    weights = save_detector(tmp_path / "m.pt", names=("cat", "dog"))
    names = [name for name in CONTENT if name != "f"]
    root = make_voc(tmp_path / "voc", {name: [] for name in names})
    for name in names:
        put(root / f"JPEGImages/{name}.png", png(scene(ord(name), 64)))
    monkeypatch.chdir(tmp_path)
    predictor = DetectionPredictor(
        {"model": str(weights), "conf": SURE, "save": False, "verbose": False}
    )
    labels = {}
    for result in predictor(str(root / "JPEGImages")):
        boxes = [(box.name, tuple(round(value, 2) for value in box.xyxy)) for box in result]
        labels[Path(result.source).stem] = boxes
        put(
            root / f"Annotations/{Path(result.source).stem}.xml",
            voc_xml(Path(result.source).stem, boxes, size=(64, 64)),
        )
    words = [f"data={root}", f"model={weights}", "policies.split_without_boxes=warn"]
    assert "label_error" not in check(tmp_path, *words)[1]["findings"]

    alone = [
        (name, k)
        for name, boxes in labels.items()
        for k, box in enumerate(boxes)
        if is_alone(box, boxes)
    ]
    (first, i), (second, j) = alone[0], next(place for place in alone if place[0] != alone[0][0])
    other = {"cat": "dog", "dog": "cat"}
    spoilt = {
        first: [
            (other[label] if k == i else label, box) for k, (label, box) in enumerate(labels[first])
        ],
        second: [box for k, box in enumerate(labels[second]) if k != j],
    }
    for name, boxes in spoilt.items():
        put(root / f"Annotations/{name}.xml", voc_xml(name, boxes, size=(64, 64)))
    found = check(tmp_path, *words)[1]["findings"]["label_error"]
    details = {Path(e["file"]).stem: e["detail"] for e in found["examples"]}
    label, missing = labels[first][i][0], labels[second][j][0]
    assert found["count"] == 2 and details.keys() == {first, second}
    assert details[first].startswith(f"labelled '{other[label]}', the model sees '{label}'")
    assert details[second].startswith(f"no label where the model sees '{missing}'")
    assert (
        main(
            [
                "check",
                f"data={root}",
                f"model={save_detector(tmp_path / 'x.pt', names=('ox', 'ass'))}",
            ]
        )
        == 2
    )
    assert "knows none of the dataset's classes" in capsys.readouterr().err


def is_alone(box: tuple, boxes: list[tuple]) -> bool:
    """Whether no other of `boxes` overlaps it: then it is certain what the model says about it."""
    (_, a) = box
    return not any(
        b is not a and min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])
        for _, b in boxes
    )


def test_bccd(bccd, tmp_path, monkeypatch, capsys):
    """What is known to be wrong with it, and nothing graver."""
    monkeypatch.chdir(tmp_path)
    code, values = check(tmp_path, f"data={ROOT / 'data/bccd.yaml'}", f"path={bccd}")
    found = values["findings"]
    assert code == 0 and [
        found[kind]["count"] for kind in ("zero_area", "duplicate_box", "near_leak")
    ] == [2, 7, 1]
    assert [e["file"] for e in found["zero_area"]["examples"]] == [
        f"Annotations/BloodImage_00{n}.xml" for n in (338, 343)
    ]
    leak = found["near_leak"]["examples"][0]
    assert "00038" in leak["file"] and "00037" in leak["detail"] and "24 of 256" in leak["detail"]
    assert (tmp_path / "report/report.html").stat().st_size < 2_000_000


def test_names_with_anything_in_them_do_no_harm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'a"><script>alert(1)</script>'.replace("/", "_")
    root = make_voc(tmp_path / "voc", {name.replace("<", "(").replace(">", ")"): []}, lists=False)
    for file in [*root.rglob("*.xml")]:
        put(
            file,
            voc_xml("x", [("<b>cat</b>".replace("<", "&lt;").replace(">", "&gt;"), (5, 5, 5, 5))]),
        )
        file.rename(file.with_name("x.xml"))
    put(root / "JPEGImages/x.png", image_bytes("a"))
    check(tmp_path, f"data={root}")
    text = (tmp_path / "report/report.html").read_text()
    assert "<script" not in text and "<b>cat" not in text and Reader(text).open == []
