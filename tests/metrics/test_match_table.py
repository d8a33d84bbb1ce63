"""The table of matches: AP of any choice of images follows from it, and it is a small file."""

import numpy as np
import pytest
from test_metrics import BOX, ELSEWHERE, detections, random_case, record

from engine.errors import DataError
from engine.metrics import DetectionMetrics, MatchTable, coco_ap


def table_of(found, records, num_classes):
    metrics = DetectionMetrics([f"c{i}" for i in range(num_classes)])
    for each in zip(found, records, strict=True):
        metrics.update(*each)
    return metrics.match_table()


@pytest.mark.parametrize("seed", range(24))
def test_ap_of_any_choice_of_images_follows_from_the_table_of_matches(seed):
    """All images, some of them, and a draw with repetition: the same as scoring exactly those
    images.
    """
    rng = np.random.default_rng(seed)
    ties, most = seed % 2 == 0, 160 if seed % 6 == 0 else 12
    found, records = random_case(
        seed, images=6, num_classes=3, ties=ties, grid=(0, 4, 20)[seed % 3], most=most
    )
    table = table_of(found, records, 3)
    draws = [np.ones(6, int), rng.integers(0, 2, 6)]
    draws += (
        [] if ties else [np.bincount(rng.integers(0, 6, 6), minlength=6)]
    )  # the order of equal scores is nobody's
    for counts in draws:
        chosen = [(i, copy) for i, count in enumerate(counts) for copy in range(count)]
        copies = [
            record(r.boxes, r.classes, r.crowd, f"{i:04d}-{copy}")
            for i, copy in chosen
            for r in [records[i]]
        ]
        scores = coco_ap([found[i] for i, _ in chosen], copies, table.names)
        per_class = [np.nan if row["ap"] is None else row["ap"] for row in scores.per_class]
        np.testing.assert_allclose(table.ap(counts).mean(1), per_class, rtol=0, atol=1e-12)
        assert table.mean_ap(counts) == pytest.approx(scores.map, abs=1e-12)
        assert table.mean_ap(counts, iou=0.75) == pytest.approx(scores.map75, abs=1e-12)


def test_the_table_of_matches_is_a_small_file_that_says_when_it_is_not_one(tmp_path):
    found, records = random_case(1, images=20, most=40)
    table = table_of(found, records, 4)
    path, again = table.save(tmp_path / "matches.npz"), table.save(tmp_path / "again.npz")
    assert (
        path.read_bytes() == again.read_bytes()
        and path.stat().st_size < 20 * len(table.scores) + 4000
    )
    back = MatchTable.load(path)
    np.testing.assert_array_equal(back.ap(), table.ap())
    assert back.images == tuple(r.file.name for r in records) and back.names == (
        "c0",
        "c1",
        "c2",
        "c3",
    )
    for content in (path.read_bytes()[:300], b"", b"not a table"):
        again.write_bytes(content)
        with pytest.raises(DataError, match="again.npz: not a table of matches"):
            MatchTable.load(again)
    with pytest.raises(DataError, match="gone.npz"):
        MatchTable.load(tmp_path / "gone.npz")
    with pytest.raises(DataError, match="each of 20 images"):
        table.ap(np.ones(19))


def test_ap50_of_single_images():
    """Found, found with a better wrong one before it, missed, nothing to find."""
    truth = [record([BOX], [0], name=n) for n in "abc"] + [record([], [], name="d")]
    found = [
        detections([BOX], [0.9], [0]),
        detections([ELSEWHERE, BOX], [0.9, 0.5], [0, 0]),
        detections([], [], []),
        detections([BOX], [0.9], [0]),
    ]
    assert table_of(found, truth, 2).image_ap50() == [1.0, 0.5, 0.0, None]
    assert table_of([], [], 2).image_ap50() == [] and table_of([], [], 2).mean_ap() is None
