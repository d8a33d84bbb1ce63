"""Calibration: what was planted is found, what is strictly increasing keeps the order, and nothing
gets worse where nothing was wrong.
"""

import numpy as np
import pytest

from engine.metrics import MatchTable
from engine.metrics.calibration import (
    METHODS,
    calibration_error,
    choose_calibration,
    detected,
    fit,
    no_calibration,
    reliability,
)
from engine.metrics.score_maps import IDENTITY, ScoreMap, logit, sigmoid


def drawn(seed, number, a=1.0, b=0.0, classes=1, images=200):
    """A table of detections whose probability of being true is a line in the logit of the score,
    a z + b.
    """
    rng = np.random.default_rng(seed)
    scores = sigmoid(rng.normal(0.5, 1.5, number))
    true = rng.random(number) < sigmoid(a * logit(scores) + b)
    image = np.sort(rng.integers(0, images, number)).astype(np.int32)
    kind = rng.integers(0, classes, number).astype(np.int32)
    truths = np.zeros((images, classes), np.int32)
    np.add.at(truths, (image[true], kind[true]), 1)
    return MatchTable(
        tuple(f"c{c}" for c in range(classes)),
        tuple(f"{i:04d}" for i in range(images)),
        truths,
        image,
        kind,
        scores,
        np.repeat(true[:, None], 10, 1).astype(np.int8),
    )


def errors(table, calibration):
    """ECE before and after."""
    found = detected(table)
    after = calibration(found.scores, found.classes)
    return [calibration_error(reliability(each, found.true)) for each in (found.scores, after)]


def test_the_planted_temperature_is_found():
    found = detected(drawn(0, 40_000, a=0.5))
    fitted = fit("temperature", found.scores, found.true)
    assert 1 / fitted.slope == pytest.approx(2.0, rel=0.05) and fitted.y == (0.0,)


def test_the_planted_line_is_found():
    found = detected(drawn(1, 40_000, a=0.7, b=-1.0))
    fitted = fit("logistic", found.scores, found.true)
    assert fitted.slope == pytest.approx(0.7, abs=0.04)
    assert fitted.y[0] == pytest.approx(-1.0, abs=0.05)


@pytest.mark.parametrize("a, b", [(0.5, 0.0), (0.6, -1.0), (2.0, 0.5)])
def test_scores_of_a_miscalibrated_model_become_probabilities_on_images_not_seen(a, b):
    chosen = choose_calibration(drawn(2, 6000, a, b))
    before, after = errors(drawn(3, 6000, a, b), chosen)
    assert before > 0.08 and after < 0.03


def test_a_bend_that_no_line_follows_needs_the_isotonic_method():
    def bent(seed):
        table = drawn(seed, 12_000)
        rng = np.random.default_rng(seed + 1)
        probability = np.where(table.scores < 0.5, 0.4 * table.scores, 0.2 + 0.05 * table.scores)
        true = rng.random(12_000) < probability
        return MatchTable(
            *(getattr(table, name) for name in ("names", "images", "truths", "image", "classes")),
            table.scores,
            np.repeat(true[:, None], 10, 1).astype(np.int8),
        )

    chosen = choose_calibration(bent(4))
    assert chosen.method == "isotonic" and len(chosen.maps[0].x) > 2
    assert errors(bent(8), chosen)[1] < 0.02


def test_what_is_calibrated_stays_calibrated():
    chosen = choose_calibration(drawn(5, 6000))
    before, after = errors(drawn(6, 6000), chosen)
    assert before < 0.03 and after < 0.03


def two_classes(few):
    """Class 0 is sure of itself with little reason, class 1 is modest; `few` of the second."""
    sure, modest = drawn(7, 3000, a=0.3), drawn(8, few, a=2.5)
    both = [np.concatenate([getattr(t, f) for t in (sure, modest)]) for f in ("image", "scores")]
    kinds = np.repeat([0, 1], [3000, few]).astype(np.int32)
    order = np.argsort(both[0], kind="stable")
    outcome = np.concatenate([sure.outcome, modest.outcome])[order]
    truths = np.concatenate([sure.truths, modest.truths], 1)
    return MatchTable(
        ("a", "b"), sure.images, truths, both[0][order], kinds[order], both[1][order], outcome
    )


def test_classes_that_differ_have_functions_of_their_own():
    chosen = choose_calibration(two_classes(3000))
    assert chosen.own == (True, True)
    assert chosen.maps[0].slope == pytest.approx(0.3, abs=0.05)
    assert chosen.maps[1].slope == pytest.approx(2.5, abs=0.3)


def test_classes_that_do_not_differ_share_one_where_data_are_few():
    chosen = choose_calibration(drawn(3, 1500, a=0.5, classes=20))
    assert chosen.method != "none" and not any(chosen.own)


