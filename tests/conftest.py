"""Shared by all tests: one thread, no screen, no state outside the test's own folder."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")

from pathlib import Path

import environments
import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# The same inputs in every run: a change is not refused for a fault elsewhere that this run happened
# to draw. `pytest --hypothesis-profile=search` draws others, and ten times as many for a test that
# names no number.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]

# Under xdist a file runs whole in one process (some are one sequence of steps). These take longest
# and come first: begun last, one of them would keep one core busy while the other has nothing left
# to do. Those with a Prefect server take turns with others: two at once would slow each other down
# until a test loses its patience.
LONGEST_FIRST = (
    "flows/test_deployments.py",
    "distributed/test_leaving.py",
    "flows/test_pipeline.py",
    "distributed/test_together.py",
    "flows/test_only_real_changes.py",
    "flows/test_two_drivers.py",
    "core/test_kill.py",
    "flows/test_experiments.py",
    "hpo/test_search.py",
    "flows/test_flow.py",
    "flows/test_trace_pipeline.py",
    "flows/test_prepare_on_dask.py",
    "versioning/test_remotes.py",
    "flows/test_restart.py",
    "tracking/test_training_recorded.py",
    "detect/test_detection_trainer.py",
    "detect/test_validator.py",
    "detect/test_class_hash.py",
    "contract/test_fine_tuning.py",
    "export/test_export.py",
    "versioning/test_dvc_adapter.py",
    "core/test_resume.py",
    "registry/test_register.py",
    "tracking/test_tracked.py",
    "docs/test_docs.py",
)
# Files that share a fixture of many seconds, in one process so that it is made once.
TOGETHER = dict.fromkeys(
    ("test_class_hash.py", "test_detection_trainer.py", "test_validator.py"), "a trained detector"
)


def pytest_collection_modifyitems(items):
    """Long files first; the others, and the tests of a file, in their order."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}

    def place(item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        return places.get(name, len(places))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`--dist loadfile` that keeps some files together."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return TOGETHER.get(file.removeprefix("tests/detect/"), file)

    return Scheduler(config, log)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    """Which test failed, at once: a run that is cut off prints no summary."""
    if report.failed and _terminal is not None:
        said = report.longreprtext.strip().splitlines() or [""]
        _terminal.write_line(f"\n{report.nodeid} ({report.when}): {said[-1]}", flush=True)


_terminal = None


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    global _terminal  # in xdist's processes there is none
    if not hasattr(config, "workerinput"):
        _terminal = config.pluginmanager.get_plugin("terminalreporter")


@pytest.fixture(autouse=True)
def environment_as_before():
    """What a test, or a command that it calls in this process, sets in the environment ends with
    the test.
    """
    before = environments.now()
    yield
    environments.restore(before)


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
