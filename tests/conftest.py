"""Shared by all tests: one thread, no screen, no state outside the test's own folder."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]

# The files that take longest, longest first: CPU seconds of one core as measured, without imports.
# Under xdist a file runs whole in one process; begun last, a long one would keep one core busy
# while the other has nothing left to do.
LONGEST_FIRST: dict[str, int] = {}


def pytest_collection_modifyitems(items):
    """Long files first; the others, and the tests of a file, in their order."""

    def seconds(item) -> int:
        return -LONGEST_FIRST.get(item.path.relative_to(ROOT / "tests").as_posix(), 0)

    items.sort(key=seconds)


@pytest.fixture(autouse=True)
def environment_as_before():
    """What a test, or a command that it calls in this process, sets in the environment ends with
    the test.

    But for the time limits that the sender's thread sets around its own requests: without them it
    waits for minutes.
    """
    before = dict(os.environ)
    yield
    for name in {*before, *os.environ}:
        if name.startswith("MLFLOW_HTTP_REQUEST"):
            continue
        if name not in before:
            os.environ.pop(name, None)
        elif os.environ.get(name) != before[name]:
            os.environ[name] = before[name]


@pytest.fixture(scope="session")
def bccd() -> Path:
    """The blood-cell dataset, where the machine has it."""
    path = Path(os.environ.get("DETECTFLOW_BCCD", ROOT.parent / "shared" / "data" / "bccd"))
    if not (path / "Annotations").is_dir():
        pytest.skip(f"BCCD is not at {path}; set DETECTFLOW_BCCD to its folder")
    return path
