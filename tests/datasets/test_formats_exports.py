"""Exports with everything that the tools put into them, as CVAT's and Label Studio's documentation
shows: all of it is known, and what is no box is passed over or named.
"""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest
from dataset_builders import CONTENT, MAKERS, SPLIT_OF, H, W, image_bytes, put
from reading import read, rows

from engine.cli import main
from engine.config import DataConfig
from engine.datasets.description import load_description
from engine.datasets.findings import Findings
from engine.datasets.formats import detect_format, open_reader
from engine.datasets.formats.folder import Folder
from engine.datasets.prepare import prepare

LABEL = """      <label>
        <name>{name}</name><color>#2080c0</color><type>any</type>
        <attributes>
          <attribute><name>colour</name><mutable>False</mutable><input_type>select</input_type>
            <default_value>red</default_value><values>red
blue</values></attribute>
        </attributes>
      </label>
"""
LABELS = (
    "<labels>\n"
    + "".join(LABEL.format(name=name) for name in ("car", "plate", "lane"))
    + "</labels>\n"
)
TASK = f"""<id>4</id><name>streets</name><size>2</size><mode>{{mode}}</mode><overlap>0</overlap><bugtracker></bugtracker>
      <created>2024-09-25 11:34:24.617558+00:00</created><updated>2024-09-25 11:38:27.301183+00:00</updated>
      <subset>{{subset}}</subset><start_frame>0</start_frame><stop_frame>1</stop_frame><frame_filter></frame_filter>
      {LABELS}
      <segments><segment><id>4</id><start>0</start><stop>1</stop><url>http://localhost:8080/api/jobs/4</url></segment></segments>
      <owner><username>admin</username><email>a@example.org</email></owner><assignee></assignee>"""
DUMPED = "<dumped>2024-09-25 11:38:28.799808+00:00</dumped>"
COLOUR = '<attribute name="colour">blue</attribute>'


def cvat(meta: str, body: str) -> str:
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    return f"{head}  <meta>\n{meta}\n{DUMPED}\n  </meta>\n{body}\n</annotations>\n"


IMAGES = f"""  <image id="0" name="one.png" width="{W}" height="{H}">
    <box label="plate" source="manual" occluded="0" xtl="4.50" ytl="2.25" xbr="20.00" ybr="30.00" z_order="4">{COLOUR}</box>
    <polygon label="car" source="auto" occluded="1" points="1.00,1.00;30.50,2.00;28.00,31.00" z_order="1">{COLOUR}</polygon>
    <tag label="good_frame" source="manual"></tag>
  </image>
  <image id="1" name="two.png" width="{W}" height="{H}">
  </image>"""


def test_cvat_for_images(tmp_path):
    for name in ("one", "two"):
        put(tmp_path / f"images/{name}.png", image_bytes(name))
    put(
        tmp_path / "annotations.xml",
        cvat(f"<task>{TASK.format(mode='annotation', subset='Train')}</task>", IMAGES),
    )
    images, findings = read(tmp_path)
    assert findings == {} and images["two"].rows == () and images["one"].split == "train"
    assert rows(images["one"]) == [("plate", (4.5, 2.25, 20, 30)), ("car", (1, 1, 30.5, 31))]
    assert open_reader(Folder(tmp_path), None, Findings.with_policies({})).names == (
        "car",
        "plate",
        "lane",
    )


def test_cvat_lines_and_points_are_named(tmp_path):
    put(tmp_path / "images/one.png", image_bytes("one"))
    put(tmp_path / "images/two.png", image_bytes("two"))
    shapes = '<polyline label="lane" points="4.00,0.00;1.00,9.00"/>\n<points label="car" points="5.00,9.00;7.00,8.00"/>\n'
    body = IMAGES.replace("    <tag", shapes + "    <tag")
    put(
        tmp_path / "annotations.xml",
        cvat(f"<task>{TASK.format(mode='annotation', subset='')}</task>", body),
    )
    images, findings = read(tmp_path, policies={"other_shape": "drop"})
    assert len(images["one"].rows) == 2 and list(findings) == ["other_shape"]
    assert [text.partition(": ")[2] for text in findings["other_shape"]] == [
        "<polyline> of 'lane'",
        "<points> of 'car'",
    ]


