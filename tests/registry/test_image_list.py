"""Lists of images beside a version: the same whatever the order, and what changed by split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.registry.image_list import (
    SplitChanges,
    as_text,
    changes,
    images_of,
    labels_digest,
    read_images,
)
from engine.types import SPLITS, ImageRecord

BOXES = [[0, 0, 4, 4], [5, 5, 9, 9]]


def record(sha256="a", split="train", boxes=BOXES, classes=(0, 1), crowd=None):
    boxes, classes = np.array(boxes, np.float64).reshape(-1, 4), np.array(classes, np.int64)
    return ImageRecord(f"/x/{sha256}.jpg", sha256, (9, 9), boxes, classes, split, crowd=crowd)


def test_labels_are_boxes_with_the_names_of_their_classes_in_any_order():
    names = ("cat", "dog")
    one = labels_digest(record(), names)
    assert one == labels_digest(record(boxes=BOXES[::-1], classes=(1, 0)), names)
    assert one == labels_digest(record(classes=(1, 0)), ("dog", "cat"))  # other numbers alone
    assert one == labels_digest(record(crowd=np.array([False, False])), names)
    others = [
        record(classes=(0, 0)),
        record(boxes=[[0, 0, 4, 4.5], BOXES[1]]),
        record(crowd=np.array([True, False])),
        record(boxes=BOXES[:1], classes=(0,)),
        record(boxes=[], classes=()),
    ]
    assert len({one, *(labels_digest(each, names) for each in others)}) == 6


SIDES = st.fixed_dictionaries(
    {s: st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from("xy")) for s in SPLITS}
)


@given(images=SIDES)
def test_what_is_written_is_read_again(images, tmp_path_factory):
    file = tmp_path_factory.mktemp("list") / "images.csv"
    file.write_text(as_text(images), encoding="ascii", newline="")
    assert read_images(file) == images


@given(before=SIDES, now=SIDES)
def test_counts_of_changes_add_up(before, now):
    for each in changes(before, now):
        assert each.kept + each.added + each.came == len(now[each.split])
        assert each.kept + each.removed + each.went == len(before[each.split])
        assert each.relabelled <= each.kept + each.came
    assert not any(each.added or each.removed or each.relabelled for each in changes(now, now))


def test_changes_by_hand():
    before = images_of([record("a"), record("b"), record("c"), record("d", "test")], ("cat", "dog"))
    now = images_of(
        [record("a", classes=(1, 1)), record("b", "val"), record("d", "test"), record("e", "test")],
        ("cat", "dog"),
    )
    assert changes(before, now) == [
        SplitChanges("train", kept=1, added=0, removed=1, came=0, went=1, relabelled=1),
        SplitChanges("val", kept=0, added=0, removed=0, came=1, went=0, relabelled=0),
        SplitChanges("test", kept=1, added=1, removed=0, came=0, went=0, relabelled=0),
    ]


@pytest.mark.parametrize(
    "content", [None, "sha256,split\na,train\n", "sha256,split,labels\na,x,y\n"]
)
def test_what_is_no_such_list_is_none(content, tmp_path):
    file = tmp_path / "images.csv"
    if content is not None:
        file.write_text(content)
    assert read_images(file) is None
