"""A search without an orchestrator: what a trial leaves, what a death costs, what is pruned,
cleared and refused.
"""

import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
import torch
import yaml
from searches import WORDS
from workspaces import ROOT

from engine.config import DetectionTrainConfig
from engine.core.results import read_results
from engine.detect import DetectionTrainer
from engine.errors import ConfigError, WorkspaceError
from engine.hpo import study as studies
from engine.hpo.report import clear_weights, commands_for, importances, write_report
from engine.hpo.sweep import make_sweep
from engine.hpo.trial import run_trial

pytestmark = pytest.mark.system

ABOUT = {"key": "k", "name": "s", "tags": {}, "began_ms": 0}
DRIVER = """
import sys
from engine.project.environment import prepare_environment
from engine.hpo import study, sweep, trial

root = prepare_environment(sys.argv[1])
plan = sweep.make_sweep({**%r, "epochs": 40}, root)
with study.driving(plan) as (found, token):
    trial.run_trial(plan, token, 0, {})
"""


def run_some(plan, count, first=0):
    with studies.driving(plan) as (study, token):
        return [run_trial(plan, token, first + i, ABOUT) for i in range(count)], study


def test_a_search_from_first_trial_to_report(project):
    before = (project / "params.yaml").read_bytes()
    plan = make_sweep({**WORDS, "keep": 1}, project)
    rows, study = run_some(plan, 2)
    assert [row["state"] for row in rows] == ["complete", "complete"]
    assert rows[0]["values"] == {"lr0": 0.002, "mosaic": 1.0}, (
        "the first trial is what training does by itself"
    )
    assert {row["values"]["lr0"] for row in rows} != {0.002}
    args = DetectionTrainConfig.load(plan.folder / "trial-0001" / "args.yaml")
    assert (args.lr0, args.mosaic) == (rows[1]["values"]["lr0"], rows[1]["values"]["mosaic"])
    assert args.fliplr == 0.0 and args.nbs == 16, "as in params.yaml"
    reported = study.trials[1].intermediate_values
    table = read_results(plan.folder / "trial-0001" / "results.csv")
    assert {
        int(r["epoch"]) - 1: pytest.approx(r["metrics/mAP50-95"], abs=1e-6) for r in table
    } == reported

    clear_weights(plan, study)
    best = studies.ranked(study)[0].number
    assert [(plan.folder / f"trial-000{i}" / "weights").exists() for i in (0, 1)] == [
        best == 0,
        best == 1,
    ]
    result = write_report(plan, study)
    content = yaml.safe_load((plan.folder / "best.yaml").read_text())
    assert content == {"train": result["best"]["values"]} and result["best"]["number"] == best
    assert all((plan.folder / name).stat().st_size > 100 for name in result["files"])
    assert result["counts"] == {"complete": 2, "pruned": 0, "failed": 0}
    assert (project / "params.yaml").read_bytes() == before

    taken(project, result["commands"])
    with pytest.raises(
        ConfigError, match=r"(?s)study 's' has searched something else.*train.epochs: 2 then, 3 now"
    ):
        run_some(make_sweep({**WORDS, "epochs": 3}, project), 1)


OWN_TRAINER = """
from engine.config import DetectionTrainConfig
from engine.core.trainer import BaseTrainer
from engine.detect import DetectionTrainer
from mine.net import CellTrainer, Cells

class Settings(DetectionTrainConfig):
    cells_lr: float = 1.0

class Searched(CellTrainer):
    config_class = Settings

    def build_optimizer(self, model, name, lr, momentum, decay):
        return super().build_optimizer(model, name, lr * self.args.cells_lr, momentum, decay)

class OwnData(DetectionTrainer):
    def get_dataset(self, data):
        return super().get_dataset(data=data)

    def data_digest(self):
        return ""

class NoDetector(BaseTrainer):
    pass

def shorter(trainer):
    trainer.add_callback("on_fit_epoch_end", lambda t: setattr(t, "stop", True))
"""