def test_cvat_of_a_whole_project_with_its_subsets(tmp_path):
    """Labels stand below the project, each image says its task and subset, images lie in folders of
    their subset.
    """
    for subset, name in (("Train", "one"), ("Validation", "two")):
        put(tmp_path / f"images/{subset}/{name}.png", image_bytes(name))
    tasks = "".join(
        f"<task>{TASK.format(mode='annotation', subset=subset)}</task>"
        for subset in ("Train", "Validation")
    )
    project = f"<project><id>1</id><name>p</name>{LABELS}<subsets>Train\nValidation</subsets><tasks>{tasks}</tasks></project>"
    body = IMAGES.replace('name="one.png"', 'name="one.png" subset="Train" task_id="4"')
    body = body.replace('name="two.png"', 'name="two.png" subset="Validation" task_id="5"')
    put(tmp_path / "annotations.xml", cvat(project, body))
    images, findings = read(tmp_path)
    assert {name: image.split for name, image in images.items()} == {
        "one": "train",
        "two": "val",
    } and findings == {}


def test_cvat_for_video(tmp_path):
    """An object that comes and goes: a last shape marked outside ends it; the frames it is away
    show it nowhere.
    """
    for frame in range(8):
        put(tmp_path / f"images/frame_{frame:06d}.PNG", image_bytes(f"{frame}"))
    size = f"<original_size><width>{W}</width><height>{H}</height></original_size><source>street.mp4</source>"
    task = f"<task>{TASK.format(mode='interpolation', subset='')}{size}</task>"

    def shape(frame: int, outside: int) -> str:
        points = f"{frame}.50,1.00;{frame + 9}.25,2.00;{frame + 3}.00,12.75"
        flags = f'keyframe="1" outside="{outside}" occluded="0" z_order="0"'
        return f'    <polygon frame="{frame}" {flags} points="{points}">{COLOUR}</polygon>\n'

    track = "".join(
        shape(frame, outside) for frame, outside in ((0, 0), (1, 1), (5, 0), (6, 0), (7, 1))
    )
    put(
        tmp_path / "annotations.xml",
        cvat(task, f'  <track id="0" label="car" source="manual">\n{track}  </track>'),
    )
    images, findings = read(tmp_path)
    assert findings == {} and len(images) == 8
    assert {name: rows(image) for name, image in images.items() if image.rows} == {
        f"frame_{f:06d}": [("car", (f + 0.5, 1, f + 9.25, 12.75))] for f in (0, 5, 6)
    }


# --- Label Studio ---------------------------------------------------------------------------------

IMAGE = {
    "original_width": W,
    "original_height": H,
    "image_rotation": 0,
    "to_name": "image",
    "origin": "manual",
}


def rectangle(number: str, label: str, **more) -> dict:
    value = {
        "x": 12.5,
        "y": 25,
        "width": 50.0,
        "height": 37.5,
        "rotation": 0,
        "rectanglelabels": [label],
    }
    return {
        **IMAGE,
        "value": value,
        "id": number,
        "from_name": "label",
        "type": "rectanglelabels",
        **more,
    }


