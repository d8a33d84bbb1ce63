"""Which verdict follows from which evidence, one rule after the other, by hand."""

import pytest

from engine.difference import Difference
from engine.errors import ConfigError
from engine.gates import (
    GATES,
    Evidence,
    Finding,
    Gate,
    Subject,
    Verdict,
    decide,
    gates_for,
    read_gates,
)
from engine.gates.evidence import counted

PROMOTE, HOLD, REJECT = Verdict.PROMOTE, Verdict.HOLD, Verdict.REJECT


def difference(value, half=0.01, of="", a=0.5, boxes=100, groups=100):
    """b - a = value, with an interval of `half` to both sides."""
    return Difference(
        "AP50-95",
        of,
        boxes,
        min(boxes, groups),
        a,
        a + value,
        value - half,
        value + half,
        error=half / 1.96,
        groups=groups,
    )


def evidence(value=0.0, half=0.01, **other):
    groups = other.get("groups", 100)
    return Evidence(
        **{
            "candidate": Subject("detector/2", bytes=1_000_000, names=("cat", "dog")),
            "champion": Subject("detector/1", bytes=1_000_000, names=("cat", "dog")),
            "mean": difference(value, half, groups=groups),
            "classes": tuple(difference(value, 2 * half, of) for of in ("cat", "dog")),
            "images": groups,
            "groups": groups,
        }
        | other
    )


def first(value=0.5, **other):
    mean = Difference("AP50-95", "", 100, 100, None, value, groups=100)
    classes = tuple(Difference("AP50-95", of, 50, 50, None, value) for of in ("cat", "dog"))
    return evidence(champion=None, **{"mean": mean, "classes": classes, **other})


@pytest.mark.parametrize(
    ("value", "half", "better", "not_worse"),
    [
        (0.03, 0.01, PROMOTE, PROMOTE),
        (0.005, 0.01, HOLD, PROMOTE),  # -.5 to +1.5: not proven better, not worse by 2
        (0.0, 0.03, HOLD, HOLD),
        (-0.015, 0.01, HOLD, HOLD),  # -2.5 to -.5 is all below 0, so it is surely worse
        (-0.05, 0.01, REJECT, REJECT),
    ],
)
def test_superiority_and_non_inferiority(value, half, better, not_worse):
    if value == -0.015:
        better = REJECT
    asked = evidence(value, half)
    assert GATES["better"]().ask(asked).verdict == better
    assert GATES["not_worse"]().ask(asked).verdict == not_worse


def test_the_margin_is_the_users():
    asked = evidence(-0.03, 0.01)  # -4 to -2 points
    assert GATES["not_worse"](margin=0.05).ask(asked).verdict == PROMOTE
    assert GATES["not_worse"](margin=0.03).ask(asked).verdict == HOLD
    assert GATES["not_worse"](margin=0.01).ask(asked).verdict == REJECT


def test_one_class_that_pays_is_refused_however_good_the_mean():
    classes = (difference(0.2, 0.05, "cat"), difference(-0.15, 0.05, "dog"))
    found = GATES["per_class"]().ask(evidence(0.03, classes=classes))
    assert found.verdict == REJECT and "dog" in found.reason and "cat" not in found.reason
    assert [row["class"] for row in found.rows] == ["dog"]
    unsure = (difference(0.2, 0.05, "cat"), difference(-0.15, 0.12, "dog"))
    assert GATES["per_class"]().ask(evidence(0.03, classes=unsure)).verdict == PROMOTE


def test_many_classes_need_more_than_one_does():
    """2.2 errors below the margin: enough for one class, not for one of 80 (Holm)."""
    bad = difference(-0.05 - 0.0225, 0.02, "bad")
    assert GATES["per_class"]().ask(evidence(classes=(bad,))).verdict == REJECT
    others = tuple(difference(0.0, 0.02, f"c{i}") for i in range(79))
    assert GATES["per_class"]().ask(evidence(classes=(bad, *others))).verdict == PROMOTE


def test_too_few_images_or_boxes_hold_and_say_what_is_missing():
    few = evidence(groups=12, images=12)
    found = GATES["min_test"]().ask(few)
    assert found.verdict == HOLD and "12 images of 20" in found.reason
    assert "8 further images" in found.advice
    rare = evidence(classes=(difference(0, of="cat"), difference(0, of="dog", boxes=4)))
    found = GATES["min_test"]().ask(rare)
    assert found.verdict == HOLD and "dog (4)" in found.reason and "6 dog" in found.advice
    assert GATES["min_test"](boxes=4).ask(rare).verdict == PROMOTE
    grouped = evidence(images=400, groups=10)
    assert "10 groups of images of 20" in GATES["min_test"]().ask(grouped).reason


