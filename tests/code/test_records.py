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
import torch
from edits import call
from safetensors.torch import save

from engine.code.closure import Sources, differences
from engine.code.rooms import ANYTHING, code_of_stage
from engine.code.syntax import Import
from engine.config import DetectionTrainConfig, Params, PredictConfig
from engine.core.checkpoint import Checkpoint, save_checkpoint
from engine.errors import ConfigError
from engine.model_formats.checkpoint_meta import read_checkpoint_meta
from engine.stages import code
from engine.stages import own_code as installed
from engine.stages.layout import STAGES, Layout

ROOT = Path(__file__).resolve().parents[2]
WITH_NETWORK = {"train", "validate", "export"}
FAMILIES = {"yolov8", "torchvision"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What is read of the engine, once."""
    file = tmp_path_factory.mktemp("cache") / "code.json"
    sources = Sources.below(ROOT, file)
    for stage in STAGES:
        code_of_stage(stage, sources, None)
        code_of_stage(stage, sources, None, ANYTHING)
    sources.keep()
    return file


@pytest.fixture
def project(tmp_path, cache):
    """The user's trainer, a helper that it imports, and a module that it does not."""
    (tmp_path / ".cache").mkdir()
    shutil.copy(cache, tmp_path / ".cache" / "code.json")
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


def own_code(project, stage="train", **train):
    config = params(**train).train
    network = code.network_of(config, project, code.engine_sources(project))
    return installed.own_code(code.own_paths(stage, config, network), project)


def records(settings, project):
    return {stage: code.stage_code(stage, settings, project) for stage in STAGES}


def copy_engine(folder):
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "engine", folder / "engine", ignore=ignore)
    return folder


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
    own = own_code(project, trainer="mine.net:Mine")
    assert set(own.modules) == {"mine.net", "mine.gain"}  # an empty __init__ does nothing
    assert own.packages == {
        "PyYAML": metadata.version("PyYAML"),
        "torchvision": metadata.version("torchvision").partition("+")[0],
    }
    prepare = code.stage_code("prepare", params(trainer="mine.net:Mine"), project)
    assert prepare["own"] == {} == prepare["packages"]


def test_code_outside_the_project_counts_where_it_is_not_installed(project, tmp_path, monkeypatch):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "far_away.py").write_text("class Far: ...\n")
    monkeypatch.syspath_prepend(str(folder))
    assert set(own_code(project, model="far_away:Far").modules) == {"far_away"}


def test_a_module_that_is_not_there_is_for_the_stage_to_say(project):
    assert own_code(project, trainer="no.such:X")[:2] == ({}, {})
    (project / "mine" / "net.py").write_text("class Mine(:")
    with pytest.raises(ConfigError, match=r"mine/net.py: no valid Python"):
        own_code(project, trainer="mine.net:Mine")


def test_the_package_around_a_module_of_the_users_runs_with_it(project):
    (project / "mine" / "setup.py").write_text("def go(): return 1\n")
    (project / "mine" / "__init__.py").write_text("from .setup import go as start\nstart()\n")
    settings = params(trainer="mine.net:Mine")
    before = records(settings, project)
    (project / "mine" / "setup.py").write_text("def go(): return 2\n")
    assert stale(project, before, settings) == WITH_NETWORK


@pytest.mark.parametrize(
    "offered",
    ['__all__ = ["head"]', "__all__ = [name for name in ('head',)]"],
    ids=["list", "made"],
)
def test_modules_that_a_star_takes_of_a_package_count(project, offered):
    nets = project / "mine" / "nets"
    nets.mkdir()
    (nets / "__init__.py").write_text(f"{offered}\n")
    (nets / "head.py").write_text("GAIN = 1.0\n")
    (project / "mine" / "gain.py").write_text("from mine.nets import *\nGAIN = 1\n")
    settings = params(trainer="mine.net:Mine")
    before = records(settings, project)
    (nets / "head.py").write_text("GAIN = 2.0\n")
    assert stale(project, before, settings) == WITH_NETWORK
    (nets / "head.py").write_text("GAIN = 1.0\n")
    (nets / "__init__.py").write_text("__all__ = []\n")
    assert stale(project, before, settings) == WITH_NETWORK


def test_a_module_of_the_users_that_is_called_like_one_of_pythons_counts(project):
    for name in ("profile", "sys"):  # the second is built into Python: the file is never imported
        (project / f"{name}.py").write_text("GAIN = 1\n")
    (project / "mine" / "gain.py").write_text("import profile, sys, json\nGAIN = 1\n")
    own = own_code(project, trainer="mine.net:Mine")
    assert set(own.modules) == {"mine.net", "mine.gain", "profile"}


