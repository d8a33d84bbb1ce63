"""dvc.yaml is the only list of stages: the flow has the same, and each stage depends on the code it
really imports.
"""

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

from engine.config import Params
from engine.stages.layout import STAGES, Layout
from engine.versioning.stage_inputs import load_definitions, lookup

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = load_definitions(ROOT)

# Code that is imported but does not decide what comes out: messages, atomic writing, data classes
# without behaviour, the frame around a stage, and what tells MLflow about it.
WITHOUT_INFLUENCE = {
    "engine/__init__.py",
    "engine/errors.py",
    "engine/files.py",
    "engine/types.py",
    "engine/version.py",
    "engine/stages/layout.py",
    "engine/stages/runner.py",
}
DECIDES = {
    "engine/registry/pyfunc_model.py",
    "engine/registry/registry.py",
}
READ_AS_A_FILE = {
    "register": {"engine/registry/pyfunc_model.py"}
}  # MLflow takes the model's code by its path


@cache
def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def imported(file: Path) -> frozenset[str]:
    """Modules of this project that a file imports anywhere, functions included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        found |= {
            name for name in names if name.split(".")[0] == "engine" and file_of(name) is not None
        }
    return frozenset(found)


def reached(stage: str) -> set[str]:
    """All files that running a stage can import, relative to the root."""
    files, waiting = set(), [f"engine.stages.{stage}"]
    while waiting:
        file = file_of(waiting.pop())
        relative = file.relative_to(ROOT).as_posix()
        if relative in files or not has_influence(relative):
            continue
        files.add(relative)
        waiting += imported(file)
    files |= {settings_of(stage)} | READ_AS_A_FILE.get(stage, set())
    return {file for file in files if not file.endswith("__init__.py")}


def has_influence(file: str) -> bool:
    if file.startswith(
        (
            "engine/tracking/",
            "engine/registry/",
            "engine/project/",
            "engine/versioning/",
            "engine/lineage/",
        )
    ):
        return file in DECIDES or file.startswith("engine/registry/gates/")
    return file not in WITHOUT_INFLUENCE and not file.startswith("engine/config/")


def settings_of(stage: str) -> str:
    """Where the defaults of the stage's own section stand: params.yaml need not name them all."""
    return "engine/config/train.py" if stage == "train" else "engine/config/sections.py"


def code_deps(stage: str) -> list[str]:
    return [dep for dep in DEFINITIONS[stage].deps if dep.startswith("engine/")]


def is_below(file: str, dep: str) -> bool:
    return file == dep or file.startswith(dep + "/")


def test_the_flow_has_the_stages_of_dvc_yaml_in_their_order():
    from flows.pipeline import TASKS

    assert tuple(DEFINITIONS) == STAGES == tuple(TASKS)
    assert [task.name for task in TASKS.values()] == list(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_change_of_any_code_a_stage_uses_runs_it_again(stage):
    missing = sorted(
        file for file in reached(stage) if not any(is_below(file, dep) for dep in code_deps(stage))
    )
    assert not missing, f"dvc.yaml, stage {stage}: deps lack {missing}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_no_code_it_does_not_use(stage):
    files = reached(stage)
    unused = [dep for dep in code_deps(stage) if not any(is_below(file, dep) for file in files)]
    assert not unused


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_exist_or_are_made_by_an_earlier_stage(stage):
    made = {out for definition in DEFINITIONS.values() for out in definition.outs}
    for dep in DEFINITIONS[stage].deps:
        assert (ROOT / dep).exists() or any(
            is_below(dep, out) or is_below(out, dep) for out in made
        ), dep


def test_training_does_not_depend_on_how_it_is_driven_or_told():
    for file in reached("train"):
        assert not file.startswith(("engine/cli", "engine/tracking", "flows/"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_summary_of_a_stage_is_among_its_outputs(stage):
    summary = Layout(ROOT).summary(stage).relative_to(ROOT).as_posix()
    assert any(is_below(summary, out) for out in DEFINITIONS[stage].outs)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_runs_again_when_its_own_section_of_params_yaml_changes(stage):
    section = "data" if stage == "prepare" else stage
    assert DEFINITIONS[stage].params == (section,)
    assert lookup(yaml.safe_load((ROOT / "params.yaml").read_text()), section) is not None


def test_params_yaml_is_valid_and_the_commands_name_their_stage():
    Params.load(ROOT / "params.yaml")
    for name, definition in DEFINITIONS.items():
        assert definition.command == f"${{stage}} {name}"