@pytest.fixture
def own_trainer(project, monkeypatch):
    """The module of docs/engine/custom-models.md, and classes derived from it, in the project."""
    page = (ROOT / "docs" / "engine" / "custom-models.md").read_text()
    (text,) = re.findall(r"```python\n# mine/net\.py\n(.*?)```", page, re.S)
    (project / "mine").mkdir()
    (project / "mine" / "net.py").write_text(text)
    (project / "mine" / "searched.py").write_text(OWN_TRAINER)
    monkeypatch.syspath_prepend(project)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def test_a_trainer_of_ones_own_is_searched_its_own_settings_too(project, own_trainer):
    (project / "tune.yaml").write_text("cells_lr: {low: 0.5, high: 2.0}\nbox: {low: 5, high: 9}\n")
    words = {**WORDS, "trainer": "mine.searched:Searched"}
    del words["study"]
    plan = make_sweep(words, project)
    assert plan.study == "tiny-yolov8n-Searched"
    rows, study = run_some(plan, 2)
    assert [row["state"] for row in rows] == ["complete", "complete"], rows
    assert rows[0]["values"]["cells_lr"] == 1.0, "the first trial is what training does by itself"
    args = yaml.safe_load((plan.folder / "trial-0001" / "args.yaml").read_text())
    assert args["cells_lr"] == rows[1]["values"]["cells_lr"] != 1.0
    assert args["trainer"] == "mine.searched:Searched"
    columns = read_results(plan.folder / "trial-0000" / "results.csv")[0]
    assert "train/score_loss" in columns, "its own network"
    (command,) = write_report(plan, study)["commands"]
    from engine.cli.modes import _schema, _with_file
    from engine.config import parse_overrides

    given = _with_file(parse_overrides(command.split()[2:]))
    best = studies.ranked(study)[0].params
    assert _schema(given["trainer"]).build(given, "train").cells_lr == best["cells_lr"]


def test_own_data_without_a_digest_and_own_callbacks_are_searched_with(project, own_trainer):
    words = {"trainer": "mine.searched:OwnData", "callbacks": ["mine.searched:shorter"]}
    plan = make_sweep({**WORDS, **words}, project)
    rows, study = run_some(plan, 1)
    assert rows[0]["state"] == "complete" and rows[0]["epochs"] == 1, "stopped by the callback"
    run, _ = write_report(plan, study)["commands"]
    from engine.cli.run import overrides_of

    values = overrides_of([word for word in run.split()[2:] if word != "-S"])
    assert values["train.trainer"] == "mine.searched:OwnData" and "train.lr0" in values


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"trainer": "mine.searched:NoDetector"}, "does not derive from engine.detect.Detection"),
        ({"trainer": "mine.searched:Serched"}, "Did you mean 'Searched'"),
        ({"trainer": "mine.searched:Searched", "cell_lr": 1}, "Did you mean 'cells_lr'"),
        ({"cells_lr": 1.0}, "unknown key 'cells_lr'"),
    ],
)
def test_wrong_requests_for_a_trainer_of_ones_own(project, own_trainer, words, said):
    with pytest.raises(ConfigError, match=said):
        make_sweep({**WORDS, **words}, project)


def test_the_command_for_the_pipeline_names_the_model_where_params_yaml_has_another(project):
    name = "torchvision:ssdlite320_mobilenet_v3_large"
    for words, wanted in (({}, None), ({"model": "yolov8n"}, None), ({"model": name}, name)):
        run, train = commands_for(make_sweep({**WORDS, **words}, project), {"lr0": 0.01})
        assert (f"-S train.model={name} -S @" in run) == (wanted is not None), run
        assert "train.model" not in run or wanted
        assert f"model={wanted or 'yolov8n'}" in train