# What own code takes of the engine ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("from engine.models.torchvision.networks import build", "engine.models.torchvision.networks"),
        ("def f():\n    import engine.hpo.space", "engine.hpo.space"),
        ("NAME = 'engine.export.parity:check'", "engine.export.parity"),
        ("from engine.files import sha256_file", "engine.files"),
        ("from engine.files import *", "engine.files"),
        ("from engine.plots import plot_curves", "engine.plots.curves"),
        ("from engine import YOLO", "engine.yolo"),
        ("import flows.overrides", "flows.overrides"),
        ("from engine.detect import DetectionTrainer", "engine.models.torchvision.family"),
    ],
)  # fmt: skip
def test_what_own_code_imports_of_the_engine_counts_for_its_stages(project, text, expected):
    settings = params(trainer="mine.net:Mine")
    before = records(settings, project)
    assert expected not in before["train"]["modules"]
    (project / "mine" / "gain.py").write_text(f"{text}\nGAIN = 1\n")
    now = records(settings, project)
    for stage in STAGES:
        counted = stage in WITH_NETWORK or expected in before[stage]["modules"]
        assert (expected in now[stage]["modules"]) == counted, stage


def test_of_a_harmless_room_counts_what_own_code_takes(tmp_path, project):
    sources = Sources.below(copy_engine(tmp_path / "ours"))
    taken = [Import("engine.files", "sha256_file", "sha256_file")]
    before = code_of_stage("train", sources, {"yolov8"}, taken)
    files = tmp_path / "ours" / "engine" / "files.py"
    text = files.read_text()
    for edit, counts in ((call("sha256_file"), True), (call("write_text"), False)):
        files.write_text(edit(text))
        now = code_of_stage("train", Sources.below(tmp_path / "ours"), {"yolov8"}, taken)
        assert (now["engine.files"] != before["engine.files"]) == counts


def test_a_class_of_ours_that_is_named_by_its_path_counts(project):
    settings = params(model="engine.models.torchvision.family:TorchvisionFamily")
    assert "engine.models.torchvision.networks" in records(settings, project)["export"]["modules"]


# Weights to start from ----------------------------------------------------------------------------


def save_weights(project, name="start.pt", **meta):
    """A checkpoint as training writes it, without a sidecar, as a copy in models/start is."""
    made = project / "models" / "start" / name
    save_checkpoint(Checkpoint(meta, {"w": torch.zeros(2, 3)}), made)
    made.with_suffix(".json").unlink()
    return f"models/start/{name}"


def rooms(record):
    return {m.split(".")[2] for m in record["modules"] if m.startswith("engine.models.")} & FAMILIES


def test_weights_of_a_network_of_ones_own_make_its_code_count(project):
    settings = params(model=save_weights(project, family="mine.net:Mine", names=["a"]))
    before = records(settings, project)
    assert before["train"]["family"] == "mine.net:Mine" and "mine.gain" in before["export"]["own"]
    (project / "mine" / "gain.py").write_text("GAIN = 2\n")
    assert stale(project, before, settings) == WITH_NETWORK


@pytest.mark.parametrize("family", ["yolov8", "torchvision", None])
def test_weights_of_a_family_of_ours_make_this_one_count(project, family):
    said = {"family": family} if family else {}
    settings = params(model=save_weights(project, **said))
    for stage in WITH_NETWORK:
        assert rooms(code.stage_code(stage, settings, project)) == {family or "yolov8"}


def test_published_weights_say_their_family_too(project):
    file = project / "published.safetensors"
    file.write_bytes(save({"w": torch.zeros(1)}, metadata={"family": "torchvision"}))
    record = code.stage_code("train", params(model="published.safetensors"), project)
    assert rooms(record) == {"torchvision"} and "torchvision" in record["packages"]


def test_where_weights_cannot_be_read_every_family_may_be_meant(project):
    (project / "start.pt").write_bytes(b"no archive")
    record = code.stage_code("train", params(model="start.pt"), project)
    assert record["family"] == "" and rooms(record) == FAMILIES


def test_weights_that_are_not_at_hand_count_as_they_were_recorded(project):
    settings = params(model=save_weights(project, family="torchvision"))
    code.write_code(settings, project)
    (project / settings.train.model).unlink()
    assert not code.is_outdated(settings, project)
    other = params(model="models/start/other.pt")
    assert rooms(code.stage_code("train", other, project)) == FAMILIES


def test_reading_what_weights_say_runs_nothing_of_them(project):
    class Evil:
        def __reduce__(self):
            return open, (str(project / "gone"), "w")

    file = project / "evil.pt"
    torch.save({"meta": {"family": "torchvision", "more": Evil()}}, file)
    (project / "gone").unlink(missing_ok=True)
    assert read_checkpoint_meta(file)["family"] == "torchvision"
    assert not (project / "gone").exists()


# Libraries and installed packages -----------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, counts",
    [
        ({"model": "yolov8n"}, False),
        ({"model": "yolov8n", "backbone": "resnet18"}, True),
        ({"model": "torchvision:ssdlite320_mobilenet_v3_large"}, True),
    ],
)
def test_a_library_counts_where_its_code_is_the_network(project, settings, counts):
    found = records(params(**settings), project)
    version = metadata.version("torchvision").partition("+")[0]
    for stage in STAGES:
        wanted = {"torchvision": version} if counts and stage in WITH_NETWORK else {}
        assert found[stage]["packages"] == wanted


def test_a_backbone_that_start_weights_bring_counts_like_one_that_is_set(project):
    model = save_weights(project, family="yolov8", architecture={"backbone": "resnet18"})
    assert "torchvision" in code.stage_code("validate", params(model=model), project)["packages"]


