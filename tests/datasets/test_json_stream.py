"""Streamed JSON: the same values and the same complaints as the standard library, however the file
is cut into pieces.
"""

from __future__ import annotations

import json
import random
import tracemalloc
from itertools import chain, repeat

import pytest
from dataset_builders import MAKERS, make_coco, put
from reading import read

from engine.datasets.findings import Findings
from engine.datasets.formats import json_stream, open_reader
from engine.datasets.formats.folder import Folder
from engine.datasets.formats.json_stream import Item, stream_json

BOM = b"\xef\xbb\xbf"


def pieces(text: str | bytes, size: int = 1000) -> list[bytes]:
    data = text.encode() if isinstance(text, str) else text
    return [data[i : i + size] for i in range(0, len(data), size)]


def whole(chunks: list[bytes]):
    """The value of the file, put together again."""
    root = None
    for item in stream_json(chunks):
        if item.section is None and item.position is None:
            root = item.value
        elif item.position is None:
            root[item.section] = item.value
        else:
            (root if item.section is None else root[item.section]).append(item.value)
    return root


def test_entries_come_one_by_one_with_their_lines():
    text = '{"a": [1,\n {"x": [2]}],\n"b": {"c": 3},\n\n"": []\n}'
    assert list(stream_json(pieces(text))) == [
        Item(None, None, 1, {}),
        Item("a", None, 1, []),
        Item("a", 0, 1, 1),
        Item("a", 1, 2, {"x": [2]}),
        Item("b", None, 3, {"c": 3}),
        Item("", None, 5, []),
    ]
    assert list(stream_json(pieces("[true]"))) == [Item(None, None, 1, []), Item(None, 0, 1, True)]
    assert list(stream_json(pieces(" 7 "))) == [Item(None, None, 1, 7)]


def any_value(rng: random.Random, depth: int = 0):
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [any_value(rng, depth + 1) for _ in range(rng.randrange(5))]
    if kind == 7:
        return {f"k{i}": any_value(rng, depth + 1) for i in range(rng.randrange(5))}
    text = "".join(rng.choice('aé"\\\n\t😀\u2028/') for _ in range(rng.randrange(12)))
    return (
        None,
        rng.randrange(-(10**6), 10**12),
        rng.choice([1.5e-7, 3e300, float("-inf"), 0.1]),
        text,
        text,
        True,
    )[kind]


