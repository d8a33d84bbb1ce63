"""What is written down of a stage's code: the user's own modules, settings with their defaults, and
what differs between two records.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from engine.config import DetectionTrainConfig, Params, PredictConfig
from engine.errors import ConfigError
from engine.stages import code
from engine.stages.layout import STAGES, Layout

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path):
    """The user's trainer, a helper that it imports, and a module that it does not."""
    files = {
        "mine/__init__.py": "",
        "mine/net.py": "import torchvision\nfrom .gain import GAIN\nclass Mine: gain = GAIN\n",
        "mine/gain.py": "import yaml, json\nGAIN = 1\n",
        "mine/other.py": "X = 1\n",
        "hooks.py": "def add(trainer): ...\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def params(**train):
    return Params(train=DetectionTrainConfig(**train))


def stale(project, before, settings):
    """Stages whose record is another than `before`."""
    return {s for s in STAGES if code.stage_code(s, settings, project) != before[s]}


@pytest.mark.parametrize(
    "name, text, stages",
    [
        ("mine/net.py", "class Mine: gain = 2\n", {"train", "validate", "export"}),
        ("mine/gain.py", "GAIN = 2\n", {"train", "validate", "export"}),
        ("mine/__init__.py", "print('imported with it')\n", {"train", "validate", "export"}),
        ("mine/gain.py", "import yaml, json\n\n# a comment\nGAIN = 1\n", set()),
        ("mine/other.py", "X = 2\n", set()),
        ("hooks.py", "def add(trainer): trainer.epochs = 1\n", {"train"}),
    ],
)
def test_the_users_own_code_is_a_dependency_like_any_other(project, name, text, stages):
    settings = params(trainer="mine.net:Mine", callbacks=("hooks:add",))
    before = {stage: code.stage_code(stage, settings, project) for stage in STAGES}
    (project / name).write_text(text)
    assert stale(project, before, settings) == stages


def test_own_modules_and_the_packages_they_import_are_named(project):
    own, packages = code.own_code("train", params(trainer="mine.net:Mine").train, project)
    assert set(own) == {"mine.net", "mine.gain"}  # an empty __init__ does nothing
    assert packages == {
        "PyYAML": metadata.version("PyYAML"),
        "torchvision": metadata.version("torchvision"),
    }
    assert code.own_code("prepare", params(trainer="mine.net:Mine").train, project) == ({}, {})


def test_code_outside_the_project_counts_where_it_is_not_installed(project, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "far_away.py").write_text("class Far: ...\n")
    monkeypatch.syspath_prepend(str(folder))
    settings = params(model="far_away:Far").train
    assert set(code.own_code("train", settings, project)[0]) == {"far_away"}
    installed = code.own_code("train", params(model="torchvision:ssd").train, project)
    assert installed == ({}, {"torchvision": metadata.version("torchvision")})


def test_a_module_that_is_not_there_is_for_the_stage_to_say(project):
    assert code.own_code("train", params(trainer="no.such:X").train, project) == ({}, {})
    (project / "mine" / "net.py").write_text("class Mine(:")
    with pytest.raises(ConfigError, match=r"mine/net.py: no valid Python"):
        code.own_code("train", params(trainer="mine.net:Mine").train, project)


def test_settings_count_by_their_values_wherever_those_come_from(project):
    given, default = params(lrf=0.01), params()
    assert code.settings_of("train", given) == code.settings_of("train", default)
    for key, value in {"workers": 3, "verbose": False, "device": "cpu"}.items():
        assert code.settings_of("train", params(**{key: value})) == code.settings_of("train", given)
    for key, value in {"lr0": 0.1, "plots": False, "amp": False}.items():
        assert code.settings_of("train", params(**{key: value})) != code.settings_of("train", given)


@pytest.mark.parametrize(
    "file, old, new, stages",
    [
        ("train.py", '"optimizer", 0.01', '"optimizer", 0.02', {"train"}),
        ("sections.py", "0.7, description=", "0.6, description=", {"validate"}),
        ("sections.py", "opset: int | None = Field(\n        None", "opset: int | None = Field(\n        18", {"export"}),
        ("sections.py", "near_duplicate_bits: int = Field(\n        45", "near_duplicate_bits: int = Field(\n        44", {"prepare"}),
        ("sections.py", "0.25, description=", "0.35, description=", {"export", "register"}),
        ("sections.py", "ONNX operator set; empty", "operators of ONNX; empty", set()),
    ],
    ids=["train.lrf", "validate.iou", "export.opset", "data.near_duplicate_bits", "predict.conf", "a help text"],
)  # fmt: skip
def test_a_changed_default_makes_exactly_its_stage_stale(project, file, old, new, stages):
    shutil.copytree(ROOT / "engine", project / "engine")
    command = [sys.executable, "-m", "engine.stages", "code"]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "DETECTFLOW_TRACKING": "off"}
    subprocess.run(command, cwd=project, env=env, check=True, capture_output=True)
    before = {stage: Layout(project).code(stage).read_bytes() for stage in STAGES}
    times = {stage: Layout(project).code(stage).stat().st_mtime_ns for stage in STAGES}
    path = project / "engine" / "config" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    subprocess.run(command, cwd=project, env=env, check=True, capture_output=True)
    changed = {s for s in STAGES if Layout(project).code(s).read_bytes() != before[s]}
    assert changed == stages
    untouched = {s for s in STAGES if Layout(project).code(s).stat().st_mtime_ns == times[s]}
    assert untouched == set(STAGES) - stages


def test_writing_says_what_differs_and_the_check_refuses_it(project):
    settings = params(trainer="mine.net:Mine")
    assert code.is_outdated(settings, project)
    assert code.write_code(settings, project) == {}  # nothing was there to differ from
    assert code.write_code(settings, project) == {} and not code.is_outdated(settings, project)
    (project / "mine" / "gain.py").write_text("GAIN = 2\n")
    with pytest.raises(ConfigError, match=r"its code is not what .* \(mine.gain, PyYAML\)"):
        code.check_code("train", settings, project)
    changed = code.write_code(settings, project)
    assert changed["train"] == ["mine.gain", "PyYAML"] and "register" not in changed
    code.check_code("train", settings, project)
    record = json.loads(Layout(project).code("train").read_text())
    assert list(record) == ["settings", "modules", "own", "packages"]
    assert str(project) not in json.dumps(record)  # nothing of this machine


def test_stage_code_imports_neither_torch_nor_mlflow(project):
    text = (
        "import sys; from engine.stages.__main__ import main; main(['code']); "
        "assert not {'torch', 'mlflow', 'dvc', 'prefect', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", text], cwd=project, check=True)
    assert Layout(project).code("register").is_file()


def test_thresholds_of_the_served_model_count_for_export_and_register(project, monkeypatch):
    before = {stage: code.stage_code(stage, params(), project) for stage in STAGES}
    monkeypatch.setattr(PredictConfig, "thresholds", lambda self: {"conf": 0.35})
    assert stale(project, before, params()) == {"export", "register"}


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"rules": 1}', '{"sources": []}'])
def test_a_cache_that_cannot_be_used_counts_as_none(project, text):
    right = code.stage_code("train", params(), project)
    cache = project / ".cache" / "code.json"
    assert cache.is_file()
    cache.write_text(text)
    assert code.stage_code("train", params(), project) == right