def test_a_family_derived_from_one_of_ours_has_its_libraries(project):
    text = "from engine.models.yolov8.family import YOLOv8Family\nclass Mine(YOLOv8Family): ...\n"
    (project / "mine" / "net.py").write_text(text)
    plain = code.stage_code("train", params(model="mine.net:Mine"), project)
    assert rooms(plain) == {"yolov8"} and plain["packages"] == {}
    for stage in WITH_NETWORK:
        settings = params(model="mine.net:Mine", backbone="resnet18")
        assert set(code.stage_code(stage, settings, project)["packages"]) == {"torchvision"}


def install(folder, name, module, version="1.0", **files):
    """A package as pip leaves it: `module` with one family, its entry point, its metadata."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / f"{module}.py").write_text("class Nets: gain = 1\n")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{module}.py,,\n")
    (info / "top_level.txt").write_text(f"{module}\n")
    (info / "entry_points.txt").write_text(f"[detectflow.families]\n{name} = {module}:Nets\n")
    for file, text in files.items():
        (info / file.replace("_json", ".json")).write_text(text)
    return info


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder in which packages are installed from an index."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    places = (*installed._installed_places(), folder.resolve())
    monkeypatch.setattr(installed, "_installed_places", lambda: places)
    for cached in (installed._folder_of, installed._distributions_of, installed._providers):
        cached.cache_clear()
    return folder


def test_an_installed_package_counts_by_its_version_under_each_name_of_its_networks(project, site):
    info = install(site, "acme", "acme_nets")
    for model in ("acme", "acme-large", "yolov8-acme"):  # which it knows, only it could say
        settings = params(model=model)
        before = records(settings, project)
        assert before["train"]["packages"]["acme"] == "1.0" and before["train"]["own"] == {}
        assert rooms(before["train"]) == FAMILIES  # it may call any
        metadata_file = info / "METADATA"
        text = metadata_file.read_text()
        metadata_file.write_text(text.replace("Version: 1.0", "Version: 1.1"))
        installed._distributions_of.cache_clear()
        assert stale(project, before, settings) == WITH_NETWORK
        metadata_file.write_text(text)
        installed._distributions_of.cache_clear()
    assert "acme" not in code.stage_code("train", params(), project)["packages"]


def test_a_package_from_a_folder_counts_by_its_sources(project, site):
    direct = json.dumps({"url": "file:///home/me/acme", "dir_info": {"editable": False}})
    install(site, "local", "local_nets", direct_url_json=direct)
    settings = params(model=save_weights(project, family="local"))
    before = records(settings, project)
    assert set(before["train"]["own"]) == {"local_nets"}
    (site / "local_nets.py").write_text("class Nets: gain = 2\n")
    assert stale(project, before, settings) == WITH_NETWORK


def test_libraries_of_the_engine_count_by_version_wherever_they_lie(project, site):
    assert installed._folder_of("torch") is None
    direct = json.dumps({"url": "file:///src/psutil", "dir_info": {"editable": True}})
    install(site, "psutil", "psutil", "9.0", direct_url_json=direct)
    assert installed._folder_of("psutil") is None
    (project / "mine" / "gain.py").write_text("import psutil\nGAIN = 1\n")
    assert own_code(project, trainer="mine.net:Mine").packages["psutil"] == "9.0"


def test_versions_say_the_commit_and_not_for_which_machine_they_were_built(project, site):
    vcs = {"url": "https://example.org/x", "vcs_info": {"vcs": "git", "commit_id": "abc123"}}
    install(site, "fromgit", "fromgit", "2.0+cu128", direct_url_json=json.dumps(vcs))
    install(site, "plain", "plain", "2.0+cu128")
    (project / "mine" / "gain.py").write_text("import fromgit, plain\nGAIN = 1\n")
    packages = own_code(project, trainer="mine.net:Mine").packages
    assert packages["fromgit"] == "2.0 at abc123" and packages["plain"] == "2.0"


def test_an_installed_package_that_needs_us_may_call_any_family(project, site):
    info = install(site, "onus", "onus")
    (project / "mine" / "gain.py").write_text("import onus\nGAIN = 1\n")
    settings = params(trainer="mine.net:Mine")
    assert rooms(code.stage_code("train", settings, project)) == {"yolov8"}
    with (info / "METADATA").open("a") as stream:
        stream.write("Requires-Dist: detectflow>=0.1\n")
    installed._distributions_of.cache_clear()
    assert rooms(code.stage_code("train", settings, project)) == FAMILIES


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
        ("sections.py", "0.25,\n        description=\"lowest score that", "0.35,\n        description=\"lowest score that", {"export", "register"}),
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
    assert list(record) == ["settings", "family", "modules", "own", "packages"]
    assert str(project) not in json.dumps(record)  # nothing of this machine


def test_another_family_is_among_the_differences():
    assert differences({"family": "a", "own": {}}, {"family": "b"}) == ["family b"]
    assert differences({"family": "a"}, {"family": ""}) == ["family of the network"]


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
