"""The page of a run: what it says, that it is whole, safe, readable, and made whatever is missing."""

import dataclasses
import itertools
import json
import re
from html.parser import HTMLParser

import pytest
import sample_reports as reports

from engine.datasets.reports.html_page import STYLE
from engine.metrics.paired import compare
from engine.report.card import card_of
from engine.report.facts import collect
from engine.report.page import HERE, page_of
from engine.report.publish import write_report

VOID = {"meta", "img", "br", "line", "path", "rect", "link"}
TOLD = "Not in this report"


class Page(HTMLParser):
    """Elements in their order, the text of each section, and whether tags are balanced."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.unbalanced = [], [], []
        self.texts = {"": ""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag not in VOID:
            parts = {"section", "footer", "script", "style"}
            inner = given.get("id", tag) if tag in parts else self.section
            self.open.append((tag, inner))
            self.texts.setdefault(inner, "")

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        self.handle_data(" ")  # between cells, say
        if not self.open or self.open.pop()[0] != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.texts[self.section] += data

    @property
    def section(self):
        return self.open[-1][1] if self.open else ""

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def text(self, section):
        return " ".join(self.texts[section].split())


def page(root) -> Page:
    made = Page(page_of(collect(root, ask=False)))
    assert not made.open and not made.unbalanced
    return made


@pytest.fixture
def whole(tmp_path):
    return reports.write_all(tmp_path)


def test_verdict_and_reasons_come_first_then_every_section(whole):
    found = page(whole)
    head = found.text("")
    assert head.index("Promoted") < head.index("cars version 2 is the champion, instead of version")
    assert head.index("instead of version 1") < head.index("it is not worse.")
    assert [each["id"] for each in found.all("section")] == (
        "why metrics comparison gained classes curves confusion errors thresholds data file origin"
    ).split()
    assert TOLD not in found.text("footer")
    assert "not_worse PROMOTE not worsedo this" in found.text("why")
    assert "These test images have decided 3 times before." in found.text("why")


def test_the_intervals_are_those_of_the_bootstrap(whole):
    table, found = reports.matches(), page(whole)
    own = compare(None, table).mean["AP50-95"]
    assert own.low < table.mean_ap() < own.high
    line = f"mAP50-95 {table.mean_ap():.3f} {own.low:.3f} to {own.high:.3f}"
    assert line in found.text("metrics")
    pair = compare(reports.matches(hits=(0.5, 0.6)), table)
    car, mean = pair.classes["AP50-95"]["car"], pair.mean["AP50-95"]
    for each, name in ((mean, "mean AP50-95"), (car, "car")):
        span = f"{100 * each.low:+.1f} to {100 * each.high:+.1f}".replace("-", "−")
        line = f"{name} {100 * each.value:+.1f} {span} {100 * each.better:.0f} % "
        assert line + f"{each.a:.3f} {each.b:.3f}" in found.text("comparison")
    assert "precision 0.750" in found.text("metrics") and "mAP-large" not in found.text("metrics")


def test_a_mark_says_better_or_worse_only_where_the_interval_does(whole):
    decision = json.loads((whole / "reports/decision.json").read_text())
    sure = {"a": 0.5, "b": 0.4, "low": -0.2, "high": -0.05, "metric": "AP50-95", "boxes": 3}
    unsure = {**sure, "high": 0.01}
    decision["classes"]["AP50-95"] = {"x": {**sure, "of": "x"}, "y": {**unsure, "of": "y"}}
    reports.write(whole, "reports/decision.json", decision)
    text = page_of(collect(whole, ask=False))
    rows = {name: text[text.index(f">{name}</td>") :].split("</tr>")[0] for name in "xy"}
    assert "dot loss" in rows["x"] and "n strong error" in rows["x"]
    assert "loss" not in rows["y"] and "error" not in rows["y"]


def test_errors_thresholds_data_file_and_origin_say_what_was_recorded(whole):
    found = page(whole)
    errors = found.text("errors")
    assert errors.index("missed") < errors.index("duplicate") and "12.34" in errors
    assert "Significantly worse than the other images: brightness dark (< 60)." in errors
    assert errors.index("brightness: dark (< 60)") < errors.index("blur: sharp")
    assert "test/001.jpg: 0 missed, 1 false alarm" in errors  # its image is gone
    assert "missing box: car, score 0.97" in errors
    thresholds = found.text("thresholds")
    assert "car 0.310 0.880 0.800 to 0.950 0.810 0.700 to 0.900 0.840 30" in thresholds
    assert "from 0.083 to 0.021 on test" in thresholds and "precision>=0.9" in thresholds
    data = found.text("data")
    said = "In the data since cars/1, train: 1 image added, 2 removed, 1 to another split, 1 with "
    said += "other labels; val: 1 image from another split; test: 1 image added."
    assert said in data and said in found.text("gained")
    assert "train 3 1 2 0 1 1" in data and "val 0 0 0 1 0 0" in data and "test 1 1 0 0 0 0" in data
    assert "Test images that did not count: 2 (mirrored copy in train)." in data
    assert "near duplicate 3 warn" in data and "train 5 10" in data
    file = found.text("file")
    assert "2.5 kB" in file and "scores by at most 1.2e-06" in file
    assert "33 detections, the same on both sides (8 images: images of the dataset)" in file
    assert "7.2 ms an image (median of 30" in file
    assert "12, best: 7" in found.text("origin") and "yolov8n" in found.text("origin")


def test_what_was_gained_and_lost_by_class_and_image(whole):
    found = page(whole)
    text = found.text("gained")
    assert "cars/2 finds 10 that cars/1 missed, and misses 5 that cars/1 found." in text
    assert "Of 30 images, 9 are better now and 1 worse." in text
    assert "Gained most: car (+7). Lost most: truck (−2)." in text
    assert "all classes 60 10 5 32 37 11 5" in text and "truck 30 1 3 18 16 0 1" in text
    assert "car 30 9 2 14 21 11 4" in text and "(0.41 and 0.38)" in text
    assert "missed 30.00 12.34 22 15" in text
    change = "before 2 missed, 1 false alarm; now 0 missed, 0 false alarms"
    assert "Images that gained most: 1 of 9" in text and "Images that lost most test/0" in text
    alts = [each["alt"] for each in found.all("img")]
    assert f"test/000.jpg: labels, before, now. {change}" in alts
    assert sum("labels, before, now" in alt for alt in alts) == 2


def test_images_without_pictures_are_told_in_words(whole):
    import shutil

    shutil.rmtree(whole / "reports/compare/images")
    text = page(whole).text("gained")
    assert "Images that gained most: 2 of 9" in text
    assert "test/007.jpg: before 2 missed, 1 false alarm; now 0 missed, 0 false alarms" in text


def test_a_pair_of_other_models_is_not_taken_for_the_decisions(whole):
    reports.write(whole, "reports/compare/errors.json", reports.pair() | {"a": "cars/7"})
    found = page(whole)
    assert "gained" not in [each["id"] for each in found.all("section")]
    assert "#gained" not in [each["href"] for each in found.all("a")]


def test_without_lists_of_images_the_training_images_are_counted(whole):
    (whole / f".cache/models/{reports.CHAMPION}/images.csv").unlink()
    data = page(whole).text("data")
    assert "Training images since cars/1: 1 added, 2 removed, 4 kept." in data


def test_what_came_back_from_tasks_is_counted(whole):
    assert "detectflow tasks" not in page(whole).text("gained")
    head = "image,source,why,score,detail,sha256\n"
    for kind, images in (("relabel", (1, 3, 9)), ("label", (0, 5, 77))):  # 3; 0 and 5
        rows = "".join(f"a.jpg,a.jpg,hard,1.0,x,{i:064d}\n" for i in images)
        reports.write(whole, f"runs/tasks/{kind}/tasks.csv", head + rows)
    said = "Of these, tasks of detectflow tasks: 1 image with corrected labels, 2 images newly"
    assert said in page(whole).text("gained").replace("`", "")
    assert said in card_of(collect(whole, ask=False)).replace("\\`", "")


def test_the_page_says_of_which_moment_it_is(whole):
    said = "As of 2026-11-30 08:12 UTC. What came after: detectflow history cars"
    assert said in page(whole).text("") and said in card_of(collect(whole, ask=False))
    values = json.loads((whole / "reports/registration.json").read_text())
    del values["at"]
    reports.write(whole, "reports/registration.json", values)
    assert "As stage register found it. What came after" in page(whole).text("")


def test_one_is_no_plural(whole):
    decision = json.loads((whole / "reports/decision.json").read_text())
    decision |= {"decided_before": 1, "images": 1, "groups": 1}
    reports.write(whole, "reports/decision.json", decision)
    found = page(whole)
    assert "These test images have decided once before." in found.text("why")
    assert "both measured on 1 test image, 2 left out" in found.text("comparison")


def test_a_goal_that_is_not_reached_is_told(whole):
    path = "reports/validate/operating_point.json"
    values = json.loads((whole / path).read_text())
    values["classes"][0]["reached"], values["classes"][1]["reached"] = True, False
    reports.write(whole, path, values)
    assert "The goal is not reached for truck:" in page(whole).text("thresholds")


def test_the_latency_of_a_pair_is_the_one_that_the_gate_measured(whole):
    decision = json.loads((whole / "reports/decision.json").read_text())
    decision["latency_ms"] = {"a": 8.0, "b": 6.25, "low": -2.0, "high": -1.5}
    reports.write(whole, "reports/decision.json", decision)
    said = "6.2 ms an image, the champion 8.0 ms, measured in turns on one machine"
    assert said in page(whole).text("file") and said in card_of(collect(whole, ask=False))


def test_the_confusion_matrix_is_a_table_with_counts(whole):
    found = page(whole)
    text = found.text("confusion")
    assert "car 27 1 2" in text and "truck 18 12" in text and "background 10" in text
    assert [float(a["style"][4:]) for a in found.all("td") if a.get("style")] == [
        *(0.9, 0.033, 0.067),
        *(0, 0.6, 0.4),
    ]


@pytest.mark.parametrize("verdict", ["HOLD", "REJECT"])
def test_held_and_rejected_say_who_stays_champion_and_what_to_do(whole, verdict):
    values = json.loads((whole / "reports/registration.json").read_text())
    advice = ["70 more images would settle it.", 'detectflow promote cars/2 --why "..."']
    values |= {"verdict": verdict, "aliases": ["challenger"], "advice": advice}
    reports.write(whole, "reports/registration.json", values)
    head = page(whole).text("")
    assert "cars version 2 is not the champion; version 1 is." in head
    assert all(each in head for each in advice) and verdict in head


@pytest.mark.parametrize("verdict", ["HOLD", "REJECT"])
def test_what_a_person_has_promoted_all_the_same_is_told_as_such(whole, verdict):
    facts = collect(whole, ask=False)
    facts.registration["verdict"] = verdict
    text = page_of(dataclasses.replace(facts, aliases={"champion": "2"}))
    head = Page(text).text("")
    assert "promoted since" in head and "cars version 2 is the champion" in head
    assert '<div class="banner ">' in text


def test_nothing_is_made_up_where_nothing_is_recorded(tmp_path):
    found = page(tmp_path)
    assert "No version has been registered from these reports yet." in found.text("")
    assert not found.all("section")
    for title in ("Metrics", "Curves", "Data", "Operating point", "Exported file"):
        assert f"{title}: not recorded." in found.text("footer")
    assert "None" not in found.text("") and "nan" not in found.text("footer").lower()
    card = card_of(collect(tmp_path, ask=False))
    assert "| " not in card and "None" not in card


@pytest.mark.parametrize("missing", sorted(["reports/train", "reports/validate", "data"]))
def test_what_is_missing_takes_nothing_else_along(whole, missing):
    import shutil

    shutil.rmtree(whole / missing)
    found = page(whole)
    assert "Promoted" in found.text("") and len(found.all("section")) >= 5


HARM = '<script>alert("1")</script>'
IMAGE = "a\"b'><img src=x onerror=alert(1)>.jpg"


def test_names_from_outside_are_text(tmp_path):
    reports.write_all(tmp_path, names=(HARM, "tr&uck|`x`"), image=IMAGE)
    found = page(tmp_path)
    assert len(found.all("script")) == 1 and HARM not in found.texts["script"]
    assert not any(
        key.startswith("on") or value == "x"
        for _, attrs in found.tags
        for key, value in attrs.items()
    )
    assert HARM in found.text("classes") and "tr&uck|`x`" in found.text("confusion")
    assert any(IMAGE in attrs["alt"] for attrs in found.all("img"))
    assert IMAGE in found.text("errors") and f"missing box: {HARM}" in found.text("errors")
    labels = [attrs.get("aria-label", "") for attrs in found.all("svg")]
    assert labels and found.texts["curves"].count(HARM) == 1  # the key of its curve
    card = card_of(collect(tmp_path, ask=False))
    assert "<script" not in card and "tr&amp;uck\\|\\`x\\`" in card
    rows = [line for line in card.splitlines() if "uck" in line and line.startswith("|")]
    assert rows and all(len(re.findall(r"(?<!\\)\|", row)) in {5, 6, 7} for row in rows)


def test_the_page_asks_no_network_and_needs_no_script(whole):
    text = page_of(collect(whole, ask=False))
    found = Page(text)
    assert not found.all("link") and not found.all("iframe")
    assert all(each["src"].startswith("data:image/") for each in found.all("img"))
    assert all(each["href"].startswith("#") for each in found.all("a"))
    assert not re.search(r"@import|url\(|https?:", text)
    assert "src" not in found.all("script")[0]


def test_who_does_not_see_it_can_read_it(whole):
    found = page(whole)
    assert found.all("html")[0]["lang"] == "en" and "viewport" in str(found.all("meta"))
    assert all(each.get("alt") for each in found.all("img"))
    for each in found.all("svg"):
        assert each.get("aria-hidden") == "true" or (each["role"], bool(each["aria-label"])) == (
            "img",
            True,
        )
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    linked = [each["href"][1:] for each in found.all("a")]
    assert linked[: len(ids)] == ids and set(linked[len(ids) :]) == {"data", "gained"}


def luminance(colour):
    """Relative luminance of WCAG 2.1."""
    digits = colour.lstrip("#")
    digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def colours(style, dark):
    found = {}
    for rule in re.finditer(r"(@media \(prefers-color-scheme:dark\)\{)?:root\{([^}]*)\}", style):
        if dark or not rule[1]:
            found |= dict(re.findall(r"--([\w-]+):(#\w+)", rule[2]))
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_texts_stand_out_from_their_ground(dark):
    style = (STYLE + (HERE / "style.css").read_text()).split("@media print")[0]
    known = colours(style, dark)
    for ink in ("ink", "soft", "error", "warning", "note", "good"):
        assert contrast(known[ink], known["paper"]) >= 4.5, ink
        assert contrast(known[ink], known["card"]) >= 4.5, ink
    for kind in ("good", "warning", "error"):  # the banner
        assert contrast(known[kind], known[f"{kind}-bg"]) >= 4.5, kind
        assert contrast(known["ink"], known[f"{kind}-bg"]) >= 7, kind
    for line in range(8):
        assert contrast(known[f"c{line}"], known["paper"]) >= 3, line


def test_many_large_images_make_no_large_page(whole):
    hardest = []
    for i in range(14):
        reports.picture(whole, f"reports/validate/errors/{i:03d}.png", (440, 440), noise=True)
        hardest.append({"image": f"{i}.png", "missed": 1, "picture": f"errors/{i:03d}.png"})
    values = {**reports.errors(), "hardest": hardest, "label_errors": hardest}
    reports.write(whole, "reports/validate/errors.json", values)
    text = page_of(collect(whole, ask=False))
    assert len(text) < 3_000_000
    found = Page(text)
    assert "images more, in reports/validate: the page would be too big" in found.text("footer")
    assert len(found.all("img")) >= 10


def test_an_image_outside_of_the_reports_is_not_shown(whole):
    reports.picture(whole, "secret.jpg")
    values = reports.errors()
    for each, path in zip(values["hardest"], ("../../secret.jpg", str(whole / "secret.jpg"))):
        each["picture"] = path
    reports.write(whole, "reports/validate/errors.json", values)
    pair = reports.pair()
    for each, path in zip(pair["gained"], ("../validate/errors/001.jpg", "../../secret.jpg")):
        each["picture"] = path
    reports.write(whole, "reports/compare/errors.json", pair)
    alts = [each["alt"] for each in page(whole).all("img") if "test/001.jpg" not in each["alt"]]
    assert not any("missed" in alt for alt in alts) and any("missing box" in alt for alt in alts)


BROKEN = {
    "reports/validate/errors.json": ["{", "[1]", '{"hardest": [1, 2]}', '{"error_types": 7}'],
    "reports/validate/operating_point.json": ["{", '{"classes": ["x"]}', '{"overall": 3}'],
    "reports/compare/errors.json": ["{", '{"a": "cars/1", "b": "cars/2", "classes": [1]}'],
    "reports/decision.json": ["{", '{"champion": {"name": 1}, "mean": 3, "findings": [3]}'],
    "reports/validate/per_class.csv": ["", "name,ap\ncar,much\n"],
    "reports/validate/confusion_matrix.csv": ["", "true,a,b\na,1\n", "true,a\na,x\n"],
    "reports/validate/matches.npz": ["no zip"],
    "reports/train/results.csv": ["", "epoch,train/box_loss\n1\n"],
    "reports/export.json": ['{"files": {"onnx": 3}}'],
    "reports/data.json": ["null"],
    "reports/registration.json": ["[]", '{"model": "cars", "version": 2, "latency": 3}'],
    "data/prepared/train.jsonl": ["{"],
}


@pytest.mark.parametrize(("path", "content"), [(p, c) for p in BROKEN for c in BROKEN[p]])
def test_a_damaged_file_costs_its_section_and_no_other(whole, path, content, caplog):
    reports.write(whole, path, content)
    facts = collect(whole, ask=False)
    found = Page(page_of(facts))
    assert not found.unbalanced and len(found.all("section")) >= 8
    assert card_of(facts).startswith("# Model card")
    if content == "{":
        assert path in found.text("footer")


def test_reports_about_other_weights_are_told_on_top(whole):
    origin = json.loads((whole / "reports/validate/origin.json").read_text())
    reports.write(whole, "reports/validate/origin.json", {**origin, "weights_sha256": "e" * 64})
    head = page(whole).text("")
    assert "different weights" in head and "validate eeeeeeeeeeee" in head
    assert "different weights" in card_of(collect(whole, ask=False))


def test_making_it_again_gives_the_same_bytes(whole, tmp_path):
    made = [
        [file.read_bytes() for file in write_report(whole, tmp_path / name, ask=False)]
        for name in ("one", "two")
    ]
    assert made[0] == made[1]


def test_the_card_says_the_same_numbers(whole):
    card = card_of(collect(whole, ask=False))
    table = reports.matches()
    assert f"| mAP50-95 | {table.mean_ap():.3f} |" in card
    assert "| missed | 12.34 | 15 |" in card and "| truck | 0.410 |" in card
    assert "brightness dark (&lt; 60): AP50 0.700 instead of 0.820" in card
    assert "train: 1 image added, 2 removed" in card and "CC0" in card
    assert "Of 60 boxes to find, cars/2 finds 10 that cars/1 missed, and misses 5" in card
    assert "**PROMOTE**: it is not worse" in card