def task(number: int, file: str, result: list[dict]) -> dict:
    """With every key of the export."""
    time = "2024-03-09T22:16:08.728353Z"
    user = {"id": 1, "email": "a@example.org", "first_name": "", "last_name": ""}
    answer = {
        "id": 100 + number,
        "completed_by": user,
        "result": result,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": time,
        "updated_at": time,
        "draft_created_at": time,
        "lead_time": 4.288,
        "prediction": {},
        "result_count": len(result),
        "unique_id": "d5f1a6c0-0b5b-4b52-9d0e-8a8c7f1d1e11",
        "import_id": None,
        "task": number,
        "last_action": None,
        "project": 83,
        "updated_by": 1,
        "parent_prediction": None,
        "parent_annotation": None,
        "last_created_by": None,
    }
    guess = {
        "id": 7,
        "model_version": "v2",
        "created_ago": "3 hours",
        "score": 0.9,
        "result": [rectangle("guess", "dog", score=0.9)],
    }
    return {
        "id": number,
        "annotations": [answer],
        "file_upload": f"a1b2c3d4-{file}",
        "drafts": [],
        "predictions": [guess],
        "data": {"image": f"/data/upload/83/a1b2c3d4-{file}", "source": "camera 1"},
        "meta": {},
        "created_at": time,
        "updated_at": time,
        "inner_id": number,
        "total_annotations": 1,
        "cancelled_annotations": 0,
        "total_predictions": 1,
        "comment_count": 0,
        "unresolved_comment_count": 0,
        "last_comment_updated_at": None,
        "project": 83,
        "updated_by": 1,
        "comment_authors": [],
    }


def test_label_studio_with_answers_of_every_kind(tmp_path):
    """Relations have neither value nor id; choices and texts are about the image; predictions are a
    model's, not a person's.
    """
    others = [
        {"from_id": "r1", "to_id": "r2", "type": "relation", "direction": "right", "labels": []},
        {
            **IMAGE,
            "value": {"choices": ["blurred"]},
            "id": "c",
            "from_name": "quality",
            "type": "choices",
        },
        {
            **IMAGE,
            "value": {"text": ["a note"]},
            "id": "t",
            "from_name": "note",
            "type": "textarea",
        },
        {**IMAGE, "value": {"rating": 4}, "id": "s", "from_name": "stars", "type": "rating"},
    ]
    polygon = {
        "points": [[10.0, 20.0], [50.0, 25.0], [40.0, 75.0]],
        "closed": True,
        "polygonlabels": ["dog"],
    }
    shape = {**IMAGE, "value": polygon, "id": "r2", "from_name": "outline", "type": "polygonlabels"}
    put(tmp_path / "one.png", image_bytes("one"))
    put(tmp_path / "two.png", image_bytes("two"))
    result = [rectangle("r1", "cat", meta={"text": ["sure"]}), shape, *others]
    put(
        tmp_path / "project-83.json",
        json.dumps([task(1, "one.png", result), task(2, "two.png", [])]),
    )
    images, findings = read(tmp_path)
    assert findings == {} and images["two"].rows == ()
    assert rows(images["one"]) == [("cat", (8, 8, 40, 20)), ("dog", (6.4, 6.4, 32, 24))]


@pytest.mark.parametrize(
    "address",
    ["/data/local-files/?d=set%5Cimages%5Cone.png", "/data/local-files/?d=set/images/one.png"],
)
def test_label_studio_local_files_of_windows_and_of_others(address, tmp_path):
    put(tmp_path / "set/images/one.png", image_bytes("one"))
    put(
        tmp_path / "export.json",
        json.dumps([{**task(1, "one.png", [rectangle("r", "cat")]), "data": {"image": address}}]),
    )
    images, findings = read(tmp_path)
    assert rows(images["one"]) == [("cat", (8, 8, 40, 20))] and findings == {}


def test_label_studio_json_min_says_which_export_to_take(tmp_path):
    """It lacks what decides between several annotators, and whether an answer was cancelled."""
    put(tmp_path / "one.png", image_bytes("one"))
    label = {
        "x": 12.5,
        "y": 25,
        "width": 50,
        "height": 37.5,
        "rotation": 0,
        "rectanglelabels": ["cat"],
        "original_width": W,
        "original_height": H,
    }
    time = "2024-03-09T22:16:08.728353Z"
    entry = {
        "image": "/data/upload/83/a1b2c3d4-one.png",
        "id": 1,
        "label": [label],
        "annotator": 1,
        "annotation_id": 101,
        "created_at": time,
        "updated_at": time,
        "lead_time": 4.288,
    }
    put(tmp_path / "project-min.json", json.dumps([entry], indent=2))
    assert detect_format(Folder(tmp_path)) == "labelstudio"
    found = read(tmp_path)[1]["unreadable_annotation"]
    assert found == [
        "project-min.json, line 2: is JSON-MIN or another short form; export from Label Studio as "
        "JSON"
    ]