def taken(project, commands):
    """The commands of the report are understood by those that they name."""
    from engine.cli.modes import _with_file
    from engine.cli.run import overrides_of
    from engine.config import parse_overrides
    from flows.overrides import checked

    run, train = (command.split() for command in commands)
    values = overrides_of([word for word in run[2:] if word != "-S"])
    assert checked(project, values).train.lr0 == values["train.lr0"]
    config = DetectionTrainConfig.build(_with_file(parse_overrides(train[2:])), "train")
    assert (
        config.lr0 == values["train.lr0"] and config.epochs == 2 and config.data == "data/tiny.yaml"
    )


def test_a_trial_that_is_killed_is_tried_again_from_its_last_epoch(project):
    plan = make_sweep({**WORDS, "epochs": 40}, project)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER % WORDS, str(project)], cwd=project)
    folder = plan.folder / "trial-0000"
    deadline = time.monotonic() + 120
    while not (folder / "results.csv").is_file() or len(read_results(folder / "results.csv")) < 2:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(WorkspaceError, match="being searched by another process"):
        run_some(plan, 1)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = len(read_results(folder / "results.csv"))

    with studies.driving(plan) as (study, token):
        states = [trial.state.name for trial in study.trials]
        assert states == ["FAIL", "WAITING"] and not studies.finished(study)
        row = run_trial(plan, token, 0, ABOUT)
    assert row["number"] == 1 and row["state"] == "complete" and row["epochs"] == 40 > done
    assert row["values"] == study.trials[0].params
    assert not folder.exists() and len(study.trials[1].intermediate_values) == 40
    assert [trial.number for trial in studies.finished(study)] == [1]


def test_what_kills_its_process_every_time_is_given_up(project):
    plan = make_sweep(WORDS, project)
    for attempt in range(studies.ATTEMPTS):
        with studies.driving(plan) as (study, _):
            study.ask(
                {each.name: each.distribution() for each in plan.dimensions}
            )  # and nothing is reported
            assert study.trials[-1].user_attrs.get("attempt", 1) == attempt + 1
            assert study.trials[-1].user_attrs["start"], "it stays the one to compare with"
    assert {trial.state.name for trial in study.trials} == {"FAIL"}
    assert [trial.number for trial in studies.finished(study)] == [studies.ATTEMPTS - 1]


def test_a_trial_that_outlived_its_driver_leaves(project, monkeypatch):
    plan = make_sweep(WORDS, project)
    with studies.driving(plan) as (study, token):

        class Overtaken(DetectionTrainer):
            def save_model(self):
                super().save_model()
                study.set_user_attr(studies.TOKEN, "another")

        monkeypatch.setattr("engine.detect.choose.DetectionTrainer", Overtaken)
        row = run_trial(plan, token, 0, ABOUT)
        assert row["state"] == "left" and study.trials[0].state.name == "RUNNING"
        assert len(read_results(plan.folder / "trial-0000" / "results.csv")) == 1
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_a_hopeless_trial_is_pruned(project):
    plan = make_sweep(
        {**WORDS, "prune_after_trials": 1, "prune_after_epochs": 1, "epochs": 4}, project
    )
    with studies.driving(plan) as (study, token):
        distributions = {each.name: each.distribution() for each in plan.dimensions}
        values = {"lr0": 0.01, "mosaic": 0.5}
        study.add_trial(
            optuna.trial.create_trial(
                params=values,
                distributions=distributions,
                value=0.9,
                intermediate_values={e: 0.9 for e in range(4)},
            )
        )
        row = run_trial(plan, token, 0, ABOUT)
    assert row["state"] == "pruned" and study.trials[row["number"]].state.name == "PRUNED"
    assert len(read_results(plan.folder / row["folder"] / "results.csv")) == 2, (
        "one epoch is every trial's"
    )


def test_a_failing_trial_ends_nothing_and_failing_ones_alone_end_all(project):
    plan = make_sweep({**WORDS, "monitor": "metrics/mAP77"}, project)  # no such figure
    rows, study = run_some(plan, 4)
    assert [row["state"] for row in rows] == ["failed", "failed", "failed", "left"]
    assert "mAP77" in studies.why_all_failed(study)