def test_a_first_champion_reaches_the_floor():
    passed = GATES["min_test"]().ask(first(0.5))
    assert passed.verdict == PROMOTE and "AP50-95 0.500 reaches the floor of 0.1" in passed.reason
    low = GATES["min_test"]().ask(first(0.028))
    assert low.verdict == REJECT and "0.028" in low.reason and "0.1" in low.reason
    assert GATES["min_test"]().ask(evidence(0.0)).verdict == PROMOTE
    nothing = first(mean=Difference("AP50-95", "", 0, 0, None, None))
    assert decide(nothing, [GATES["size"]()]).verdict == HOLD
    assert decide(first(0.028), [GATES["size"]()]).verdict == REJECT, "asked though not listed"


def test_a_first_champion_has_nobody_to_be_compared_with():
    gates = [GATES[name]() for name in ("better", "not_worse", "per_class", "size", "latency")]
    assert decide(first(), gates).verdict == PROMOTE


def test_leaked_test_images_are_left_out_and_enough_must_remain():
    few = {"a copy is in train": 30, "mirrored": 0}
    assert GATES["leaks"]().ask(evidence(left_out=few)).verdict == PROMOTE
    found = GATES["leaks"]().ask(evidence(left_out=few, images=15, groups=15))
    assert found.verdict == HOLD and "30 (a copy is in train)" in found.reason
    assert "mirrored" not in found.reason


def test_copies_that_nobody_looked_for_and_unknown_training_images_hold():
    said = GATES["leaks"]().ask(evidence(searched=False))
    assert said.verdict == HOLD and "have not been looked for" in said.reason
    said = GATES["leaks"]().ask(evidence(unrecorded=("detector/2",)))
    assert said.verdict == HOLD and "detector/2 may have been trained on test" in said.reason
    said = GATES["leaks"]().ask(evidence(unrecorded=("detector/1",)))
    assert said.verdict == PROMOTE and "of detector/1 are not recorded" in said.reason


def test_a_champion_taken_away_is_replaced_by_a_person():
    gone = {"vacant": "version 3 was champion until 2026-11-30"}
    said = decide(evidence(0.3, **gone), [])
    assert said.verdict == HOLD and said.asks_a_person
    assert "compared with detector/1, the one before" in said.reason
    assert decide(evidence(0.3, **gone, approved_by="Jo"), []).verdict == PROMOTE
    assert decide(first(0.9, **gone), []).verdict == HOLD


def test_a_verdict_by_a_busy_machine_passes():
    slow = Difference("ms", "", 0, 0, 10.0, 20.0, 9.0, 11.0, error=0.5, groups=10)
    by_latency = decide(evidence(0.3, latency=slow), [GATES["latency"]()])
    assert by_latency.verdict == REJECT and by_latency.passing
    both = decide(evidence(-0.3, latency=slow), [GATES["latency"](), GATES["better"]()])
    assert both.verdict == REJECT and not both.passing


def test_a_class_that_goes_away_needs_a_yes_and_a_new_one_does_not():
    new = evidence(new_classes=("bird",))
    assert decide(new, []).verdict == PROMOTE and "new: bird" in decide(new, []).findings[1].reason
    lost = evidence(lost_classes=("dog",))
    assert decide(lost, []).verdict == HOLD
    assert decide(evidence(lost_classes=("dog",), approved_by="ann"), []).verdict == PROMOTE
    other = evidence(classes=(), lost_classes=("cat", "dog"), new_classes=("car",))
    assert decide(other, []).verdict == HOLD


def test_size_and_latency_are_relative_to_the_champion():
    larger = evidence(candidate=Subject("detector/2", bytes=1_200_000))
    assert GATES["size"]().ask(larger).verdict == REJECT
    assert GATES["size"](ratio=1.3).ask(larger).verdict == PROMOTE
    slow = Difference("ms", "", 0, 0, 10.0, 13.0, 2.5, 3.5)
    assert GATES["latency"]().ask(evidence(latency=slow)).verdict == REJECT
    assert GATES["latency"](ratio=1.3).ask(evidence(latency=slow)).verdict == HOLD
    assert GATES["latency"](ratio=1.4).ask(evidence(latency=slow)).verdict == PROMOTE


def test_a_person_says_yes():
    assert GATES["approval"]().ask(evidence()).verdict == HOLD
    assert "detectflow approve detector/2" in GATES["approval"]().ask(evidence()).advice
    assert GATES["approval"]().ask(evidence(approved_by="ann")).verdict == PROMOTE


