"""A format that is added in one place is detected, described, checked, prepared, converted into and
out of, and named in help and errors.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from dataset_builders import CONTENT, SPLIT_OF, image_bytes, make_voc, put

from engine.cli import main
from engine.config import DataConfig
from engine.data.manifest import load_prepared
from engine.datasets import formats
from engine.datasets.description import load_description
from engine.datasets.formats import detect_format
from engine.datasets.formats.base import Row, SourceImage
from engine.datasets.formats.folder import Folder
from engine.datasets.formats.kinds import AnnotationReader, ReaderKind
from engine.datasets.formats.writers import ImageFiles, Labelled
from engine.datasets.prepare import prepare
from engine.errors import ConfigError, DataError


class CsvReader(AnnotationReader):
    """boxes.csv: `image,class,x1,y1,x2,y2`, a line a box; an image without boxes has empty rest."""

    def __iter__(self) -> Iterator[SourceImage]:
        rows: dict[str, list[Row]] = {name: [] for name in self._folder.images}
        for image, name, *box in csv.reader(self._folder.text("boxes.csv").splitlines()):
            if name:
                rows[image].append(Row(name, tuple(map(float, box))))
        for image, found in rows.items():
            yield SourceImage(
                image,
                tuple(found),
                "boxes.csv",
                self._folder.path(image),
                split=self._splits.of(image),
            )


class CsvWriter:
    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.lost: Counter[str] = Counter()
        self._folder, self._files, self._lines = folder, ImageFiles(folder), []

    def add(self, image: Labelled) -> None:
        place = image.split or "."
        name = f"{place}/{self._files.put(image, place)}"
        self._lines += [",".join([name, row.name, *map(str, row.box)]) for row in image.rows]

    def close(self) -> None:
        (self._folder / "boxes.csv").write_text("\n".join(self._lines))


CSV = ReaderKind(
    name="csv",
    title="Boxes in a table",
    looks_for="boxes.csv",
    read_as="one line a box",
    detect=lambda folder: "boxes.csv" in folder.with_suffix(".csv"),
    open=CsvReader,
    write=CsvWriter,
)


@pytest.fixture(autouse=True)
def _one_place(monkeypatch):
    monkeypatch.setitem(formats.KINDS, CSV.name, CSV)


def make_csv(root: Path) -> Path:
    lines = []
    for name, boxes in CONTENT.items():
        put(root / SPLIT_OF[name] / f"{name}.png", image_bytes(name))
        image = f"{SPLIT_OF[name]}/{name}.png"
        lines += [f"{image},{label},{','.join(map(str, box))}" for label, box in boxes]
    put(root / "boxes.csv", "\n".join(lines))
    return root


def boxes_of(prepared: Path) -> dict[str, list[tuple[str, tuple[float, ...]]]]:
    dataset = load_prepared(prepared)
    return {
        Path(record.name).stem: [
            (dataset.names[number], tuple(box))
            for number, box in zip(record.classes.tolist(), record.boxes.tolist(), strict=True)
        ]
        for split in ("train", "val", "test")
        for record in dataset.records(split)
    }


def test_it_is_detected_described_and_prepared(tmp_path):
    root = make_csv(tmp_path / "set")
    assert detect_format(Folder(root)) == "csv"
    description = put(tmp_path / "set.yaml", "name: set\nformat: csv\npath: set\n")
    for number, data in enumerate((root, description)):
        out = tmp_path / f"prepared{number}"
        prepare(load_description(data), out, DataConfig())
        assert boxes_of(out) == {name: [*boxes] for name, boxes in CONTENT.items()}


def test_it_is_checked_and_converted_both_ways(tmp_path, capsys):
    root = make_csv(tmp_path / "set")
    assert main(["check", f"data={root}", f"out={tmp_path / 'check'}", "workers=1"]) == 0
    assert (tmp_path / "check/report.html").is_file()
    for format, source, out in (("voc", root, "a"), ("csv", make_voc(tmp_path / "voc"), "b")):
        assert main(["convert", f"data={source}", f"format={format}", f"out={tmp_path / out}"]) == 0
    assert detect_format(Folder(tmp_path / "a")) == "voc"
    prepare(load_description(tmp_path / "b"), tmp_path / "again", DataConfig())
    assert boxes_of(tmp_path / "again") == {name: [*boxes] for name, boxes in CONTENT.items()}
    capsys.readouterr()


def test_help_and_errors_name_it(tmp_path, capsys):
    assert main(["help", "convert"]) == 0
    assert "csv          Boxes in a table, read and written" in capsys.readouterr().out
    put(tmp_path / "empty/a.png", image_bytes("a"))
    with pytest.raises(DataError, match=r"Boxes in a table \(boxes.csv\)"):
        detect_format(Folder(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="'labelme', 'csv' or 'generated', got 'cvs'"):
        load_description(put(tmp_path / "d.yaml", "name: x\nformat: cvs\n"))
    make_voc(make_csv(tmp_path / "two"))
    with pytest.raises(DataError, match="holds annotations in voc and csv"):
        detect_format(Folder(tmp_path / "two"))
