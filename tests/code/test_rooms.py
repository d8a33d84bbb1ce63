"""Whether the table of rooms is honest: each stage is run, and whatever function of ours it called
lies in a module that counts for it, or in one that the table declares to be harmless.
"""

import ast
import json
import subprocess
import sys

import pytest

from engine.code.closure import Sources
from engine.code.rooms import (
    HARMLESS,
    HARMLESS_DEFINITIONS,
    IDLE,
    NOT_IMPORTED,
    OF_EXPORT,
    OF_TRAINING,
    ROOMS,
    closure_of_stage,
    counts,
    family_folder,
    family_folders,
    package_folder,
)
from engine.code.syntax import _bound
from engine.model_formats.metadata import decode_meta
from engine.model_formats.table import FORMATS
from engine.models.family import Family
from engine.models.registry import built_in
from engine.stages.layout import STAGES

# Runs all stages of the workspace in the working directory; prints stage -> files whose functions
# were called. Defining a class and importing a module call none.
RUN = """
import importlib, json, sys, threading
from pathlib import Path
from engine.config import Params
from engine.project.environment import prepare_environment
from engine.stages.layout import STAGES

root = prepare_environment(Path.cwd())
params = Params.load(root / "params.yaml")
FUNCTION = 0x1 | 0x2
called = set()

def note(frame, event, arg):
    if event == "call":
        called.add(frame.f_code)

found = {}
for stage in STAGES:
    module = importlib.import_module(f"engine.stages.{stage}")
    called.clear()
    threading.settrace(note)
    sys.settrace(note)
    try:
        module.run(params, root)
    finally:
        sys.settrace(None)
        threading.settrace(None)
    functions = [c for c in called if c.co_flags & FUNCTION == FUNCTION and c.co_name[0] != "<"]
    ours = {Path(c.co_filename) for c in functions if c.co_filename.startswith(f"{root}/engine/")}
    found[stage] = sorted(str(file.relative_to(root)) for file in ours)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def called(tmp_path_factory):
    """stage -> modules of ours whose functions it called."""
    from test_pipeline import TINY
    from workspaces import clean_environment, copy_project

    from flows import overrides

    root = copy_project(tmp_path_factory.mktemp("called") / "project").resolve()
    tiny = {key: False if value == "false" else value for key, value in TINY.items()}
    overrides.apply(root, tiny | {"flows.prepare.workers": 1, "train.plots": True})
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=root,
        env=clean_environment() | {"DETECTFLOW_TRACKING": "off"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout.splitlines()[-1])
    return {
        stage: {
            file.removesuffix(".py").replace("/", ".")
            for file in files[stage]
            if not file.endswith("__init__.py")
        }
        for stage in files
    }


@pytest.fixture(scope="module")
def sources():
    return Sources.below(package_folder())


def is_harmless(module):
    below = module.removeprefix("engine.")
    return any(below == room or below.startswith(f"{room}.") for room in HARMLESS)


@pytest.mark.system
@pytest.mark.parametrize("stage", STAGES)
def test_every_function_that_a_stage_calls_counts_or_is_declared_harmless(stage, called, sources):
    counted = set(closure_of_stage(stage, sources, {"yolov8"}).modules)
    unseen = {
        module
        for module in called[stage] - counted
        # of the configuration its values count, and the functions that modules import
        if not is_harmless(module) and not module.startswith(("engine.config.", "engine.settings."))
    }
    assert called[stage] and not unseen


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_counts_itself_and_no_other_stage(stage, sources):
    counted = closure_of_stage(stage, sources).modules
    assert f"engine.stages.{stage}" in counted
    assert not any(f"engine.stages.{other}" in counted for other in STAGES if other != stage)


def test_every_row_of_the_table_names_a_module_that_is_there():
    idle = {name for modules in IDLE.values() for name in modules}
    for name in {room for rooms in ROOMS.values() for room in rooms} | set(HARMLESS) | idle:
        path = package_folder() / "engine" / name.replace(".", "/")
        assert path.is_dir() or path.with_name(f"{path.name}.py").is_file(), name


@pytest.mark.parametrize("entry", HARMLESS_DEFINITIONS)
def test_every_harmless_definition_is_there_in_a_module_that_counts(entry, sources):
    module, _, path = entry.partition(":")
    assert any(counts(stage, f"engine.{module}") for stage in STAGES)
    tree = ast.parse(sources.find(f"engine.{module}").read_text())
    *owners, name = path.split(".")
    for owner in owners:
        tree = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == owner)
    assert any(name in _bound(node) for node in tree.body)


def test_a_family_of_ours_is_called_like_its_folder(sources):
    assert {family.name for family in built_in()} == set(family_folders(sources))
    for family in built_in():
        for name in family.names():
            folder = family_folder(name, sources)
            assert folder == family.name or " " in name, name  # "a model .yaml"
    assert family_folder("yolov8-of-another", sources) is None


def test_formats_that_a_training_can_start_from_count_for_it():
    counted = {(found.module, found.name) for found in NOT_IMPORTED["train"]}
    readers = [each.read_weights for each in FORMATS.values() if each.read_weights]
    readers.append(decode_meta)  # of what such a file says the network and its classes follow
    assert {(reader.__module__, reader.__name__) for reader in readers} == counted


def test_methods_that_a_stage_does_not_call_are_there_and_called_by_others_alone():
    # `can_export` is asked before a training too, and can only refuse it.
    callers = {
        "detect/trainer.py": OF_EXPORT,
        "detect/validator.py": OF_TRAINING | OF_EXPORT,
        "detect/runtime.py": OF_TRAINING | OF_EXPORT,
        "detect/model_io.py": OF_TRAINING | OF_EXPORT,
        "export/exporter.py": OF_TRAINING,
    }
    for file, names in callers.items():
        assert all(hasattr(Family, name) for name in names)
        text = (package_folder() / "engine" / file).read_text()
        assert not any(f".{name}(" in text for name in names), file


def test_what_shows_records_or_drives_counts_nowhere():
    for room in ("plots.style", "tracking.journal", "cli.run", "datasets.reports.html_page"):
        assert not any(counts(stage, f"engine.{room}") for stage in ROOMS)
    assert not counts("train", "engine.datasets.splits") and counts("train", "engine.core.ema")