def test_a_rejection_outweighs_a_hold_and_a_hold_a_promotion():
    worse = evidence(-0.1, 0.01)
    gates = [GATES["approval"](), GATES["better"](), GATES["size"]()]
    decision = decide(worse, gates)
    assert decision.verdict == REJECT and decision.reason.startswith("better: worse:")
    assert [each.gate for each in decision.findings] == [
        "measured",
        "classes",
        "approval",
        "better",
        "size",
    ]
    assert decide(evidence(0.1, 0.01), gates).verdict == HOLD
    assert decide(evidence(0.1, 0.01, approved_by="ann"), gates).verdict == PROMOTE


def test_who_chose_no_gates_gets_those_of_the_case():
    def names(gates):
        return [gate.name for gate in gates]

    changed, same = evidence(data_changed=True), evidence(data_changed=False)
    assert names(gates_for(None, changed)) == ["min_test", "leaks", "not_worse", "per_class"]
    assert names(gates_for(None, same)) == ["min_test", "leaks", "better", "per_class"]
    assert gates_for((), changed) == ()
    # equal models: held on the same data, promoted where the data have grown
    assert decide(same, gates_for(None, same)).verdict == HOLD
    assert decide(changed, gates_for(None, changed)).verdict == PROMOTE


def test_a_hold_says_how_many_images_would_settle_it():
    """+1 point with an interval of 3 to both sides on 100 images: 9 times as many."""
    found = GATES["better"]().ask(evidence(0.01, 0.03))
    assert found.verdict == HOLD
    assert "900 images in all" in found.advice or "901 images in all" in found.advice
    assert "Needed most: cat (100 boxes), dog (100 boxes)" in found.advice
    assert "too close" in GATES["better"]().ask(evidence(0.0, 0.03)).advice


def test_gates_are_read_from_settings():
    gates = read_gates(["min_test", {"not_worse": {"margin": 0.01}}, {"size": None}])
    assert [type(gate).name for gate in gates] == ["min_test", "not_worse", "size"]
    assert gates[1].margin == 0.01 and read_gates(None) is None and read_gates([]) == ()


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        (["beter"], "no gate 'beter'. Did you mean 'better'?"),
        (["better", "better"], "'better' is there twice"),
        ([{"not_worse": {"margn": 0.01}}], "unknown key 'margn'. Did you mean 'margin'?"),
        ([{"not_worse": {"margin": 2}}], "less than 1"),
        ([{"not_worse": 0.02}], "a gate is its name"),
        ([3], "a gate is its name"),
        (["engine.errors:EngineError"], "no class derived from engine.gates.Gate"),
    ],
)
def test_what_is_no_gate_is_told(listed, said):
    with pytest.raises(ConfigError) as told:
        read_gates(listed)
    assert said in str(told.value) and "register.gate" in str(told.value)


class OnMonday(Gate):
    """A toy of the user's own."""

    day: str = "monday"

    def ask(self, evidence) -> Finding:
        return self.passes(self.day) if self.day == "monday" else self.rejects(self.day)


def test_a_gate_of_ones_own_is_a_class():
    path = f"{__name__}:OnMonday"
    assert decide(evidence(), read_gates([path])).verdict == PROMOTE
    decision = decide(evidence(), read_gates([{path: {"day": "friday"}}]))
    assert decision.verdict == REJECT and decision.reason == "OnMonday: friday"


@pytest.mark.parametrize("gate", GATES.values(), ids=GATES)
def test_every_gate_says_what_it_does_and_each_of_its_settings(gate):
    assert gate.__doc__ and gate.__doc__.strip()[0].isupper()
    assert all(field.description for field in gate.model_fields.values())


def test_one_is_no_plural():
    assert [counted(n, "boxes") for n in (0, 1, 2)] == ["0 boxes", "1 box", "2 boxes"]
    assert counted(1, "further groups of images") == "1 further group of images"
    (gate,) = read_gates([{"min_test": {"images": 2, "boxes": 1}}])
    one = evidence(images=1, groups=1, classes=(difference(0.0, of="car", boxes=0, groups=1),))
    held = gate.ask(one)
    assert "1 image of 2; fewer than 1 box of car (0)" in held.reason
    assert "1 further image;" in held.advice
    (gate,) = read_gates([{"min_test": {"images": 1, "boxes": 1}}])
    one = evidence(images=1, groups=1, classes=(difference(0.0, of="car", boxes=1, groups=1),))
    assert gate.ask(one).reason == "1 test image, at least 1 box of each class"
    assert "compared on 1 class" in str(decide(one, ()).findings)
    assert "1 test image with boxes" in str(decide(one, ()).findings)
    (gate,) = read_gates([{"leaks": {"images": 1}}])
    left = evidence(images=1, groups=1, left_out={"copy in train": 2})
    assert "2 (copy in train); 1 image remains" in gate.ask(left).reason
