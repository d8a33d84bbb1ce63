"""What README and guides name exists: modes and settings of every command, make's verbs, scripts,
deployments, modules, functions and files.
"""

import argparse
import ast
import importlib
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import yaml

from engine.cli import MODES
from engine.cli.convert import CORRECTIONS, REQUIRED, SETTINGS
from engine.cli.data import CHECK_EXTRA
from engine.cli.modes import EXPORT_EXTRA, VAL_EXTRA
from engine.cli.tasks import EXTRA as TASKS_EXTRA
from engine.config import (
    DetectionTrainConfig,
    ExportConfig,
    Params,
    PredictConfig,
    ValidateConfig,
    parse_overrides,
)
from engine.config.sections import DataConfig
from engine.config.tune import TuneConfig
from engine.stages.layout import STAGES
from flows.overrides import _check_key

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "models" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
TRAIN = {*DetectionTrainConfig.model_fields, "settings"}
TAKEN = {  # mode -> keys of its arguments
    "train": TRAIN,
    "val": {*VAL_EXTRA, *ValidateConfig.model_fields},
    "predict": {*PredictConfig.model_fields},
    "export": {*EXPORT_EXTRA, *ExportConfig.model_fields},
    "tune": TRAIN | {*TuneConfig.model_fields},
    "check": {*CHECK_EXTRA, *DataConfig.model_fields},
    "convert": {*REQUIRED, *SETTINGS, CORRECTIONS},
    "diff": {"notify", "out"},
    "tasks": {*TASKS_EXTRA, *ValidateConfig.model_fields},
}
MADE = ("mine", "runs", "data/raw", "data/prepared", "data/parts", "models/start", "weights")


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def code_of(name):
    """Lines of shell blocks and pieces of code within sentences."""
    text = text_of(name)
    for language, block in BLOCK.findall(text):
        if language in ("bash", "console"):
            yield from block.replace("\\\n", " ").splitlines()
    yield from CODE.findall(BLOCK.sub("", text))


def calls(name, program):
    """Arguments of each call of a program that a page shows."""
    for line in code_of(name):
        found = re.search(rf"(?:^|[\s/;]){program} (.+)", line)
        if found and not line.lstrip().startswith("#"):
            rest = re.split(r"\s#|[;&|>]", found[1])[0]
            yield shlex.split(rest.replace("...", "")) or ["help"]


@pytest.mark.parametrize("page", NAMES)
def test_every_detectflow_command_has_a_mode_and_settings_that_exist(page):
    for mode, *rest in calls(page, "detectflow"):
        assert mode in {*MODES, "help", "MODE"}, mode
        if mode == "run":
            parser = argparse.ArgumentParser()
            parser.add_argument("-S", action="append", default=[])
            for given in parser.parse_known_args(rest)[0].S:
                if not given.startswith("@"):
                    _check_key(given.partition("=")[0])
        elif mode in TAKEN:
            pairs = [each for each in rest if "=" in each]
            for key in parse_overrides(pairs):
                assert key.split(".")[0] in TAKEN[mode], f"{mode} {key}"
        elif mode == "stage":
            assert set(rest) <= {*STAGES, "NAME"}
        elif mode == "help":
            assert set(rest) <= {*MODES, "MODE"}
        elif mode == "deploy":
            assert set(rest) <= deployments()
        elif mode == "prefect" and rest[:2] == ["deployment", "run"]:
            flow, _, deployment = rest[2].partition("/")
            assert deployment in deployments() and flow in text_of("prefect.yaml"), rest[2]


def deployments():
    return {each["name"] for each in yaml.safe_load(text_of("prefect.yaml"))["deployments"]}


@pytest.mark.parametrize("page", NAMES)
def test_every_verb_of_make_and_every_script_and_module_exists(page):
    verbs = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    for verb, *_ in calls(page, "make"):
        assert verb in verbs or not verb.islower(), verb
    for first, *rest in calls(page, "python"):
        if first == "-m":
            assert importlib.util.find_spec(rest[0]), rest[0]
        elif first.endswith(".py") and not first.startswith(MADE):
            assert (ROOT / first).is_file(), first


@pytest.mark.parametrize("page", NAMES)
def test_every_name_of_the_engine_can_be_imported(page):
    text = text_of(page)
    for dotted in re.findall(r"`(engine(?:\.\w+)+)", BLOCK.sub("", text)):
        assert pkgutil.resolve_name(dotted), dotted
    for language, block in BLOCK.findall(text):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith(("engine", "flows")):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", NAMES)
def test_every_source_file_and_every_setting_with_its_section_exists(page):
    pieces = CODE.findall(BLOCK.sub("", text_of(page)))
    for piece in pieces:
        if re.fullmatch(r"(engine|flows|tests|benchmarks|docs)/[\w/.-]*", piece):
            assert (ROOT / piece).exists(), piece
    known = {field.alias or name: field.annotation for name, field in Params.model_fields.items()}
    for piece in pieces:
        found = re.fullmatch(r"(\w+)\.(\w+)(?:\.\w+)*(?:[:=] ?[\w,:./-]*)?", piece)
        if found and found[1] in known and found[2] not in ("yaml", "json", "jsonl", "csv"):
            assert found[2] in known[found[1]].model_fields, piece
