"""Names of classes: a dictionary, and the tuple that it was."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
import yaml

from engine.detect.class_names import ClassNames
from engine.errors import DataError

NAMES = ClassNames(("cat", "dög", "cow"))


def test_as_a_dictionary():
    assert isinstance(NAMES, dict) and NAMES == {0: "cat", 1: "dög", 2: "cow"}
    assert list(NAMES) == [0, 1, 2] and list(NAMES.values()) == ["cat", "dög", "cow"]
    assert {name: number for number, name in NAMES.items()}["cow"] == 2
    assert json.loads(json.dumps(NAMES)) == {"0": "cat", "1": "dög", "2": "cow"}
    assert 1 in NAMES and 3 not in NAMES and NAMES.get(3) is None and len(NAMES) == 3


def test_as_a_tuple():
    assert NAMES == ("cat", "dög", "cow") and NAMES == ["cat", "dög", "cow"]
    assert NAMES != ("cat", "dög") and ("cat", "dög", "cow") == NAMES
    assert (
        NAMES[-1] == "cow" and NAMES[:2] == ("cat", "dög") and NAMES[::-1] == ("cow", "dög", "cat")
    )
    assert "dög" in NAMES and "dog" not in NAMES
    assert NAMES.index("cow") == 2 and NAMES.count("cow") == 1 and NAMES.count("x") == 0
    with pytest.raises(ValueError, match="no class 'x'; there are: cat"):
        NAMES.index("x")


@pytest.mark.parametrize(
    "two", [2, 2.0, np.int64(2), np.float32(2), torch.tensor(2.0), torch.tensor([2])]
)
def test_numbers_of_every_kind(two):
    assert NAMES[two] == NAMES.get(two) == NAMES.copy().pop(two) == "cow" and two in NAMES
    names = NAMES.copy()
    names[two] = "ox"
    assert names == {0: "cat", 1: "dög", 2: "ox"} and names.setdefault(two, "x") == "ox"


@pytest.mark.parametrize("none", [3, -1, 0.5, torch.tensor(3), torch.tensor([0, 1]), np.float32(7)])
def test_what_is_no_class_is_not_among_them(none):
    assert none not in NAMES and NAMES.get(none) is None and NAMES.get(none, "?") == "?"


def test_it_is_written_as_a_plain_dictionary():
    plain = dict(NAMES)
    for dump in (yaml.safe_dump, yaml.dump):
        both = dump({"names": NAMES, "also": NAMES}, allow_unicode=True)
        assert yaml.safe_load(both) == {"names": plain, "also": plain}
        assert dump(NAMES) == dump(plain)
    assert yaml.dump(NAMES, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)) == yaml.dump(
        plain
    )
    assert json.dumps(NAMES) == json.dumps(plain) and {**NAMES} == plain == dict(NAMES.items())


@pytest.mark.parametrize("wrong", [3, -4, 0.5, "cat", None, torch.tensor([0, 1]), (0, 1)])
def test_a_wrong_key_is_the_error_of_both_and_names_the_classes(wrong):
    for kind in (DataError, KeyError, IndexError):
        with pytest.raises(kind, match="classes by number: 0: cat, 1: dög, 2: cow"):
            NAMES[wrong]


def test_copies():
    for copied in (
        *(copy.copy(NAMES), copy.deepcopy(NAMES), NAMES.copy(), ClassNames(NAMES)),
        pickle.loads(pickle.dumps(NAMES)),
    ):
        assert type(copied) is ClassNames and copied == NAMES and copied[-1] == "cow"
