"""How much better one model is than another on the same images."""

import numpy as np
import pytest
from drawn_tables import drawn_table

from engine.errors import DataError
from engine.metrics.bootstrap import ap_of_draws, draw
from engine.metrics.paired import AP, AP50, compare, expanded_levels


def test_the_interval_is_that_of_the_differences_on_the_same_draws():
    a, b = drawn_table((1, 1), images=40), drawn_table((1, 2), images=40)
    result = compare(a, b, resamples=300, seed=4)
    draws = draw([f"image {name}" for name in a.images], 300, 4)
    by_hand = ap_of_draws(b, draws).map - ap_of_draws(a, draws).map
    mean = result.mean[AP]
    assert mean.value == pytest.approx(b.mean_ap() - a.mean_ap())
    assert (mean.plain_low, mean.plain_high) == pytest.approx(
        tuple(np.quantile(by_hand, [0.025, 0.975]))
    )
    assert mean.low < mean.plain_low and mean.high > mean.plain_high  # allows for 40 images only
    assert mean.better == pytest.approx((by_hand > 0).mean())
    assert mean.boxes == a.truths.sum() and result.images == result.groups == 40
    assert set(result.classes[AP50]) == {"c0", "c1", "c2"}
    one = result.classes[AP50]["c1"]
    assert one.a == pytest.approx(a.ap()[1, 0]) and one.images == (a.truths[:, 1] > 0).sum()


def test_a_model_is_as_good_as_itself_and_the_other_way_round_is_the_negative():
    a, b = drawn_table((2, 1)), drawn_table((2, 2))
    same = compare(a, a, resamples=100).mean[AP]
    assert (same.value, same.low, same.high, same.better, same.error) == (0, 0, 0, 0.5, 0)
    there, back = (compare(*pair, resamples=100).mean[AP50] for pair in ((a, b), (b, a)))
    assert there.value == -back.value and there.better == pytest.approx(1 - back.better)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))


def test_images_and_classes_may_come_in_another_order():
    a, b = drawn_table((3, 1)), drawn_table((3, 2))
    turned = b.subset(b.images[::-1], b.names[::-1])
    one, other = (compare(a, each, resamples=50).mean[AP] for each in (turned, b))
    assert (one.a, one.b, one.low) == pytest.approx((other.a, other.b, other.low))


def test_grouped_images_say_less():
    """Four copies of each image are one image."""
    a, b = (drawn_table((5, which), images=25, boxes=4.0) for which in (1, 2))
    copies = [
        [f"{name}-{copy}" for name in a.images for copy in range(4)],
        np.repeat(np.arange(25), 4),
    ]

    def copied(table):
        rows = [np.flatnonzero(table.image == i) for i in copies[1]]
        of = np.repeat(np.arange(100), [len(each) for each in rows])
        rows = np.concatenate(rows)
        return type(table)(
            table.names,
            tuple(copies[0]),
            table.truths[copies[1]],
            of.astype(np.int32),
            table.classes[rows],
            table.scores[rows],
            table.outcome[rows],
        )

    groups = {name: name.split("-")[0] for name in copies[0]}
    alone = compare(copied(a), copied(b), resamples=400).mean[AP]
    grouped = compare(copied(a), copied(b), groups, resamples=400).mean[AP]
    assert grouped.groups == 25 and alone.groups == 100
    assert 1.6 < grouped.error / alone.error < 2.5  # about the root of four


def test_levels_of_small_numbers_of_groups_are_further_out():
    """Hesterberg's table: for n = 20 the 2.5 % become 1.6 %."""
    assert expanded_levels(20)[0] == pytest.approx(0.0159, abs=1e-4)
    assert expanded_levels(20).sum() == pytest.approx(1)
    assert expanded_levels(100_000)[0] == pytest.approx(0.025, abs=1e-5)


def test_a_class_that_is_not_there_has_no_interval_and_no_say():
    a, b = drawn_table((6, 1), classes=2), drawn_table((6, 2), classes=2)
    rare = a.truths.copy()
    rare[:, 1] = 0
    a, b = (
        type(t)(t.names, t.images, rare, t.image, t.classes, t.scores, t.outcome) for t in (a, b)
    )
    result = compare(a, b, resamples=30)
    assert result.classes[AP]["c1"].value is None and result.classes[AP]["c1"].low is None
    assert result.mean[AP].value == pytest.approx(result.classes[AP]["c0"].value)


def test_one_image_has_no_interval():
    a, b = drawn_table((7, 1), images=1), drawn_table((7, 2), images=1)
    assert compare(a, b, resamples=30).mean[AP].low is None


def test_other_images_or_boxes_are_refused():
    a = drawn_table((1, 1))
    with pytest.raises(DataError, match="30 and 29 images"):
        compare(a, a.subset(a.images[1:], a.names))
    with pytest.raises(DataError, match="measure both models anew"):
        compare(a, drawn_table((2, 1)))
    with pytest.raises(DataError, match="without class 'dog'"):
        a.subset(a.images, ["dog"])


def test_one_model_alone_has_the_intervals_of_its_own_metrics():
    table = drawn_table((8, 1), images=40)
    alone = compare(None, table, resamples=200, seed=2)
    own = ap_of_draws(table, draw([f"image {name}" for name in table.images], 200, 2)).map
    mean = alone.mean[AP]
    assert mean.a is None and mean.b == pytest.approx(table.mean_ap()) and mean.value is None
    assert (mean.plain_low, mean.plain_high) == pytest.approx(
        tuple(np.quantile(own, [0.025, 0.975]))
    )
    assert mean.low < mean.b < mean.high and mean.better is None
