"""Annotation files damaged at random: a reader ends in findings or in a message, never in a
traceback, and yields only boxes.
"""

from __future__ import annotations

import random
import re

import pytest
from dataset_builders import MAKERS, cvat_box, image_bytes, make_cvat, put

from engine.datasets.findings import KINDS, Findings
from engine.datasets.formats import open_reader
from engine.datasets.formats.folder import Folder
from engine.errors import EngineError

DAMAGES = 80  # of each format
ANNOTATIONS = {
    "voc": "Annotations/b.xml",
    "coco": "annotations/instances_train2017.json",
    "yolo": "labels/train/b.txt",
    "cvat": "annotations.xml",
    "labelstudio": "export.json",
    "labelme": "images/train/a.json",
}
ODD = ["null", "-1", "1e400", "[]", "{}", '""', "true", "NaN", '"\\u0000"', "9" * 40, '"a"']
STRICT: dict[str, str] = {}
LENIENT = {
    name: "fix" if kind.fix else "drop" for name, kind in KINDS.items() if kind.fix or kind.drop
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes replaced, the end cut off, a piece taken out or doubled, or a value that makes no sense
    in place of another.
    """
    content, way = bytearray(data), rng.randrange(5)
    at = rng.randrange(len(content))
    if way == 0:
        content[at] = rng.randrange(256)
    elif way == 1:
        del content[at:]
    elif way == 2:
        del content[at : at + rng.randint(1, 40)]
    elif way == 3:
        content[at:at] = content[at : at + rng.randint(1, 80)]
    else:
        word = rng.choice(list(re.finditer(rb'"[^"]*"|-?[\d.]+|\w+', data)))
        content[word.start() : word.end()] = rng.choice(ODD).encode()
    return bytes(content)


def with_video(root):
    """The CVAT set with a track of shapes besides its images."""
    make_cvat(root)
    for frame in range(3):
        put(root / f"images/frame_{frame:06d}.png", image_bytes(f"{frame}"))
    box = cvat_box("cat", (1, 1, 9, 9), 'frame="0" outside="0"')
    more = (
        '<polygon frame="1" points="1,1;2,2;3,9"/><ellipse frame="2" cx="1" cy="2" rx="3" ry="4"/>'
    )
    file = root / ANNOTATIONS["cvat"]
    put(
        file,
        file.read_text().replace(
            "</annotations>", f'<track id="0" label="cat">{box}{more}</track></annotations>'
        ),
    )


@pytest.mark.parametrize("format", MAKERS)
def test_damaged_annotations(format, tmp_path):
    (with_video if format == "cvat" else MAKERS[format])(tmp_path)
    file, rng = tmp_path / ANNOTATIONS[format], random.Random(format)
    whole, found = file.read_bytes(), 0
    for _ in range(DAMAGES):
        put(file, damaged(whole, rng))
        for policies in (STRICT, LENIENT):
            for asked in (None, format):
                findings = Findings.with_policies(policies)
                try:
                    images = list(open_reader(Folder(tmp_path), asked, findings))
                except EngineError:
                    found += 1
                    continue
                found += bool(findings.counts)
                for image in images:
                    assert all(
                        len(row.box) == 4 and all(abs(v) < float("inf") for v in row.box)
                        for row in image.rows
                    )
    assert found > DAMAGES, "most damages are seen"
