"""Thresholds for a goal: by hand, against all thresholds tried one by one, and what is reported."""

import json

import numpy as np
import pytest
from drawn_tables import drawn_table

from engine.config.goal import Goal, read_goal
from engine.errors import ConfigError, DataError
from engine.metrics import MatchTable
from engine.metrics.calibration import no_calibration
from engine.metrics.operating_point import OperatingPoint
from engine.metrics.threshold_report import report, warnings_of
from engine.metrics.thresholds import Choice, choose, threshold_for

#        right wrong right right wrong wrong
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.1])
TRUE = np.array([True, False, True, True, False, False])


@pytest.mark.parametrize(
    "goal, threshold, reached",
    [
        ("max_f1", 0.55, True),  # 3 of 4 reported, 4 to find: F1 .75; above and below it .67
        ("precision>=0.7", 0.55, True),  # .75 at .6; more recall than 1.0 at .9
        ("precision>=0.75", 0.55, True),
        ("precision>=0.8", 0.85, True),  # only the best one
        ("recall>=0.25", 0.85, True),  # all others with it are less precise
        ("recall>=0.5", 0.55, True),  # .75 of precision, and .67 at .7
        ("recall>=0.75", 0.55, True),
        ("recall>=0.8", 0.55, False),  # never more than .75
        ({"miss": 10, "false_alarm": 1}, 0.55, True),
        ({"miss": 1, "false_alarm": 1}, 0.55, True),  # from above: 4, 3, 4, 3, 2, 3, 4
        ({"miss": 1, "false_alarm": 10}, 0.85, True),
    ],
    ids=str,
)
def test_thresholds_by_hand(goal, threshold, reached):
    found = threshold_for(read_goal(goal), SCORES, TRUE, boxes=4)
    assert (found.threshold, found.reached) == (pytest.approx(threshold), reached)


def test_where_false_alarms_cost_all_nothing_is_reported():
    scores, true = np.array([0.9, 0.8]), np.array([False, True])
    found = threshold_for(read_goal({"miss": 1, "false_alarm": 5}), scores, true, boxes=1)
    assert found == Choice(1.0, True, 0.0, 0.0)


def test_of_equally_good_thresholds_the_highest():
    # nothing costs 1, and so does 1 right and 1 wrong
    scores, true = np.array([0.9, 0.8]), np.array([False, True])
    assert threshold_for(read_goal({"miss": 1, "false_alarm": 1}), scores, true, 1).threshold == 1
    # F1 2/4 = .5 with the first, 4/8 = .5 with all five
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    true = np.array([True, False, False, False, True])
    assert threshold_for(Goal(), scores, true, boxes=3).threshold == pytest.approx(0.85)


def test_equal_scores_are_reported_together():
    scores, true = np.array([0.9, 0.5, 0.5, 0.5]), np.array([True, True, False, False])
    found = threshold_for(read_goal("precision>=0.6"), scores, true, boxes=2)
    assert found.threshold == pytest.approx(0.7) and found.recall == 0.5


GOALS = ["max_f1", "precision>=0.6", "recall>=0.7", {"miss": 3, "false_alarm": 1}]


