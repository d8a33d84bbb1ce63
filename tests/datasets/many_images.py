"""A damaged dataset of several batches, and prepare as the tests of its workers call it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from dataset_builders import image_bytes, make_voc, put, voc_xml

from engine.config import DataConfig
from engine.datasets import workers
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare

LENIENT = {
    "unreadable_image": "drop",
    "unreadable_annotation": "drop",
    "bad_entry": "drop",
    "unknown_class": "drop",
    "missing_image": "drop",
    "size_mismatch": "fix",
    "empty_image": "warn",
}
IMAGES = 90


@pytest.fixture
def at_once(monkeypatch):
    """Workers are started after the first batch."""
    monkeypatch.setattr(workers, "PATIENCE_S", 0.0)


def damaged(root: Path) -> Path:
    """A dataset of several batches, with more findings of each kind than are kept; some by the
    reader, some by the checks.
    """
    make_voc(
        root, {f"i{k:03d}": [("cat", (4, 2, 20 + k % 7, 30))] for k in range(IMAGES)}, lists=False
    )
    for k in range(IMAGES):
        image, xml = root / f"JPEGImages/i{k:03d}.png", root / f"Annotations/i{k:03d}.xml"
        if k % 5 == 0:
            image.write_bytes(image.read_bytes()[: 100 + k])
        elif k % 7 == 0:
            image.unlink()
        elif k % 11 == 0:
            put(xml, "<annotation><object>")
        elif k % 4 == 0:
            put(xml, xml.read_text().replace(">4<", ">four<"))
        elif k % 3 == 0:
            put(xml, voc_xml(f"i{k:03d}", [("cat", (-4, 2, 20, 30)), ("dog", (1, 1, 1, 9))]))
    put(root / "JPEGImages/i091.png", image_bytes("i001"))
    put(root / "Annotations/i091.xml", voc_xml("i091", []))
    return root


def run(source: Path, target: Path, mapper=None, progress=None, **settings):
    settings.setdefault("policies", LENIENT)
    return prepare(
        load_description(source),
        target,
        DataConfig(source=str(source), **settings),
        progress,
        mapper=mapper,
    )


def workers_of(parent: int) -> list[int]:
    """Workers among the children of a process."""
    found = []
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            if "LokyProcess" in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
        except OSError:  # gone meanwhile
            continue
    return found


def is_gone(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False
