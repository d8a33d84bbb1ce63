"""What a history says, by hand and by property: no MLflow is asked."""

import itertools
import random

import pytest

from engine.registry.history import (
    Entry,
    What,
    champion_of,
    champions,
    earlier_champions,
    read_entries,
    standing,
    vacancy,
)
from engine.registry.moves import approved_by

NOW = "evidence now"


def gates(version, before="", what=What.PROMOTED, evidence=NOW, **more):
    return Entry(what, version, before, evidence=evidence, against=before, **more)


def person(what, version, before="", **more):
    return Entry(what, version, before, by="Jo", **more)


FIRST, SECOND = gates("1"), gates("2", "1")
BACK = person(What.ROLLED_BACK, "1", "2")


@pytest.mark.parametrize(
    ("moves", "now", "earlier"),
    [
        ([FIRST, SECOND], "2", ["1"]),
        ([FIRST, SECOND, BACK], "1", []),
        ([FIRST, SECOND, person(What.BY_HAND, "1", "2")], "1", []),  # back, whoever did it
        ([FIRST, SECOND, person(What.PROMOTED, "1", "2")], "1", []),
        ([FIRST, SECOND, person(What.PROMOTED, "3", "2")], "3", ["1", "2"]),
        ([FIRST, SECOND, gates("1", "2")], "1", ["2"]),  # new evidence for it is no way back
        ([FIRST, SECOND, person(What.BY_HAND, "", "2")], None, ["1"]),
        ([person(What.BY_HAND, "5", "4")], "5", ["4"]),
        ([], None, []),
    ],
)
def test_who_is_champion_and_who_was(moves, now, earlier):
    assert (champion_of(moves), earlier_champions(moves)) == (now, earlier)
    assert bool(vacancy(moves)) == (bool(moves) and now is None)


@pytest.mark.parametrize("seed", range(30))
def test_of_any_moves_no_champion_stands_twice_and_the_last_is_the_present_one(seed):
    rng, history, now = random.Random(seed), [], ""
    for _ in range(12):
        version = rng.choice([each for each in ("", "1", "2", "3", "4") if each != now])
        kinds = [What.BY_HAND] if not version else [What.BY_HAND, What.PROMOTED, What.ROLLED_BACK]
        evidence = rng.choice(["", NOW])
        history.append(Entry(rng.choice(kinds), version, now, evidence=evidence))
        now = version
        stack = champions(history)
        assert len(set(stack)) == len(stack) and champion_of(history) == (now or None)
        assert not now or stack[-1] == now
        assert now not in earlier_champions(history)


@pytest.mark.parametrize("approval", ["before", "never"])
@pytest.mark.parametrize(
    "word",
    [
        BACK,
        person(What.BY_HAND, "1", "2"),
        person(What.PROMOTED, "1", "2"),
        person(What.PROMOTED, "3", "2"),
        person(What.BY_HAND, "", "2"),
    ],
)
def test_a_version_that_a_person_took_back_stays_away(word, approval):
    yes = person(What.APPROVED, "2")
    history = [FIRST, *([yes] if approval == "before" else []), SECOND, word]
    for champion in ("1", "3", ""):
        assert standing(history, "2", NOW, champion) == word
    assert not approved_by(history, "2")
    assert standing(history, "2", "other evidence", "1") is None
    assert standing([*history, yes], "2", NOW, "1") is None, "a person says otherwise"
    assert standing([*history, person(What.PROMOTED, "2", "1")], "2", NOW, "1") is None


def test_going_back_two_takes_back_both():
    word = person(What.ROLLED_BACK, "1", "3")
    history = [FIRST, SECOND, gates("3", "2"), word]
    assert standing(history, "2", NOW, "1") == standing(history, "3", NOW, "1") == word


def test_images_that_were_there_when_a_person_took_it_back_are_no_new_evidence():
    word = person(What.ROLLED_BACK, "1", "2", images="grown")
    history = [FIRST, SECOND, word]
    assert standing(history, "2", "on the grown ones", "1", "grown") == word
    assert standing(history, "2", "on later ones", "1", "later") is None
    by_hand = [FIRST, person(What.PROMOTED, "2", "1"), BACK]
    assert standing(by_hand, "2", NOW, "1", "later") == BACK, "nothing is known to be new"


def test_a_rejection_stands_whoever_is_champion_and_a_hold_does_not():
    held, no = gates("2", "1", What.HELD), gates("2", "1", What.REJECTED)
    assert standing([held], "2", NOW, "1") == held and standing([held], "2", NOW, "3") is None
    assert standing([no], "2", NOW, "1") == no == standing([no], "2", NOW, "3")
    assert standing([no], "2", "other", "1") is None
    assert standing([no, person(What.APPROVED, "2")], "2", NOW, "1") is None
    elsewhere = gates("2", "1", What.HELD, "other")
    assert standing([no, elsewhere], "2", NOW, "1") == no


def test_what_passes_does_not_stand():
    assert standing([gates("2", "1", What.HELD, passing=True)], "2", NOW, "1") is None


def test_tags_that_somebody_edited_are_passed_over():
    tags = {
        "history.2": '{"what": "promoted", "version": "2"}',
        "history.1": '{"what": "promoted", "version": "1"}',
        "history.3": '{"what": "promoted"',
        "history.4": '{"what": "danced", "version": "1"}',
        "history.5": "[1]",
        "history.6": '{"what": "moved by hand", "before": "2"}',
        "owner": "us",
    }
    assert [each.version for each in read_entries(tags)] == ["1", "2", ""]
    orders = itertools.permutations(tags.items())
    assert all(len(read_entries(dict(order))) == 3 for order in itertools.islice(orders, 50))