@pytest.mark.parametrize("goal", map(read_goal, GOALS), ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_no_threshold_is_better(goal, ties):
    """Against each threshold tried one by one, the slow way."""
    for seed in range(20):
        table = drawn_table((seed, 1), images=8, classes=1, ties=ties)
        counted = table.outcome[:, 0] != 2
        scores = np.maximum(table.scores[counted], 0.05)  # nothing has a score of 0
        true = table.outcome[counted, 0] == 1
        boxes = int(table.truths.sum())
        found = threshold_for(goal, scores, true, boxes)
        mine = value(goal, scores > found.threshold, true, boxes)
        all_values = [value(goal, scores > t, true, boxes) for t in [*scores, *(scores - 1e-9), 1]]
        assert mine >= max(all_values) - 1e-12
        kept = scores > found.threshold
        assert found.recall == pytest.approx((true & kept).sum() / boxes)
        bound = {"precision": found.precision, "recall": found.recall}.get(goal.kind)
        if bound is not None:
            assert found.reached == (bound >= goal.least - 1e-12)


def value(goal, kept, true, boxes):
    """Larger is better."""
    hits, reported = (true & kept).sum(), kept.sum()
    precision, recall = hits / max(reported, 1), hits / boxes
    if goal.kind == "max_f1":
        return 2 * hits / (reported + boxes)
    if goal.kind == "cost":
        return -(goal.miss * (boxes - hits) + goal.false_alarm * (reported - hits))
    bound, other = (precision, recall) if goal.kind == "precision" else (recall, precision)
    return 1 + other if bound >= goal.least - 1e-12 else bound


@pytest.mark.parametrize("goal", ["precision>=0.8", "recall>=0.6"])
def test_a_goal_that_can_be_reached_is_reached_by_every_class_where_it_was_chosen(goal):
    table = drawn_table((3, 3), images=120, classes=3, boxes=4.0, false=3.0)
    table.scores[table.outcome[:, 0] == 1] += 0.4  # true ones are better
    table = clipped(table)
    point = choose(table, read_goal(goal))
    assert all(point.reached) and all(point.own)
    name, bound = goal.split(">=")
    rows = report(point, table, "val", resamples=50)["classes"]
    assert all(row[name] >= float(bound) for row in rows)


def clipped(table):
    return MatchTable(
        *(getattr(table, f) for f in ("names", "images", "truths", "image", "classes")),
        np.clip(table.scores, 0, 1),
        table.outcome,
    )


def test_a_class_without_boxes_takes_the_threshold_of_all_and_that_is_told():
    table = drawn_table((4, 4), images=60, classes=3)
    table.truths[:, 2] = 0
    mine = table.classes == 2
    table.outcome[mine] = 0
    point = choose(table, Goal())
    assert point.own == (True, True, False) and point.thresholds[2] == point.overall
    assert "c2: fewer than 10 boxes in val" in warnings_of(point, table.names)[0]
    row = report(point, table, "val", resamples=50)["classes"][2]
    assert row["boxes"] == 0 and row["recall"] is row["recall_low"] is row["f1"] is None


def test_a_goal_out_of_reach_is_told():
    table = drawn_table((5, 5), images=60, classes=2)
    point = choose(table, read_goal("recall>=0.99"))
    assert point.reached == (False, False)
    assert warnings_of(point, table.names)[0].startswith("recall>=0.99 is not reached on val by c0")


def test_without_a_true_detection_there_is_nothing_to_choose():
    table = drawn_table((6, 6), images=10)
    table.outcome[:] = 0
    assert choose(table, Goal()) is None


# Reports ------------------------------------------------------------------------------------------


def by_hand(outcomes, truths, groups=None):
    """One class; outcomes: of each image those of its detections, all of score .9."""
    image = np.concatenate([np.full(len(each), i) for i, each in enumerate(outcomes)])
    outcome = np.concatenate([np.array(each, np.int8) for each in outcomes])
    table = MatchTable(
        ("cat",),
        tuple(f"{i}" for i in range(len(outcomes))),
        np.array(truths, np.int32)[:, None],
        image.astype(np.int32),
        np.zeros(len(image), np.int32),
        np.full(len(image), 0.9),
        np.repeat(outcome[:, None], 10, 1),
    )
    point = OperatingPoint(Goal(), "val", 0.5, (0.5,), (True,), (True,), no_calibration(1))
    return report(point, table, "test", groups)["classes"][0]


def test_precision_and_recall_by_hand_and_their_intervals_hold_them():
    row = by_hand([[1, 0], [1], [1, 2], []] * 10, [2, 1, 1, 1] * 10)
    assert (row["boxes"], row["detections"]) == (50, 40)  # a detection on a crowd is none
    assert row["precision"] == 0.75 and row["recall"] == 0.6
    assert row["f1"] == pytest.approx(2 / 3)
    assert 0.6 < row["precision_low"] < 0.75 < row["precision_high"] < 0.9
    assert 0.45 < row["recall_low"] < 0.6 < row["recall_high"] < 0.75


def test_interval_of_independent_images_is_that_of_the_normal_distribution():
    rng = np.random.default_rng(0)
    right = rng.random(2000) < 0.8
    row = by_hand([[1] if each else [0] for each in right], [1] * 2000)
    error = np.sqrt(right.mean() * (1 - right.mean()) / 2000)
    assert row["precision_low"] == pytest.approx(right.mean() - 1.96 * error, abs=0.003)
    assert row["precision_high"] == pytest.approx(right.mean() + 1.96 * error, abs=0.003)


def test_groups_are_drawn_as_wholes():
    outcomes = [[1] if i // 10 % 2 else [0] for i in range(200)]
    alone = by_hand(outcomes, [1] * 200)
    grouped = by_hand(outcomes, [1] * 200, [str(i // 10) for i in range(200)])
    width = [row["precision_high"] - row["precision_low"] for row in (alone, grouped)]
    assert width[1] > 2.5 * width[0]  # sqrt(10) for ten copies


def test_all_right_is_not_certain():
    """Clopper and Pearson: of n right ones, the lower end is .025 ** (1 / n)."""
    row = by_hand([[1], [1], [1, 1], []], [1, 1, 2, 0])
    assert row["precision"] == 1.0 and row["precision_high"] == 1.0
    assert row["precision_low"] == pytest.approx(0.025 ** (1 / 3))
    row = by_hand([[0], [0], [0], []], [1, 1, 2, 0])
    assert (row["recall"], row["recall_low"]) == (0.0, 0.0)
    assert row["recall_high"] == pytest.approx(1 - 0.025 ** (1 / 3))


def test_one_image_gives_no_interval_but_for_all_or_nothing():
    row = by_hand([[1, 0]], [2])
    assert row["precision"] == 0.5 and row["precision_low"] is row["precision_high"] is None


# What travels -------------------------------------------------------------------------------------


def test_a_point_survives_json():
    table = drawn_table((7, 7), images=200, classes=3)
    point = choose(table, read_goal({"miss": 10, "false_alarm": 1}))
    assert point.calibration.method != "none"
    again = OperatingPoint.from_dict(json.loads(json.dumps(point.to_dict())), 3)
    assert again == point


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("thresholds"),
        lambda d: d["thresholds"].pop(),
        lambda d: d["calibration"]["maps"][0].update(slope=-1),
        lambda d: d["calibration"]["maps"][0].update(x=[0, 0], y=[0, 1]),
        lambda d: d.update(goal="best"),
        lambda d: d.update(calibration=None),
    ],
)
def test_a_damaged_point_is_refused(change):
    values = choose(drawn_table((7, 7)), Goal()).to_dict()
    change(values)
    with pytest.raises(DataError):
        OperatingPoint.from_dict(values, 3)


def test_limits_are_where_calibrated_scores_reach_the_thresholds():
    table = drawn_table((8, 8), images=200, classes=3)
    point = choose(table, Goal())
    scores = np.random.default_rng(0).random((500, 3))
    calibrated = point.calibration(scores.ravel(), np.tile([0, 1, 2], 500)).reshape(500, 3)
    assert ((scores > point.limits()) == (calibrated > np.array(point.thresholds))).all()
    assert ((scores > point.limits(0.4)) == (calibrated > 0.4)).all()


# Goals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting, text",
    [
        ("max_f1", "max_f1"),
        ("precision >= 0.95", "precision>=0.95"),
        ("recall>=1", "recall>=1"),
        ({"miss": 10, "false_alarm": 1}, "lowest cost (miss 10, false alarm 1)"),
    ],
    ids=str,
)
def test_goals_are_read_and_written_back(setting, text):
    goal = read_goal(setting)
    assert str(goal) == text and read_goal(goal.setting) == goal


@pytest.mark.parametrize(
    "setting, said",
    [
        ("max_fi", "Did you mean 'max_f1'"),
        ("precision>0.9", "precision>=0.95"),
        ("precision>=95", "precision>=0.95 for 95 %"),
        ("recall>=0", "above 0"),
        ("recall>=high", "'high' is no number"),
        ({"miss": 10}, "cost of a false alarm"),
        ({"miss": 10, "false_alarm": -1}, "above 0"),
        ({"mis": 1, "false_alarm": 1}, "'mis'"),
        (3, "Write one of"),
    ],
    ids=str,
)
def test_goals_that_are_none(setting, said):
    with pytest.raises(ConfigError, match="goal") as caught:
        read_goal(setting)
    assert said in str(caught.value)
