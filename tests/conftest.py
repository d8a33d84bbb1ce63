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
def random_weights(tmp_path_factory) -> Path:
    """A checkpoint of the smallest network, see `detectors.py`."""
    from detectors import save_detector

    return save_detector(tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.fixture(scope="session")
def exported(random_weights, tmp_path_factory):
    """The checkpoint in every format, written and compared once: name -> ExportReport."""
    from engine.config import ExportConfig
    from engine.export import FORMATS, export

    folder, few = tmp_path_factory.mktemp("exported"), ExportConfig(check_images=4)
    return {name: export(random_weights, name, folder, few) for name in FORMATS}


@pytest.fixture(scope="session")
def bccd() -> Path:
    """The blood-cell dataset, where the machine has it."""
    path = Path(os.environ.get("DETECTFLOW_BCCD", ROOT.parent / "shared" / "data" / "bccd"))
    if not (path / "Annotations").is_dir():
        pytest.skip(f"BCCD is not at {path}; set DETECTFLOW_BCCD to its folder")
    return path
