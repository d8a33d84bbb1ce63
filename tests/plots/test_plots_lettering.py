"""Names in any script: drawn with a font of the system where one has the letters, else as their
number, never as boxes.
"""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from engine.plots import draw_detections, fonts, plot_confusion
from engine.plots.images import _lettering
from engine.types import Detections

CELL = "红"


@pytest.fixture
def bare_system(monkeypatch):
    """A machine whose only font is DejaVu Sans."""
    monkeypatch.setattr(fonts, "_homes", {})
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    fonts._drawable_names.cache_clear()
    _lettering.cache_clear()
    yield
    fonts._drawable_names.cache_clear()
    _lettering.cache_clear()


def make_font(path, letters):
    """A font in which each of the letters is a black square."""
    pen = TTGlyphPen(None)
    for move, *points in (
        ("moveTo", (50, 0)),
        ("lineTo", (50, 800)),
        ("lineTo", (950, 800)),
        ("lineTo", (950, 0)),
    ):
        getattr(pen, move)(*points)
    pen.closePath()
    glyphs = {".notdef": TTGlyphPen(None).glyph()} | {
        f"g{ord(letter)}": pen.glyph() for letter in letters
    }
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(list(glyphs))
    font.setupCharacterMap({ord(letter): f"g{ord(letter)}" for letter in letters})
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics({name: (1000, 0) for name in glyphs})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Test Squares", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)


def test_names_that_can_be_drawn_stay_as_they_are(bare_system, caplog):
    names = ["cell", "Zelle ä", "Эритроцит", "", "a\nb", "x\x07y\u200bz", "#1"]
    assert fonts.drawable_names(names) == ["cell", "Zelle ä", "Эритроцит", "", "a b", "xyz", "#1"]
    assert fonts.font_families() == ["DejaVu Sans"] and not caplog.records


def test_without_a_font_the_number_stands_for_the_name_and_one_warning_says_so(bare_system, caplog):
    names = ["cell", "红细胞", "白细胞 WBC"]
    with caplog.at_level(logging.WARNING):
        assert [fonts.drawable_names(names) for _ in range(3)] == [["cell", "#1", "#2 WBC"]] * 3
    (said,) = [record.getMessage() for record in caplog.records]
    assert "#1 is 红细胞, #2 is 白细胞 WBC" in said and "fonts-noto-cjk" in said
    assert fonts.drawable("红 1.jpg") == "\\u7ea2 1.jpg"


def test_images_and_figures_show_the_number_where_there_is_no_font(bare_system, tmp_path):
    found = Detections(
        np.array([[20, 40, 150, 90]], np.float32), np.array([0.9], np.float32), np.array([0])
    )
    grey = np.full((100, 200, 3), 128, np.uint8)
    assert (draw_detections(grey, found, [CELL]) == draw_detections(grey, found, ["#0"])).all()
    chinese = plot_confusion(np.eye(2, dtype=int), [CELL], tmp_path / "chinese.png")
    number = plot_confusion(np.eye(2, dtype=int), ["#0"], tmp_path / "number.png")
    assert chinese.read_bytes() == number.read_bytes()


def test_a_font_of_the_system_is_found_and_used_in_images_and_figures(tmp_path):
    """In a process of its own: which fonts there are is asked once."""
    (tmp_path / "fonts").mkdir()
    make_font(tmp_path / "fonts" / "squares.ttf", CELL)
    (tmp_path / "fonts" / "broken.ttf").write_bytes(b"no font")
    code = f"""
import json, warnings
import numpy as np
warnings.simplefilter("error")
from engine.plots import fonts, plot_confusion
from engine.plots.images import _lettering
names = fonts.drawable_names(["{CELL}", "a"])
plot_confusion(np.eye(3, dtype=int), names, "{tmp_path}/drawn.png")
mask = _lettering("{CELL}", 20)
print(json.dumps([names, [part for _, part in fonts.runs("a{CELL}{CELL}b")], fonts.font_families(), int((mask > 200).sum())]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    names, parts, families, ink = json.loads(done.stdout)
    assert names == [CELL, "a"] and parts == ["a", CELL * 2, "b"]
    assert (
        families == ["DejaVu Sans", "Test Squares"]
        and ink > 100
        and (tmp_path / "drawn.png").stat().st_size > 0
    )
