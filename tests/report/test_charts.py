"""Charts and the values behind them."""

import math

import numpy as np
import pytest
import sample_reports as reports
from hypothesis import given
from hypothesis import strategies as st

from engine.metrics.match_table import RECALLS
from engine.report.charts import Line, bar_mark, interval_mark, line_chart, scale_of, ticks
from engine.report.facts import precision_curves, training_changes


@given(
    low=st.floats(-1e4, 1e4),
    span=st.floats(1e-3, 1e4),
    wanted=st.integers(2, 9),
)
def test_ticks_are_few_round_and_reach_over_both_ends(low, span, wanted):
    found = ticks(low, low + span, wanted)
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * span and found[-1] >= low + span - 1e-6 * span
    assert 2 <= len(found) <= wanted + 2
    digits = step / 10 ** math.floor(math.log10(step * 1.0001))
    assert min(abs(digits - each) for each in (1, 2, 5, 10)) < 1e-3


def test_a_gap_interrupts_a_line_and_a_point_alone_is_seen():
    svg = line_chart([Line("a", [0, 1, 2, 3, 4], [0, 1, None, math.nan, 2])], "x", "y", "says")
    assert svg.count("<path") == 2
    paths = [part.split('"')[0] for part in svg.split(' d="')[1:]]
    assert [path.count("L") for path in paths] == [1, 1]
    assert len(set(paths[1][1:].split("L"))) == 1  # the same point twice
    assert line_chart([Line("a", [0], [None])], "x", "y", "says") == ""


def test_a_line_lies_where_its_values_are():
    svg = line_chart([Line("a", [0, 10], [0, 1])], "x", "y", "says", (0.0, 1.0))
    (path,) = [part.split('"')[0] for part in svg.split(' d="')[1:]]
    assert path == "M44.0 194.0L350.0 10.0"  # from the lower left corner to the upper right


def test_names_in_a_chart_are_text():
    svg = line_chart([Line("<b>", [0, 1], [0, 1])], "x<", "y&", 'says "it"')
    assert "<b>" not in svg and "&lt;b&gt;" in svg and "says &#34;it&#34;" in svg


@pytest.mark.parametrize(
    ("span", "style"),
    [((0.1, 0.05, 0.2), "gain"), ((-0.1, -0.2, -0.05), "loss"), ((0.1, -0.1, 0.3), "")],
)
def test_an_interval_is_coloured_where_it_is_on_one_side_of_zero(span, style):
    mark = interval_mark(*span, (-0.5, 0.5), zero=0.0)
    assert ("gain" in mark, "loss" in mark) == (style == "gain", style == "loss")
    assert f'x1="{100 * (span[1] + 0.5):g}" x2="{100 * (span[2] + 0.5):g}"' in mark


def test_marks_stay_within_their_cell():
    assert 'width="100"' in bar_mark(3, 2) and bar_mark(None, 1) == ""
    assert 'x1="0"' in interval_mark(0.5, -9, 9, (0, 1)) and interval_mark(None, 0, 1, (0, 1)) == ""
    assert scale_of([]) == (0.0, 1.0)
    low, high = scale_of([(0.1, None, 0.4)], 0.0)
    assert low < 0 and high > 0.4


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_of_a_precision_curve_is_its_ap50(seed):
    table = reports.matches(seed=seed)
    found = precision_curves(table)
    assert found["recall"] == RECALLS.tolist()
    for c, name in enumerate(table.names):
        curve = found["classes"][name]
        assert np.mean(curve) == pytest.approx(table.ap()[c, 0], abs=1e-12)
        assert all(b <= a + 1e-12 for a, b in zip(curve, curve[1:]))
    assert np.mean(found["mean"]) == pytest.approx(table.mean_ap(iou=0.5), abs=1e-12)


def test_a_class_without_boxes_has_no_curve_and_one_that_is_never_found_a_flat_one():
    table = reports.matches(hits=(1.0, 0.0))
    table.truths[:, 0] = 0
    found = precision_curves(table)
    assert list(found["classes"]) == ["truck"] and set(found["classes"]["truck"]) == {0.0}
    table.truths[:] = 0
    assert precision_curves(table) == {}


def test_what_came_and_went_since_the_champion(tmp_path):
    now = [{"sha256": each} for each in ("a", "b", "c")]
    (tmp_path / "training_images.txt").write_text("b\nc\nx\ny\n")
    assert training_changes(now, tmp_path) == {"added": 1, "removed": 2, "kept": 2}
    assert training_changes(now, tmp_path / "unknown") == {} == training_changes(now, None)