def test_it_is_the_standard_librarys_json_on_whole_and_on_damaged_files(monkeypatch):
    rng, wrong = random.Random(4), 0
    for _ in range(6000):
        monkeypatch.setattr(json_stream, "WINDOW_CHARS", rng.choice([1, 5, 40, 300]))
        value = (
            any_value(rng)
            if rng.random() < 0.3
            else {f"s{i}": any_value(rng) for i in range(rng.randrange(5))}
        )
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 1]))
        if rng.random() < 0.6:
            at = rng.randrange(len(text) + 1)
            text = (
                text[:at]
                + rng.choice(["", *'{}[],:"\\0.e-nN \x01'])
                + text[at + rng.randrange(2) :]
            )
        chunks = pieces(
            (BOM if rng.random() < 0.2 else b"") + text.encode(), rng.choice([1, 2, 7, 64])
        )
        try:
            expected = repr(json.loads(text))
        except json.JSONDecodeError as error:
            expected, wrong = f"not valid JSON: {error}", wrong + 1
        try:
            found = repr(whole(chunks))
        except ValueError as error:
            found = str(error)
        assert (
            found == expected or "is there twice" in found or "half of a surrogate pair" in found
        ), text
    assert 1000 < wrong < 4000


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 1,\n "a": 2}', r"key 'a' is there twice \(line 2\)"),
        (
            '{"a": [1,\n {"b": {"c": 1,\n "c": 1}}]}',
            "key 'c' is there twice in one object, in the entry that begins in line 2",
        ),
        ('["' + "ä" * 10 + '", "\xff"]', None),
        (b'["\xc3\xa4", "\xff"]', r"not UTF-8 text \(byte 8\)"),
        (BOM + b'["\xc3\xa4", "\xff"]', r"not UTF-8 text \(byte 11\)"),
        (b'["\xc3', r"not UTF-8 text \(byte 2\)"),
        ('{"a": ' + "[" * 100_000, "JSON nested too deep"),
        (
            '{"a":\n["\\ud83d\\ude00", "\\ud83d"]}',
            "half of a surrogate pair, in the entry that begins in line 2",
        ),
        ('{"\\uDE00": 1}', "half of a surrogate pair, in the entry that begins in line 1"),
        ("", r"Expecting value: line 1 column 1 \(char 0\)"),
        ("\ufeff \n", r"Expecting value: line 2 column 1 \(char 2\)"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    for size in (1, 4, 1 << 16):
        if message is None:
            assert whole(pieces(text, size)) == json.loads(text)
            continue
        with pytest.raises(ValueError, match=message):
            whole(pieces(text, size))


def test_an_entry_without_end_is_not_collected_for_ever():
    endless = chain([b'{"a": ["'], repeat(b"x" * (1 << 20)))
    with pytest.raises(
        ValueError, match="entry that begins in line 1 has more than 64 million characters"
    ):
        whole(endless)


def test_memory_does_not_grow_with_the_file():
    entry = json.dumps({"id": 1, "segmentation": [[1.5] * 100], "bbox": [1, 2, 3, 4]}).encode()
    count = 8_000
    tracemalloc.start()
    items = sum(
        1
        for _ in stream_json(
            chain([b'{"annotations": ['], repeat(entry + b",\n", count), [entry + b"]}"])
        )
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert items == count + 3 and peak < 3 << 20, f"{peak} bytes for {len(entry) * count} of JSON"


# --- readers --------------------------------------------------------------------------------------


def test_a_coco_files_boxes_take_few_bytes_each(tmp_path):
    """Polygons, which are most of such a file, are read and forgotten."""
    count = 5_000
    make_coco(tmp_path, {"a": []})
    box = {
        "segmentation": [[1.5] * 60],
        "image_id": 1,
        "bbox": [1, 2, 3, 4],
        "category_id": 10,
        "iscrowd": 0,
    }
    boxes = [{"id": number, **box} for number in range(count)]
    file = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    put(file, json.dumps({**content, "annotations": boxes}))
    del boxes, content
    folder, findings = Folder(tmp_path), Findings.with_policies({})
    tracemalloc.start()
    reader = open_reader(folder, None, findings)
    _, looked = tracemalloc.get_traced_memory()
    (image,) = reader
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(image.rows) == count and not findings.counts
    assert looked < 3 << 20, f"{looked} bytes"
    assert peak < 1200 * count, f"{peak} bytes, most of them the rows of the one image"


@pytest.mark.parametrize(
    "order",
    [
        "images annotations categories",
        "categories annotations images",
        "annotations images categories",
    ],
)
def test_coco_sections_in_any_order_on_lines_of_their_own(order, tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 15
    lines = [
        f'"{key}": [\n' + ",\n".join(map(json.dumps, content[key])) + "]" for key in order.split()
    ]
    put(file, BOM + ("{" + ",\r\n".join(lines) + "}").encode())
    images, findings = read(tmp_path)
    line = (
        file.read_text("utf-8-sig").split("\n").index(json.dumps(content["annotations"][0]) + ",")
        + 1
    )
    row = images["a"].rows[0]
    assert (row.name, row.line, row.ref) == (
        "category_id 15",
        line,
        "annotation 1",
    ) and not findings


def test_coco_boxes_keep_the_order_of_the_file_and_the_image_of_their_id(tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    for item in content["images"]:
        item["id"] = -7 * item["id"]
    rng = random.Random(1)
    images = [item["id"] for item in content["images"]]
    content["annotations"] = [
        {
            "image_id": rng.choice(images),
            "category_id": rng.choice([10, 20]),
            "bbox": [number, 1, 2, 3],
        }
        for number in range(30)
    ]
    put(file, json.dumps(content))
    found = read(tmp_path)[0]
    for item in content["images"]:
        mine = [
            n for n, each in enumerate(content["annotations"]) if each["image_id"] == item["id"]
        ]
        rows = found[item["file_name"][:-4]].rows
        assert [(row.ref, row.box[0]) for row in rows] == [(f"annotations[{n}]", n) for n in mine]


@pytest.mark.parametrize("format, look", [("coco", 2), ("coco", 3), ("labelstudio", 2)])
def test_a_file_that_changes_between_two_looks_is_a_finding(format, look, tmp_path, monkeypatch):
    MAKERS[format](tmp_path)
    real = Folder.chunks
    looks: dict[str, int] = {}

    def later_cut_off(self, name):
        looks[name] = looks.get(name, 0) + 1
        data = b"".join(real(self, name))
        return iter([data if looks[name] < look else data[:-9]])

    monkeypatch.setattr(Folder, "chunks", later_cut_off)
    found = read(tmp_path, format)[1]["unreadable_annotation"]
    assert "was changed while it was read: not valid JSON" in found[0]


def test_an_id_that_is_no_64_bit_number_is_none(tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    content["images"][0]["id"] = 1 << 70
    put(file, json.dumps(content))
    found = read(tmp_path)[1]["bad_entry"]
    assert any("images[0] has no number or text as id" in each for each in found)
