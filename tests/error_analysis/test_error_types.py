"""Types of errors and their costs, against cases worked out by hand and against COCO's AP."""

import numpy as np
import pytest
from error_cases import collected, detections, random_case, record

from engine.error_analysis.error_types import TYPES, find_errors
from engine.metrics import coco_ap

NAMES = tuple(f"c{c}" for c in range(4))
BOX = [0.0, 0.0, 100.0, 100.0]
FAR = [150.0, 150.0, 190.0, 190.0]
HALF_OFF = [0.0, 50.0, 100.0, 150.0]  # IoU 1/3 with BOX
BARELY = [0.0, 90.0, 100.0, 190.0]  # IoU 10/190 with BOX
CLOSE = [0.0, 0.0, 100.0, 80.0]  # IoU .8 with BOX


def table(*images, names=("cat", "dog")):
    """images: (truth boxes, classes, found boxes, scores, classes), in the order of their names."""
    records = [record(each[0], each[1], name=f"{i}") for i, each in enumerate(images)]
    found = [detections(*each[2:]) for each in images]
    return find_errors(collected(found, records, names).samples(), names)


def costs(found):
    """Only those that cost something."""
    return {
        kind: pytest.approx(value) for kind, value in found.costs().items() if abs(value) > 1e-12
    }


def types(found):
    return [TYPES[error] if error >= 0 else "" for error in found.error]


def test_a_perfect_detector_makes_no_error():
    found = table(([BOX, FAR], [0, 1], [BOX, FAR], [0.9, 0.8], [0, 1]))
    assert types(found) == ["", ""] and costs(found) == {}
    assert found.counts(0.0) == dict.fromkeys(TYPES, 0)


def test_classification_costs_what_the_right_class_would_bring():
    # The only cat is called a dog: AP of cat is 0, there is no dog. Put right, AP is 1.
    found = table(([BOX], [0], [CLOSE], [0.9], [1]))
    assert types(found) == ["classification"] and costs(found) == {"classification": 1.0}
    assert found.counts(0.5)["missed"] == 0  # the error stands for the box


def test_a_corrected_class_takes_the_place_of_a_worse_detection_and_no_more():
    # dog .9 and cat .6 on one cat, and a real dog found at .5: cat has AP 1 already; without the
    # false dog before it the real dog rises from precision 1/2 to 1, and the mean from 3/4 to 1.
    image = ([BOX, FAR], [0, 1], [CLOSE, BOX, FAR], [0.9, 0.6, 0.5], [1, 0, 1])
    found = table(image)
    assert types(found) == ["classification", "", ""] and costs(found) == {"classification": 0.25}


def test_localisation_costs_what_the_right_place_would_bring():
    found = table(([BOX], [0], [HALF_OFF], [0.9], [0]))
    assert types(found) == ["localisation"] and costs(found) == {"localisation": 1.0}


def test_class_and_place_wrong_is_taken_away():
    # A false dog before the real one: precision 1/2 at all recalls, 1 without it; cat stays 0,
    # for the box counts as missed, and is what "missed" costs: the mean goes from 1/4 to 1/2 by
    # the dog alone.
    image = ([BOX, FAR], [0, 1], [HALF_OFF, FAR], [0.9, 0.5], [1, 1])
    found = table(image)
    assert types(found) == ["both", ""]
    assert costs(found) == {"both": 0.25, "missed": 0.25}
    assert found.counts(0.0)["missed"] == 1


def test_duplicate_is_taken_away():
    # Two boxes, found at .9 and .5, a duplicate at .7 between: 51 of COCO's 101 recalls have
    # precision 1, 50 have 2/3; without the duplicate all have 1.
    other = [110.0, 0.0, 190.0, 80.0]
    found = table(([BOX, other], [0, 0], [BOX, CLOSE, other], [0.9, 0.7, 0.5], [0, 0, 0]))
    assert types(found) == ["", "duplicate", ""]
    assert costs(found) == {"duplicate": 50 / 101 / 3}


def test_background_is_taken_away():
    found = table(([BOX], [0], [FAR, BOX], [0.9, 0.5], [0, 0]))
    assert types(found) == ["background", ""] and costs(found) == {"background": 0.5}
    assert types(table(([BOX], [0], [BARELY], [0.9], [0]))) == ["background"]


def test_missed_leaves_fewer_boxes_to_find():
    # One of two boxes is found: 51 of 101 recalls are reached; of one box to find, all.
    found = table(([BOX, FAR], [0, 0], [BOX], [0.9], [0]))
    assert costs(found) == {"missed": 50 / 101}
    assert found.counts(0.5)["missed"] == 1 and found.counts(0.95)["missed"] == 2


def test_nothing_found_at_all_costs_everything():
    assert costs(table(([BOX], [0], [], [], []))) == {"missed": 1.0}


def test_of_several_explanations_the_strongest_counts():
    # On one place a cat and a dog; the cat is found twice: the second is a duplicate, not a dog.
    image = ([BOX, CLOSE], [0, 1], [BOX, BOX], [0.9, 0.8], [0, 0])
    assert types(table(image)) == ["", "duplicate"]
    # Near its own class and right on another: the class is wrong, not the place.
    image = ([HALF_OFF, BOX], [0, 1], [BOX], [0.9], [0])
    assert types(table(image)) == ["classification"]


def test_a_crowd_is_neither_missed_nor_an_error():
    crowd = record([BOX], [0], crowd=[True])
    metrics = collected([detections([CLOSE], [0.9], [0])], [crowd], ("cat",))
    found = find_errors(metrics.samples(), ("cat",))
    assert types(found) == [""] and not found.missed().any()
    assert found.costs() == dict.fromkeys(TYPES)


@pytest.mark.parametrize("seed", range(12))
def test_ap50_is_cocos_and_a_cost_is_seldom_below_zero(seed):
    found, records = random_case(seed)
    scores = coco_ap(found, records, NAMES)
    errors = find_errors(collected(found, records, NAMES).samples(), NAMES)
    ap = errors.ap50()
    expected = [np.nan if row["ap50"] is None else row["ap50"] for row in scores.per_class]
    np.testing.assert_allclose(ap, expected, atol=1e-12)
    for kind in ("both", "duplicate", "background", "missed"):
        fixed = errors.fixed_ap50(kind)
        both = ~np.isnan(fixed) & ~np.isnan(ap)
        assert (fixed[both] >= ap[both] - 1e-12).all()  # taking false ones away never lowers AP
    assert sum(errors.counts(0.0).values()) >= (errors.error >= 0).sum()
    counted = (errors.outcome == 1).sum() + errors.missed().sum()
    assert counted <= len(errors.truth_class)  # the rest is what errors of class or place stand for


def test_of_chosen_images_as_if_there_were_no_others():
    found, records = random_case(3)
    whole = find_errors(collected(found, records, NAMES).samples(), NAMES)
    alone = find_errors(collected(found[1::2], records[1::2], NAMES).samples(), NAMES)
    chosen = np.isin(whole.images, alone.images)
    assert whole.costs(chosen) == pytest.approx(alone.costs(), nan_ok=True)
    assert whole.counts(0.3, chosen) == alone.counts(0.3)
