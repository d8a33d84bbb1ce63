"""dvc.yaml is the only list of stages: the flow has the same, and each stage depends on the record of
what its code does.
"""

from pathlib import Path

import pytest
import yaml

from engine.config import Params
from engine.stages import code
from engine.stages.layout import STAGES, Layout
from engine.versioning.stage_inputs import load_definitions, lookup

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = load_definitions(ROOT)


def is_below(file: str, dep: str) -> bool:
    return file == dep or file.startswith(dep + "/")


def test_the_flow_has_the_stages_of_dvc_yaml_in_their_order():
    from flows.pipeline import TASKS

    assert tuple(DEFINITIONS) == (code.NAME, *STAGES)
    assert STAGES == tuple(TASKS)  # what people see has no plumbing
    assert [task.name for task in TASKS.values()] == list(STAGES)


def test_stage_code_is_always_run_and_writes_what_every_stage_depends_on():
    text = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][code.NAME]
    assert text["always_changed"] and not DEFINITIONS[code.NAME].deps
    files = {stage: Layout(ROOT).code(stage).relative_to(ROOT).as_posix() for stage in STAGES}
    assert list(DEFINITIONS[code.NAME].outs) == list(files.values())
    # A record that says the same keeps its bytes and its time; DVC would remove it first.
    assert all(out == {file: {"persist": True}} for out, file in zip(text["outs"], files.values()))
    for stage in STAGES:
        assert [d for d in DEFINITIONS[stage].deps if d.startswith("reports/code/")] == [
            files[stage]
        ]


@pytest.mark.parametrize("stage", STAGES)
def test_no_source_file_is_a_dependency(stage):
    assert not [d for d in DEFINITIONS[stage].deps if d.startswith(("engine", "flows"))]


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_exist_or_are_made_by_an_earlier_stage(stage):
    made = {out for definition in DEFINITIONS.values() for out in definition.outs}
    for dep in DEFINITIONS[stage].deps:
        assert (ROOT / dep).exists() or any(
            is_below(dep, out) or is_below(out, dep) for out in made
        ), dep


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
