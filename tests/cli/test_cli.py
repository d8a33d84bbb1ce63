"""What the command line says to right and wrong words, and with which exit code. No training
here.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from engine.cli import MODES

ROOT = Path(__file__).resolve().parents[2]
HELP_WITHIN_S = 0.5


def cli(*words, cwd=None, **env):
    return subprocess.run(
        [sys.executable, "-m", "engine", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **env},
        timeout=60,
    )


@pytest.fixture
def project(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("train:\n  epochs: 3  # a comment\n")
    return tmp_path


def test_help_answers_at_once_and_imports_nothing_heavy():
    code = (
        "import sys; from engine.cli import main; main(['--help']);"
        "print(sorted({'torch', 'numpy', 'pydantic', 'prefect', 'mlflow', 'dvc'} & "
        "set(sys.modules)), file=sys.stderr)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    took = time.perf_counter() - started
    assert done.stderr.strip() == "[]" and "detectflow MODE key=value" in done.stdout
    assert took < HELP_WITHIN_S or os.getloadavg()[0] > 2, took


@pytest.mark.parametrize(
    "words",
    [["help", "train"], ["train", "--help"], ["train", "help"], ["train", "epochs=3", "-h"]],
)
def test_help_of_a_mode_lists_its_settings(words):
    done = cli(*words)
    assert done.returncode == 0
    assert (
        "epochs=100" in done.stdout
        and "passes over the training images" in done.stdout
        and "augmentation:" in done.stdout
    )


def test_help_needs_no_torch():
    code = "import sys; from engine.cli import main; main(['help', 'train']); main(['help', 'run'])"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True
    )
    imported = {line.rsplit("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "prefect", "mlflow", "dvc"}


def test_importing_the_executors_takes_little_more_than_torch():
    slow = {
        "torchvision",
        "torch._dynamo",
        "matplotlib",
        "pandas",
        "sklearn",
        "onnx",
        "prefect",
        "mlflow",
    }
    code = (
        f"import sys, engine, engine.yolo, engine.detect, engine.export; print(sorted({slow} & "
        "set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_has_help_with_an_example_or_a_sentence(mode):
    done = cli("help", mode)
    assert done.returncode == 0 and f"detectflow {mode}" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "no mode 'trian'. Did you mean 'train'?"),
        (["help", "trian"], "Did you mean 'train'?"),
        (["benchmark", "workers=0"], "no mode 'benchmark': it is a script now: python benchmarks/"),
        (["help", "benchmark"], "python benchmarks/loader.py"),
        (["train", "epocs=3"], "unknown key 'epocs'. Did you mean 'epochs'?"),
        (["train", "epochs=many"], "epochs: Input should be a valid integer"),
        (["train", "epochs=0"], "epochs: Input should be greater than or equal to 1"),
        (["train", "imgsz=100"], "must be a multiple of 32"),
        (["train", "epochs"], "'epochs' is not key=value"),
        (["train", "epochs=1", "epochs=2"], "'epochs' is given twice"),
        (["train", "model=__import__('os').system('true')", "epochs=x"], "epochs"),
        (["val", "splt=test"], "unknown key 'splt'. Did you mean 'split'?"),
        (["val", "modle=a.pt"], "Did you mean 'model'?"),
        (["export", "fromat=onnx"], "Did you mean 'format'?"),
        (["export", "zzz=true"], "unknown key 'zzz'. Remove it, or take one of: model, format, "),
        (["val", "zzz=true"], "unknown key 'zzz'. Remove it, or take one of: model, data, "),
        (["val", "half=true"], "unknown key 'half'. There is none here (half precision): "),
        (["check", "zzz=1"], "unknown key 'zzz'. Remove it, or take one of: "),
        (["check", "policis.bad_box=drop"], "Did you mean 'policies'?"),
        (
            ["convert", "zzz=1"],
            "take one of: data, format, out, path, options, policies, corrections.",
        ),
        (["predict", "model=a.pt"], "no source given"),
        (["predict", "source=a", "conf=2"], "conf"),
        (["stage"], "stage takes one name"),
        (["stage", "trian"], "Did you mean 'train'?"),
        (["run", "--forse"], "Did you mean '--force'?"),
        (["run", "-S", "train.epocs=3"], "Did you mean 'epochs'?"),
        (["run", "-S", "epochs=3"], "Did you mean train.epochs?"),
        (["run", "-S", "trian.epochs=3"], "Did you mean 'train'?"),
        (["run", "train.epochs=0"], "greater than or equal to 1"),
        (["ui", "now"], "ui takes no arguments"),
        (["schema", "trian"], "no section 'trian'. Did you mean 'train'?"),
        (["schema", "train", "val"], "schema takes one section, got 2 arguments: train val"),
    ],
)
def test_a_wrong_request_names_what_was_meant_and_ends_with_2(words, message, project):
    before = (project / "params.yaml").read_text()
    done = cli(*words, cwd=project)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr
    assert (project / "params.yaml").read_text() == before
    assert sorted(p.name for p in project.iterdir()) == ["dvc.yaml", "params.yaml"]


def test_what_could_not_be_finished_ends_with_1_in_one_message(project):
    done = cli("val", "model=nowhere.pt", "data=nothing", cwd=project)
    assert done.returncode == 1
    assert "nowhere.pt" in done.stderr and "Traceback" not in done.stderr


def test_debug_shows_where_an_error_was_raised(project):
    done = cli("train", "epocs=3", cwd=project, DETECTFLOW_DEBUG="1")
    assert done.returncode != 0 and "Traceback" in done.stderr and "epocs" in done.stderr


def test_outside_a_project_run_says_what_it_looked_for(tmp_path):
    done = cli("run", cwd=tmp_path)
    assert done.returncode == 2 and "dvc.yaml and params.yaml" in done.stderr


def test_an_editor_can_check_params_yaml_with_what_schema_prints():
    schema = json.loads(cli("schema").stdout)
    checker = jsonschema.validators.validator_for(schema)(schema)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    checker.validate(params)
    params["train"] |= {"epocs": 3, "epochs": 0}
    said = sorted(error.message for error in checker.iter_errors(params))
    assert (
        len(said) == 2
        and "0 is less than the minimum of 1" in said[0]
        and "'epocs' was unexpected" in said[1]
    )


def test_version():
    assert cli("--version").stdout.startswith("detectflow 0.")


def test_a_reader_that_leaves_early_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m engine help train | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout and not done.stderr
