"""Slices: how they are cut, that a planted weakness is named, and that chance names few."""

import numpy as np
import pytest
from drawn_errors import drawn_errors
from error_cases import collected, random_case

from engine.error_analysis.error_types import find_errors
from engine.error_analysis.slices import (
    ALPHA,
    Slice,
    compare_slices,
    slices_of_columns,
    slices_of_properties,
)

NAMES = ("a", "b", "c", "d")


def names_of(slices):
    return [(each.column, each.name, int(each.images.sum())) for each in slices]


def test_properties_are_cut_at_their_quarters_and_aspect_at_fixed_values():
    measured = np.stack(
        [np.arange(100.0), np.full(100, 7.0), np.repeat([0.5, 1.0, 1.5, 1.5], 25)], 1
    )
    assert names_of(slices_of_properties(measured)) == [
        ("brightness", "dark (< 24.8)", 25),
        ("brightness", "medium (24.8 to 74.2)", 50),
        ("brightness", "bright (>= 74.2)", 25),
        ("aspect", "portrait (< 0.8)", 25),
        ("aspect", "square (0.8 to 1.25)", 25),
        ("aspect", "landscape (>= 1.25)", 50),
    ]


def test_images_that_are_gone_are_in_no_slice():
    measured = np.array([[np.nan] * 3, [1.0, 1.0, 1.0], [200.0, 1.0, 2.0], [200.0, 1.0, 2.0]])
    assert not any(each.images[0] for each in slices_of_properties(measured))


def test_columns_by_value_by_quarters_of_numbers_and_nothing_of_one_value():
    columns = {
        "camera": ["left", "right", "", "left"] * 10,
        "site": ["hall"] * 40,
        "height_m": [str(i / 2) for i in range(40)],
    }
    assert names_of(slices_of_columns(columns)) == [
        ("camera", "left", 20),
        ("camera", "right", 10),
        ("height_m", "low (< 4.88)", 10),
        ("height_m", "middle (4.88 to 14.6)", 20),
        ("height_m", "high (>= 14.6)", 10),
    ]


def test_a_number_without_end_is_in_no_slice():
    """Sensors write "inf" where there was nothing to measure."""
    (low, middle, high) = slices_of_columns({"m": [str(i) for i in range(20)] + ["inf"] * 10})
    assert [int(each.images.sum()) for each in (low, middle, high)] == [5, 10, 5]
    assert not any(each.images[20:].any() for each in (low, middle, high))


def rows_of(errors, slices, **more):
    groups = list(errors.images)
    return compare_slices(errors, slices, groups, confidence=0.3, **more)


def test_a_planted_weakness_is_named_and_comes_first():
    errors = drawn_errors(1, images=200, hit=np.repeat([0.5, 0.9], [50, 150]))
    dark = np.arange(200) < 50
    odd = np.arange(200) % 2 == 1
    rows = rows_of(errors, [Slice("parity", "odd", odd), Slice("brightness", "dark", dark)])
    assert [row["slice"] for row in rows] == ["dark", "odd"]
    assert rows[0]["worse"] and rows[0]["high"] < 0 and rows[0]["p"] < 0.001
    assert not rows[1]["worse"]
    assert rows[0]["images"] == 50 and rows[0]["ap50"] < rows[0]["rest"]
    assert rows[0]["costs"]["missed"] > rows[1]["costs"]["missed"]


def test_values_are_those_of_the_images_alone():
    found, records = random_case(5, images=40)
    errors = find_errors(collected(found, records, NAMES).samples(), NAMES)
    half = np.arange(40) < 20
    alone = find_errors(collected(found[:20], records[:20], NAMES).samples(), NAMES)
    (row,) = rows_of(errors, [Slice("half", "first", half)])
    assert row["ap50"] == pytest.approx(np.nanmean(alone.ap50()))
    assert row["errors"] == alone.counts(0.3)


def test_a_better_slice_is_not_worse_and_a_small_one_is_not_tested():
    errors = drawn_errors(2, images=100, hit=np.repeat([0.9, 0.5], [30, 70]))
    better, few = np.arange(100) < 30, np.arange(100) < 5
    rows = {r["slice"]: r for r in rows_of(errors, [Slice("x", "b", better), Slice("x", "f", few)])}
    assert not rows["b"]["worse"] and rows["b"]["p"] > 0.5
    assert rows["f"]["p"] is None and not rows["f"]["worse"]


def test_images_of_one_group_count_as_one():
    errors = drawn_errors(1, images=200, hit=np.repeat([0.5, 0.9], [50, 150]))
    dark = Slice("brightness", "dark", np.arange(200) < 50)
    groups = [f"{i // 10}" for i in range(200)]  # five groups are dark
    (row,) = compare_slices(errors, [dark], groups, 0.3)
    assert row["p"] is None and row["difference"] < 0


def test_the_correction_holds_chance_below_its_level():
    """Slices drawn at random, ten at a time: in most trials none is named."""
    rng = np.random.default_rng(0)
    named, trials = 0, 40
    for seed in range(trials):
        errors = drawn_errors(seed, images=60, hit=0.7)
        slices = [Slice("chance", f"{i}", rng.random(60) < 0.4) for i in range(10)]
        named += any(row["worse"] for row in rows_of(errors, slices, resamples=200))
    # 5 % of 40 trials are 2; 7 or more come by chance in 1 of 200 cases
    assert ALPHA == 0.05 and named < 7
