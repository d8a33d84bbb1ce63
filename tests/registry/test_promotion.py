"""Who is champion, case by case."""

from dataclasses import replace

import pytest

from engine.registry import gates
from engine.registry.gates import Decision, Measured, Verdict, decide

OLD = Measured(
    "metrics/mAP50-95",
    0.50,
    "test",
    data_digest="d1",
    class_hash="c1",
    weights_sha256="w1",
    version="3",
)
NEW = replace(OLD, value=0.51, weights_sha256="w2", version="4")


def test_the_first_one_measured_is_champion():
    decision = decide(NEW, None)
    assert decision.promote and "no champion" in decision.reason


def test_better_replaces_and_says_by_what():
    decision = decide(NEW, OLD)
    assert decision.promote
    assert (
        "0.5100" in decision.reason
        and "0.5000" in decision.reason
        and "version 3" in decision.reason
    )


@pytest.mark.parametrize("value", [0.49, 0.50])
def test_worse_and_equal_do_not(value):
    decision = decide(replace(NEW, value=value), OLD)
    assert not decision.promote and "not better" in decision.reason


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), 0.0, -0.1])
@pytest.mark.parametrize("champion", [None, OLD])
def test_what_finds_nothing_or_was_not_measured_is_never_champion_and_the_reason_is_reported(
    value, champion
):
    decision = decide(replace(NEW, value=value), champion)
    assert not decision.promote
    words = (
        "model with metric 0 is never promoted"
        if value in {0.0, -0.1}
        else "not known on test: a model that could not be measured is never promoted"
    )
    assert words in decision.reason


def test_anything_found_is_enough_where_there_is_no_champion():
    assert decide(replace(NEW, value=1e-4), None).promote


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_figure_that_is_missing_promotes_nobody(value):
    assert not decide(replace(NEW, value=value), None).promote
    assert not decide(replace(NEW, value=value), OLD).promote
    held = decide(NEW, replace(OLD, value=value))
    assert not held.promote and "no known metrics/mAP50-95" in held.reason


@pytest.mark.parametrize(
    "champion, words",
    [
        (replace(OLD, data_digest="d0"), "other test images"),
        (replace(OLD, data_digest=""), "other test images"),
        (replace(OLD, split="val"), "was measured on val"),
        (replace(OLD, metric="metrics/mAP50"), "measured by metrics/mAP50"),
        (replace(OLD, class_hash="c0"), "other classes"),
    ],
)
def test_what_does_not_compare_is_held_with_the_reason_and_the_way_out(champion, words):
    decision = decide(replace(NEW, value=0.99), champion)
    assert not decision.promote
    assert decision.reason.startswith("held: ") and words in decision.reason
    assert "version 4" in decision.reason and "alias 'champion'" in decision.reason


def test_a_champion_presented_again_stays():
    decision = decide(replace(OLD, data_digest="d9"), OLD)
    assert decision.promote and "already" in decision.reason


@pytest.mark.parametrize(
    "now, reported",
    [
        (0.50, ""),
        (0.500001, ""),
        (0.40, ", but was promoted with 0.5000"),
        (None, ", but was promoted with 0.5000"),
    ],
)
def test_a_champion_measured_again_stays_and_the_value_it_was_promoted_with_is_reported(
    now, reported
):
    again = replace(OLD, value=now)
    decision = decide(again, replace(again, promoted_value=0.50))
    assert decision.promote and decision.reason.endswith(f"it is champion already{reported}")


def test_the_champions_weights_in_another_file_are_no_better():
    decision = decide(replace(OLD, version="4"), OLD)
    assert not decision.promote and "exported anew" in decision.reason


def test_a_gate_that_is_added_in_one_place_decides(monkeypatch):
    def is_small(candidate, champion):
        """The candidate's class hash is short."""
        small = len(candidate.class_hash) < 3
        return Verdict(small, "" if small else "held: too many classes")

    monkeypatch.setattr(gates, "GATES", [*gates.GATES, is_small])
    assert decide(NEW, OLD).reason.startswith("metrics/mAP50-95 0.5100 on test, better than")
    large = replace(NEW, class_hash="c1000")
    assert decide(large, None) == Decision(False, "held: too many classes")
    worse = decide(replace(NEW, value=0.1), OLD)
    assert "not better" in worse.reason, "the first gate that refuses decides"
