"""Deployments served from one process: a real run over REST, what the UI then shows of it, and two
runs at once.
"""

import base64
import contextlib
import json
import re
import subprocess

import cv2
import numpy as np
import pytest
from test_deployments import DETECTFLOW, TINY, Api, detectflow, wait_until
from workspaces import clean_environment, copy_project, shell

from engine.cli import main
from engine.errors import ConfigError

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def api(prefect_server):
    return Api(prefect_server)


@pytest.fixture(scope="module")
def served(tmp_path_factory, api):
    """A workspace whose deployments `train` and `nightly` are served after workers had them; `log`
    is what the process says.
    """
    root = copy_project(tmp_path_factory.mktemp("served") / "project").resolve()
    log = root.parent / "serve.log"
    env = {
        **clean_environment(),
        "PREFECT_API_URL": api.url,
        "PREFECT_HOME": str(root / ".prefect"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    }
    deployed = detectflow(root, api, "deploy", "train", "nightly")
    assert deployed.returncode == 0, deployed.stderr
    with log.open("w") as out:
        process = subprocess.Popen(
            [*DETECTFLOW, "serve", "train", "nightly"], cwd=root, env=env, stdout=out, stderr=out
        )
    wait_until(
        lambda: (
            "serving pipeline/train, pipeline/nightly" in log.read_text()
            or process.poll() is not None
        )
    )
    assert process.poll() is None, log.read_text()
    yield root, log
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    process.kill()
    for kind in ("deployments", "automations"):
        for each in api(f"/{kind}/filter", {}):
            api.delete(f"/{kind}/{each['id']}")


def artifacts(api, run):
    found = api("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 50})
    return {artifact["key"]: artifact for artifact in found}


def test_it_has_the_definitions_of_prefect_yaml(served, api):
    nightly = api("/deployments/name/pipeline/nightly")
    assert [each["schedule"]["cron"] for each in nightly["schedules"]] == ["0 2 * * *"]
    assert nightly["work_pool_name"] is None and nightly["global_concurrency_limit"]["limit"] == 1
    assert (
        nightly["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        and "nightly" in nightly["tags"]
    )


def test_a_served_run_and_what_the_ui_shows_of_it(served, api):
    root, log = served
    run = api.start("pipeline/train", overrides={**TINY, "train.epochs": 1, "validate.plots": True})
    assert api.wait(run, log=log) == "COMPLETED", log.read_text()[-3000:]
    shown = artifacts(api, run)

    trained = shown["pipeline-result"]["data"]
    run_id = trained.partition("MLflow: run `")[2].partition("`")[0]
    assert len(run_id) == 32 and "`detectflow ui` in" in trained, (
        "no MLflow UI is up, so there is no link"
    )
    assert f"`{root / 'reports'}`" in trained
    table = json.loads(shown["per-class"]["data"])
    assert {row["name"] for row in table} <= set("0123456789") and list(table[0])[-2:] == [
        "ap50",
        "ap",
    ]
    urls = re.findall(
        r"!\[(Found|Labelled)\]\(data:image/jpeg;base64,([^)]+)\)",
        shown["sample-predictions"]["data"],
    )
    assert [title for title, _ in urls] == ["Found", "Labelled"]
    for _, content in urls:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
        assert image.shape[0] >= 64 and len(content) < 200_000
    assert "epoch 1 of 1" in shown["train-progress"]["description"]


def test_of_two_runs_at_once_the_second_waits_for_its_turn_and_skips_all(served, api):
    _, log = served
    first = api.start("pipeline/train", overrides={"register.experiment": "other"})
    second = api.start("pipeline/train", overrides={"register.experiment": "other"})
    assert [api.wait(run, log=log) for run in (first, second)] == ["COMPLETED"] * 2, (
        log.read_text()[-3000:]
    )
    names = {
        run: [state["name"] for state in api(f"/flow_run_states/?flow_run_id={run}")]
        for run in (first, second)
    }
    waited = [run for run in names if "AwaitingConcurrencySlot" in names[run]]
    assert len(waited) == 1, names
    for stage in ("prepare", "train", "validate", "export", "register"):
        wait_until(lambda stage=stage: api.said(waited[0], f"{stage}: skipped"))


def test_links_lead_to_the_mlflow_ui_that_is_up(served):
    from flows.summary import links_of

    lines = "\n".join(links_of(served[0], "http://tracker:5000"))
    assert re.search(
        r"\[the training's run\]\(http://tracker:5000/#/experiments/\d+/runs/[0-9a-f]{32}\?", lines
    ), lines
    assert re.search(r"/#/experiments/\d+/runs/[0-9a-f]{32}/artifacts\?", lines)
    assert "[version 1](http://tracker:5000/#/models/digits/versions/1?" in lines


def test_a_picture_is_made_small_enough_and_one_that_is_none_is_left_out(tmp_path):
    from flows.artifacts import data_url

    noise = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    url = data_url(tmp_path / "noise.png", limit_bytes=150_000)
    image = cv2.imdecode(
        np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR
    )
    assert len(url) < 200_100 and abs(image.shape[1] / image.shape[0] - 16 / 9) < 0.02
    assert data_url(tmp_path / "noise.png", limit_bytes=100) is None
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    assert data_url(tmp_path / "broken.jpg") is None and data_url(tmp_path / "missing.jpg") is None


class TestMistakes:
    def test_names(self, served, api):
        root, _ = served
        for name, said in (
            ("trian", "Did you mean 'train'"),
            ("train-clone", "works in a fresh clone and cannot be served"),
        ):
            done = detectflow(root, api, "serve", name)
            assert done.returncode == 2 and said in done.stderr, done.stderr

    @pytest.mark.parametrize(
        "text, said",
        [
            ("deployments: [1, 2]", "`deployments` must be a list"),
            ("deployments: [{name: a}]", "has no entrypoint"),
            (
                "deployments: [{name: a, entrypoint: flows/pipeline.py:pipeline, schedule: {cron: "
                "'0 2 * * *'}}]",
                "write a list",
            ),
            ("deployments: [{name: a, entrypoint: flows/nothing.py:f}]", "No module named"),
            (
                "deployments: [{name: a, entrypoint: flows/pipeline.py:pipeline, schedules: "
                "[{chron: x}]}]",
                "one of cron",
            ),
            (
                "deployments: [{name: a, entrypoint: flows/pipeline.py:pipeline, schedules: "
                "[{cron: x}]}]",
                "nvalid cron",
            ),
        ],
    )
    def test_definitions(self, tmp_path, text, said):
        from flows.deploy import definitions
        from flows.serve import as_served

        (tmp_path / "prefect.yaml").write_text(text)
        with pytest.raises(ConfigError, match=said):
            as_served(definitions(tmp_path)[0])

    def test_schedules_and_limits_of_every_kind(self, tmp_path):
        from flows.serve import as_served

        kinds = [
            {"interval": 3600},
            {"rrule": "FREQ=DAILY"},
            {"cron": "0 2 * * *", "timezone": "Europe/Berlin", "active": False},
        ]
        made = as_served(
            {
                "name": "a",
                "entrypoint": "flows/pipeline.py:pipeline",
                "schedules": kinds,
                "concurrency_limit": 2,
            }
        )
        assert [each.active for each in made.schedules] == [True, True, False]
        assert made.schedules[0].schedule.interval.total_seconds() == 3600
        assert made.schedules[2].schedule.timezone == "Europe/Berlin"

    def test_prefects_own_command_knows_the_server(self, served, api):
        done = detectflow(served[0], api, "prefect", "deployment", "ls")
        assert done.returncode == 0 and "pipeline/nightly" in done.stdout, done.stderr
        done = shell(served[0], *DETECTFLOW, "prefect", "deployment", "ls")
        assert done.returncode == 1 and "make ui" in done.stderr

    @pytest.mark.parametrize(
        "word, said",
        [("limt=2", "Did you mean 'limit'"), ("limit=0", "limit=0: a number of runs from 1")],
    )
    def test_words(self, word, said, capsys):
        assert main(["serve", word]) == 2
        assert said in capsys.readouterr().err

    def test_without_a_server(self, served):
        done = shell(served[0], *DETECTFLOW, "serve")
        assert done.returncode == 1 and "make ui" in done.stderr