@pytest.mark.parametrize(
    "words, said",
    [
        ({"trails": 3}, "Did you mean 'trials'"),
        ({"epoch": 3}, "Did you mean 'epochs'"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"name": "x"}, "name belongs to the search"),
        ({"resume": True}, "the same command goes on"),
        ({"nproc": 2}, "jobs=N"),
        ({"study": "../x"}, "plain name"),
        ({"lr0": 0.01}, "lr0 is given and stands in tune.yaml"),
        ({"space": "no.yaml"}, "no such file"),
        ({"scheduler": "tcp://h:1"}, "runner=dask"),
        ({"runner": "ray"}, "'processes', 'threads' or 'dask'"),
    ],
)
def test_wrong_requests(project, words, said):
    with pytest.raises(ConfigError) as error:
        make_sweep({**WORDS, **words}, project)
    assert said in str(error.value)


def test_without_data_the_prepared_ones_are_meant(project):
    with pytest.raises(ConfigError, match="data/prepared is not there.*detectflow run"):
        make_sweep({key: value for key, value in WORDS.items() if key != "data"}, project)


@pytest.mark.parametrize(
    "url, error, said",
    [
        ("not a url", ConfigError, "no database URL"),
        ("postgresql+nodriver://u:secret@h/d", (ConfigError, WorkspaceError), r"u:\*\*\*@h/d"),
        ("sqlite:////proc/nowhere/s.db", WorkspaceError, "cannot be used"),
    ],
)
def test_a_wrong_storage_is_reported_without_its_password(project, url, error, said):
    with pytest.raises(error, match=said) as found:
        run_some(make_sweep({**WORDS, "storage": url}, project), 1)
    assert "secret" not in str(found.value)


def test_the_environment_names_the_storage(project, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_TUNE_STORAGE", "sqlite:///elsewhere.db")
    assert make_sweep(WORDS, project).storage == "sqlite:///elsewhere.db"
    assert (
        os.path.basename(make_sweep({**WORDS, "storage": "sqlite:///x.db"}, project).storage)
        == "x.db"
    )


def test_the_setting_that_matters_is_found():
    study = optuna.create_study(direction="maximize")
    distributions = {
        "lr0": optuna.distributions.FloatDistribution(1e-4, 1e-2, log=True),
        "mosaic": optuna.distributions.FloatDistribution(0, 1),
    }
    for i in range(20):
        values = {"lr0": 10 ** (-4 + 2 * (i * 7 % 20) / 19), "mosaic": i / 19}
        value = 0.1 * math.log10(values["lr0"]) + 0.02 * values["mosaic"]
        study.add_trial(
            optuna.trial.create_trial(params=values, distributions=distributions, value=value)
        )
        if len(study.trials) < 4:
            assert importances(study) == {}
    assert next(iter(importances(study))) == "lr0" and importances(study)["lr0"] > 0.8


def test_the_short_way_searches_in_this_process(project):
    from engine import YOLO

    model = YOLO("yolov8n.yaml")
    settings = {"epochs": np.int64(1), "imgsz": 64, "batch": 6, "study": "short"}
    settings |= {"device": torch.device("cpu")}
    found = model.tune(
        data="data/tiny.yaml",
        iterations=1,
        space={"lr0": (1e-4, 1e-2)},
        plots=False,
        save=False,
        val=False,
        **settings,
    )
    assert found["counts"]["complete"] == 1 and found["best"]["values"].keys() == {"lr0"}
    assert 1e-4 <= found["best"]["values"]["lr0"] <= 1e-2
    assert (project / "runs" / "tune" / "short" / "best.yaml").is_file()
    with pytest.raises(ConfigError, match="detectflow tune jobs=4"):
        model.tune(data="data/tiny.yaml", jobs=4, **settings)
    with pytest.raises(ConfigError, match=r"space: lr0: 0.1 is no range; write \(low, high\)"):
        model.tune(data="data/tiny.yaml", space={"lr0": 0.1}, **settings)
