"""dvc.yaml is the only list of stages: the flow has the same, and each stage depends on the record of
what its code does.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from workspaces import shell

from engine.config import DetectionTrainConfig, Params
from engine.metrics.reported import headline_keys
from engine.models.registry import family_of
from engine.stages import code
from engine.stages.layout import STAGES, Layout
from engine.stages.train import write_curves
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
    also = ("validate",) if stage == "register" else ()  # how both models are measured
    assert DEFINITIONS[stage].params == (section, *also)
    assert lookup(yaml.safe_load((ROOT / "params.yaml").read_text()), section) is not None


def test_params_yaml_is_valid_and_the_commands_name_their_stage():
    Params.load(ROOT / "params.yaml")
    for name, definition in DEFINITIONS.items():
        assert definition.command == f"${{stage}} {name}"


def family_losses(model: str, has_val: bool = True):
    """Two epochs as a network of that name has them; only the second was validated."""
    config = DetectionTrainConfig.build({"model": model})
    family = family_of(model)
    names = family.losses(family.spec(model, config))
    train = {f"train/{name}": 1.5 for name in names}
    val = {f"val/{name}": 1.25 for name in names} if has_val else {}
    return [train, {**train, **val, **dict.fromkeys(headline_keys(), 0.25)}]


@pytest.mark.parametrize(
    ("rows", "losses", "metrics"),
    [
        (family_losses("yolov8n"), 3, 4),
        (family_losses("torchvision:ssdlite320_mobilenet_v3_large"), 2, 4),
        (family_losses("torchvision:fasterrcnn_resnet50_fpn", has_val=False), 4, 4),
        ([{"train/score_loss": 0.5, "val/score_loss": 0.75}] * 2, 1, 0),
        ([{"train/loss": 2.0, "metrics/a b: 1/2": None}, {"train/loss": 1.0, "hits": 3}], 1, 2),
    ],
    ids=["yolov8", "ssdlite", "no loss in validation", "own loss, no metrics", "own metrics"],
)
def test_dvc_shows_the_curves_of_every_network(tmp_path, rows, losses, metrics):
    for name in ("dvc.yaml", "params.yaml", ".dvc/plots", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    rows = [{"epoch": epoch, **row, "lr/weights": 0.1} for epoch, row in enumerate(rows)]
    write_curves(tmp_path / "reports/train/curves", rows)
    done = shell(tmp_path, "dvc", "plots", "show", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    # What is not there (images with `plots: false`, metrics that nobody measured) is a warning.
    wrong = {error["name"] for error in shown["errors"]}
    assert {name for name in wrong if "curves" in name} == (
        set() if metrics else {"reports/train/curves/metrics"}
    )
    plots = {name: content for name, content in shown["data"].items() if name.endswith(".csv")}
    assert sum("/curves/losses/" in name for name in plots) == losses
    assert sum("/curves/metrics/" in name for name in plots) == metrics
    drawn = {}
    for name, (plot,) in plots.items():
        values = plot["content"]["data"]["values"]
        field = "dvc_inferred_y_value" if "losses" in name else "value"
        drawn |= {(name, v.get("field"), int(v["epoch"])): v[field] for v in values}
    for row in rows:
        for group, name in (key.split("/") for key in row if key.startswith(("train/", "val/"))):
            place = f"reports/train/curves/losses/{name}.csv"
            assert float(drawn[place, group, row["epoch"]]) == row[f"{group}/{name}"]
    assert "" not in drawn.values(), "Vega draws an empty cell as 0"
