"""The corpus of broken datasets: how a case is written down. The cases are in broken_*.py,
test_bad_input.py runs them.

A case starts from a whole dataset, breaks one thing, and names what has to be found.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

A_XML, A_PNG, A_TXT = "Annotations/a.xml", "JPEGImages/a.png", "labels/train/a.txt"
TRAIN_JSON = "annotations/instances_train2017.json"

CASES: list = []


def case(make: Callable[[Path], object], kind: str, *fragments: str):
    """Registers `breaker(root)`; `fragments` must stand in the message, or in the finding's
    text.
    """

    def register(breaker):
        CASES.append(
            pytest.param(
                make, breaker, kind, fragments, id=f"{make.__name__[5:]}-{breaker.__name__}"
            )
        )
        return breaker

    return register


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