# --- the same in every format ---------------------------------------------------------------------


def test_byte_order_marks_and_line_ends_of_windows_change_nothing(tmp_path):
    for format, make in MAKERS.items():
        digests = []
        for variant in ("plain", "windows"):
            root = make(tmp_path / format / variant)
            if variant == "windows":
                for file in root.rglob("*"):
                    if file.suffix in (".xml", ".json", ".txt", ".yaml"):
                        text = (
                            json.dumps(json.loads(file.read_text()), indent=1)
                            if file.suffix == ".json"
                            else file.read_text()
                        )
                        put(file, b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
            report = prepare(
                load_description(root),
                tmp_path / format / f"out-{variant}",
                DataConfig(source=str(root)),
            )
            assert set(report.findings.counts) == {"empty_image"}, (format, variant)
            digests.append(report.info["digest"])
        assert digests[0] == digests[1], format


def test_odd_names_of_files_and_classes_in_every_format(tmp_path):
    """Blanks, quotes, letters of other scripts, markup: they come through as they are, into the
    report's page too.
    """
    name, label = "Blüten 血 'q' & \"r\" #1 100%", "<b>Größe & 'x'</b>"
    for format, make in MAKERS.items():
        root = make(tmp_path / format)
        for file in list(root.rglob("*")):
            if file.suffix in (".xml", ".json", ".txt", ".yaml"):
                text = file.read_text()
                if file.suffix == ".json":
                    text = json.dumps(_renamed(json.loads(text), name, label))
                elif file.suffix == ".xml":
                    escaped = name.replace("&", "&amp;").replace('"', "&quot;")
                    text = text.replace(">a.png<", f">{escaped}.png<").replace(
                        '"a.png"', f'"{escaped}.png"'
                    )
                    text = text.replace(
                        "cat<", label.replace("&", "&amp;").replace("<", "&lt;") + "<"
                    )
                    text = text.replace(
                        '"cat"', '"' + label.replace("&", "&amp;").replace("<", "&lt;") + '"'
                    )
                elif file.suffix == ".yaml":
                    text = text.replace("[cat, dog]", json.dumps([label, "dog"]))
                else:
                    text = "".join(
                        f"{name}\n" if line == "a" else f"{line}\n" for line in text.splitlines()
                    )
                put(file, text)
            if file.stem == "a":
                file.rename(file.with_name(name + file.suffix))
        report = prepare(
            load_description(root), tmp_path / f"out-{format}", DataConfig(source=str(root))
        )
        assert set(report.findings.counts) == {"empty_image"} and report.info["names"] == sorted(
            [label, "dog"]
        ), format
        assert report.info["counts"]["train"]["boxes"] == sum(
            len(b) for n, b in CONTENT.items() if SPLIT_OF[n] == "train"
        )
        assert main(["check", f"data={root}", f"out={tmp_path}/check-{format}"]) == 0
        page = Path(tmp_path / f"check-{format}/report.html").read_text()
        assert "<b>Größe" not in page and "&lt;b&gt;Größe" in page


def _renamed(value, name: str, label: str):
    if isinstance(value, dict):
        return {key: _renamed(each, name, label) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, name, label) for each in value]
    if not isinstance(value, str) or not value.endswith("a.png"):
        return label if value == "cat" else value
    return value.replace(
        "a.png", quote(f"{name}.png") if value.startswith("/data/local-files/") else f"{name}.png"
    )
