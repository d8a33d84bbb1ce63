"""A tracker is one entry of a table: settings, help, stages and searches find it there."""

import shutil
import sys

import pytest
import toys
import yaml

from engine.config import Params
from engine.config.trackers import TRACKERS, Tracker
from engine.errors import ConfigError
from engine.project.environment import prepare_environment
from engine.stages.runner import run_stage, tracker_of

TOY = """
import contextlib

seen = []


class Run:
    callbacks = ()

    def finish(self, summary):
        seen.append(summary["counts"]["train"]["images"])


@contextlib.contextmanager
def tracked(stage, params, root, artist):
    seen.append(stage)
    yield Run()
    seen.append("closed")
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A project whose tracker is a module of its own, and that module."""
    (tmp_path / "toy_tracker.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "toy", Tracker("toy_tracker", "toy_tracker", "toy_tracker"))
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", "data/digits.yaml"):
        shutil.copy(toys.ROOT / name, root / name)
    set_tracker(root, "toy")
    for name in ("DETECTFLOW_TRACKING", "MLFLOW_TRACKING_URI", "DETECTFLOW_STATE"):
        monkeypatch.delenv(name, raising=False)
    prepare_environment(root)
    yield root
    sys.modules.pop("toy_tracker", None)


def set_tracker(root, name):
    content = yaml.safe_load((root / "params.yaml").read_text())
    content["data"]["options"] = {"train": 6, "val": 2, "test": 2, "size": 96}
    content["tracking"]["tracker"] = name
    (root / "params.yaml").write_text(yaml.safe_dump(content))


def test_an_entry_is_enough_for_a_stage_to_record_into_it(toy):
    run_stage("prepare", toy)
    import toy_tracker

    assert toy_tracker.seen == ["prepare", 6, "closed"]
    assert not (toy / "mlflow.db").exists()
    assert tracker_of(Params.load(toy / "params.yaml"), "searches") is toy_tracker


def test_none_and_a_package_that_is_missing_record_nothing(toy, monkeypatch):
    set_tracker(toy, "none")
    assert tracker_of(Params.load(toy / "params.yaml")) is None
    monkeypatch.setitem(TRACKERS, "toy", Tracker("toy_tracker", "toy_tracker", "not_installed"))
    set_tracker(toy, "toy")
    assert tracker_of(Params.load(toy / "params.yaml")) is None


def test_a_name_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'mlflow'.*There are: mlflow, none"):
        Params.build({"tracking": {"tracker": "mlfow"}})


def test_the_old_switch_for_the_diff_names_the_new_one():
    with pytest.raises(ConfigError, match="code_diff is now code: none, commit"):
        Params.build({"tracking": {"code_diff": True}})
