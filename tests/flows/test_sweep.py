"""The flow sweep for real: trials in turn with their runs in MLflow, and on a Dask cluster of two
workers.
"""

import os

import pytest
from searches import WORDS, write_tiny

from engine.errors import ConfigError
from engine.hpo.study import finished, open_study
from engine.hpo.sweep import make_sweep
from engine.tracking.mlflow_client import open_store

pytestmark = pytest.mark.system


@pytest.fixture
def sweep(project, prefect_server):
    write_tiny(project)
    from flows.sweep import sweep

    def run(**words):
        return sweep(str(project), {**WORDS, **words})

    return run


def test_trials_are_nested_runs_and_a_finished_study_goes_on(project, sweep):
    result = sweep(trials=1)
    assert result["counts"] == {"complete": 1, "pruned": 0, "failed": 0}
    result = sweep(trials=2)
    assert result["counts"]["complete"] == 2, "one was there, one is new"
    assert [line.split("|")[1].strip().split()[0] for line in result["table"].splitlines()[2:]] in (
        ["0", "1"],
        ["1", "0"],
    )

    store = open_store(project)
    experiment = store.client.get_experiment_by_name("detectflow-tune").experiment_id
    runs = {run.info.run_name: run for run in store.client.search_runs([experiment])}
    assert runs.keys() == {"s", "trial-0000", "trial-0001"}, (
        "the second search goes on in the parent run of the first"
    )
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs["s"]
    assert (
        parent.data.params["space.lr0"] == "0.0001 to 0.02, log"
        and "trial/best_so_far" in parent.data.metrics
    )
    assert {file.path for file in store.client.list_artifacts(parent.info.run_id, "tune")} == {
        f"tune/{name}" for name in ("best.yaml", "trials.csv", "history.png", "importance.png")
    }
    trial = runs["trial-0001"]
    assert trial.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert trial.data.tags["trial.state"] == "complete"
    assert float(trial.data.params["searched.lr0"]) == float(trial.data.params["train.lr0"])
    history = store.client.get_metric_history(trial.info.run_id, "metrics/mAP50-95")
    assert [point.step for point in history] == [1, 2]
    assert not list((project / "runs" / "journal").glob("[!.]*")), "all was sent"


def test_two_dask_workers_share_the_trials(project, sweep, monkeypatch):
    monkeypatch.setenv("DETECTFLOW_TRACKING", "off")
    import distributed
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(project)
    ) as cluster:
        result = sweep(trials=4, runner="dask", scheduler=cluster.scheduler_address, jobs=2)
        with distributed.Client(cluster, set_as_default=False) as client:
            workers = set(client.run(os.getpid).values())
    assert result["counts"] == {"complete": 4, "pruned": 0, "failed": 0} and len(workers) == 2
    study = open_study(make_sweep(WORDS, project))
    trials = finished(study)
    assert len({trial.params["lr0"] for trial in trials}) == 4, "each worker has values of its own"
    assert {trial.user_attrs["pid"] for trial in trials} == workers
    assert not os.path.exists(project / "mlflow.db")


def test_a_scheduler_that_is_not_there(project, sweep):
    with pytest.raises(ConfigError, match="no Dask scheduler answers there"):
        sweep(runner="dask", scheduler="tcp://127.0.0.1:9", jobs=2)


def test_a_wrong_word_is_answered_before_any_server_starts(project, capfd):
    write_tiny(project)
    from engine.cli import main

    assert main(["tune", "trails=3"]) == 2
    assert "Did you mean 'trials'" in capfd.readouterr().err
    assert not (project / ".prefect").exists()