def test_a_class_of_few_detections_takes_the_function_of_all():
    table = two_classes(30)
    kinds = table.classes.copy()
    kinds[::7] = 2  # a third class, of many
    table = MatchTable(
        ("a", "b", "c"),
        table.images,
        np.repeat(table.truths[:, :1], 3, 1),
        table.image,
        np.where(kinds == 1, 1, kinds),
        np.where(kinds == 2, 0.3 + 0.1 * table.scores, table.scores),
        np.where((kinds == 2)[:, None], 1, table.outcome).astype(np.int8),
    )
    table.outcome[np.flatnonzero(kinds == 2)[:6]] = 0
    chosen = choose_calibration(table)
    found = detected(table)
    assert chosen.own == (True, False, True)
    assert chosen.maps[1] == fit(chosen.method, found.scores, found.true) != chosen.maps[0]


@pytest.mark.parametrize("number", [0, 1, 49])
def test_few_detections_are_left_as_they_are(number):
    table = drawn(8, number, a=0.5)
    chosen = choose_calibration(table)
    assert chosen == no_calibration(1)
    assert chosen(table.scores, table.classes).tolist() == table.scores.tolist()


def test_images_of_one_group_are_in_one_part():
    table = drawn(9, 3000, a=0.5)
    assert choose_calibration(table, ["one"] * 200) == no_calibration(1)  # no part is left to check
    assert choose_calibration(table, [str(i // 10) for i in range(200)]).method != "none"


MAPS = [
    ScoreMap((0.0,), (-1.3,), 0.4),
    ScoreMap((-2.0, 0.0, 1.0), (-3.0, -2.9, 4.0), 1.0),
    *(
        fit(name, *(lambda d: (d.scores, d.true))(detected(drawn(10, 900, 0.5))))
        for name in METHODS
    ),
]


@pytest.mark.parametrize("score_map", MAPS, ids=range(len(MAPS)))
def test_a_map_increases_and_has_its_inverse(score_map):
    scores = np.linspace(1e-4, 1 - 1e-4, 2001)
    calibrated = score_map(scores)
    assert (np.diff(calibrated) > 0).all() and 0 < calibrated[0] and calibrated[-1] < 1
    assert score_map.inverse(calibrated) == pytest.approx(scores, abs=1e-9)


@pytest.mark.parametrize("score_map", MAPS, ids=range(len(MAPS)))
def test_average_precision_of_each_class_is_that_of_the_raw_scores(score_map):
    table = drawn(11, 2000, 0.6, -0.5, classes=3)
    other = ScoreMap((0.0,), (1.0,), 2.0)
    scores = table.scores.copy()
    for c, each in enumerate((score_map, other, IDENTITY)):
        scores[table.classes == c] = each(scores[table.classes == c])
    after = MatchTable(
        table.names, table.images, table.truths, table.image, table.classes, scores, table.outcome
    )
    assert (after.ap() == table.ap()).all()


@pytest.mark.parametrize("true", [[0] * 30, [1] * 30, [0] * 15 + [1] * 15, [1] * 15 + [0] * 15])
@pytest.mark.parametrize("method", METHODS)
def test_no_outcome_makes_a_map_that_is_flat_or_infinite(method, true):
    fitted = fit(method, np.linspace(0.06, 1.0, 30), np.array(true, bool))
    assert np.isfinite([*fitted.x, *fitted.y, fitted.slope]).all() and fitted.slope > 0
    assert (np.diff(fitted(np.linspace(0.05, 0.999, 200))) > 0).all()


def test_equal_scores_are_one_place_for_the_isotonic_method():
    scores = np.repeat([0.1, 0.4, 0.9], 40)
    true = np.concatenate([np.arange(40) < n for n in (4, 10, 36)])
    fitted = fit("isotonic", scores, true)
    assert fitted(np.array([0.1, 0.4, 0.9])) == pytest.approx([0.1, 0.25, 0.9])


def test_the_calibration_error_worked_by_hand():
    scores = np.array([0.05, 0.15, 0.15, 0.95, 1.0])
    true = np.array([False, True, False, True, True])
    rows = reliability(scores, true, bins=10)
    assert [row["detections"] for row in rows] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert rows[1]["score"] == pytest.approx(0.15) and rows[1]["true"] == 0.5
    assert rows[2]["score"] is None and rows[2]["true"] is None
    # 1 x .05, 2 x .35, 2 x .025, over 5
    assert calibration_error(rows) == pytest.approx((0.05 + 0.7 + 0.05) / 5)
    assert calibration_error(reliability(scores[:0], true[:0])) is None
