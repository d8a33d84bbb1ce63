"""All draws computed together are what the table says of each draw, one by one."""

import numpy as np
import pytest
from drawn_tables import drawn_table

from engine.errors import DataError
from engine.metrics import bootstrap
from engine.metrics.bootstrap import ap_of_draws, draw


def one_by_one(table, draws):
    """The slow reference: (C, T, B)."""
    each = [table.ap(draws.of_images(b)) for b in range(draws.counts.shape[1])]
    return np.stack(each, -1)


@pytest.mark.parametrize("seed", range(12))
def test_ap_of_all_draws_is_that_of_each(seed):
    table = drawn_table(
        (seed, 1),
        images=(4, 17, 60)[seed % 3],
        classes=1 + seed % 5,
        ignored=(0.0, 0.1)[seed % 2],
        ties=seed % 4 == 0,
    )
    groups = [f"g{i // (1 + seed % 3)}" for i in range(len(table.images))]
    draws = draw(groups, 60, seed)
    reference, together = one_by_one(table, draws), ap_of_draws(table, draws)
    np.testing.assert_allclose(together.ap, reference.mean(1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(together.ap50, reference[:, 0], rtol=0, atol=1e-12)
    means = [table.mean_ap(draws.of_images(b)) for b in range(60)]
    np.testing.assert_allclose(
        together.map, [np.nan if m is None else m for m in means], rtol=0, atol=1e-12
    )


def test_recalls_are_reached_as_in_coco_where_the_recall_is_a_round_number():
    """20 boxes, found one after the other: recalls .05, .1, ... .35, which is a little less than
    COCO's 35th.
    """
    table = drawn_table((3, 3), images=20, classes=1, boxes=8.0, false=9.0)
    draws = draw(table.images, 400, 5)
    assert (draws.counts.T @ table.truths[:, 0] % 20 == 0).any()
    np.testing.assert_allclose(
        ap_of_draws(table, draws).ap, one_by_one(table, draws).mean(1), rtol=0, atol=1e-12
    )


def test_draws_taken_in_parts_are_the_same_draws(monkeypatch):
    table = drawn_table((1, 1))
    draws = draw(table.images, 50)
    whole = ap_of_draws(table, draws)
    monkeypatch.setattr(bootstrap, "MOST_NUMBERS", 300)
    np.testing.assert_array_equal(ap_of_draws(table, draws).ap, whole.ap)


def test_images_of_a_group_are_drawn_together_and_as_many_groups_as_there_are():
    draws = draw(["a", "b", "a", "c", "c", "c"], 500, 1)
    assert (draws.counts.sum(0) == 3).all()
    for b in range(500):
        counts = draws.of_images(b)
        assert counts[0] == counts[2] and counts[3] == counts[4] == counts[5]
    assert abs(draws.counts.mean(1) - 1).max() < 0.15  # every group as often as another
    again = draw(["a", "b", "a", "c", "c", "c"], 500, 1)
    np.testing.assert_array_equal(again.counts, draws.counts)


def test_a_class_without_detections_has_ap_0_and_one_without_boxes_none():
    table = drawn_table((1, 1), classes=2)
    silent = table.subset(table.images, ["c0"])
    empty = type(table)(
        ("c0", "c1"),
        silent.images,
        np.c_[np.zeros_like(silent.truths), silent.truths],
        silent.image[:0],
        silent.classes[:0],
        silent.scores[:0],
        silent.outcome[:0],
    )
    result = ap_of_draws(empty, draw(table.images, 20))
    assert np.isnan(result.ap[0]).all() and (result.ap[1] == 0).all()


def test_draws_of_other_images_are_refused():
    with pytest.raises(DataError, match="29 images for a table of 30"):
        ap_of_draws(drawn_table((1, 1)), draw(["x"] * 29, 5))
