"""A tracker that is slow, silent, or whose answers get lost: nothing is lost, nothing is reported
twice, training does not wait.
"""

import contextlib
import statistics
import time

import pytest
import toys
from slow_tracker import SlowTracker
from test_tracked import all_runs, artifacts, assert_every_epoch_once, history

from engine.stages import register
from engine.tracking.journal import journal_home, left_behind
from engine.tracking.mlflow_client import QUICK, open_store
from engine.tracking.sender import send_left_behind, sender_of
from engine.tracking.stage_run import StageRun

pytestmark = pytest.mark.system


@pytest.fixture
def slow(server, monkeypatch, workspace):
    """A proxy to a server that starts empty for each test: the experiment is this test's own."""
    proxy = SlowTracker(server.port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.uri)
    yield proxy
    proxy.delay_s, proxy.hang, proxy.lose_answers = 0.0, False, 0
    with contextlib.suppress(
        AssertionError
    ):  # a thread left over would hold up those of other tests
        until_sent(workspace, 20)
    proxy.close()


def runs_of(server, root):
    from engine.tracking.mlflow_recorder import WORKSPACE
    from engine.tracking.run_metadata import workspace_id

    store = open_store(root, server.uri)
    return store, [
        run for run in all_runs(store) if run.data.tags.get(WORKSPACE) == workspace_id(root)
    ]


def until_sent(root, timeout_s=120):
    """Wait as a living process would, over failed attempts, until its sender has nothing left."""
    deadline = time.monotonic() + timeout_s
    while left_behind(journal_home(root)) and time.monotonic() < deadline:
        sender_of(root).start()
        time.sleep(0.1)
    assert not left_behind(journal_home(root)), sender_of(root).failure


def epoch_times(root, **how):
    """Seconds between the ends of epochs of a training."""
    ends = []
    toys.train(root, on_fit_epoch_end=lambda trainer: ends.append(time.monotonic()), **how)
    return [b - a for a, b in zip(ends, ends[1:])]


def test_training_does_not_wait_for_a_silent_tracker(slow, workspace, monkeypatch):
    slow.hang = True
    silent = epoch_times(workspace, epochs=40)
    assert slow.requests >= 1 and len(left_behind(journal_home(workspace))) == 1
    monkeypatch.setenv("DETECTFLOW_TRACKING", "off")
    plain = epoch_times(toys.make_workspace(workspace.parent / "plain"), epochs=40)
    assert statistics.median(silent) < statistics.median(plain) + 0.05, (silent, plain)


def test_what_a_silent_tracker_missed_comes_in_order_when_it_speaks_again(slow, server, workspace):
    slow.hang = True
    toys.train(workspace, epochs=3)
    toys.validate(workspace, value=0.5)
    slow.hang = False
    slow._let_go.set()
    until_sent(workspace)
    store, (run,) = runs_of(server, workspace)
    assert run.info.status == "FINISHED" and run.data.metrics["test/mAP50-95"] == 0.5
    assert_every_epoch_once(store, run, workspace)


def test_a_tracker_that_takes_its_time_gets_all_of_it_and_the_version_finds_its_run(
    slow, server, workspace, monkeypatch
):
    slow.delay_s = 0.15
    monkeypatch.setattr("engine.tracking.stage_run.CLOSE_S", 0.1)
    toys.train(workspace, epochs=3)
    toys.validate(workspace, value=0.5)
    toys.export(workspace)
    assert left_behind(journal_home(workspace))  # it is still at it
    done = register.run(toys.params_of(workspace), workspace)
    store, (run,) = runs_of(server, workspace)  # one: the version did not get a run of its own
    assert (
        store.client.get_model_version("detector", str(done["version"])).run_id == run.info.run_id
    )
    assert_every_epoch_once(store, run, workspace)


def test_a_tracker_slower_than_our_patience_is_given_more(slow, server, workspace, monkeypatch):
    monkeypatch.setitem(QUICK, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr("engine.tracking.sender.RETRY_S", (0.1,))
    slow.delay_s = 1.1
    run = StageRun("train", toys.params_of(workspace), workspace)
    run.sender = sender_of(workspace)
    metrics = [{"do": "metrics", "step": n, "at": n, "values": {"a": n}} for n in (1, 2)]
    run.begin({"do": "start", **run.identity("patience", 1)}, *metrics)
    run.end(wait_s=0.1)
    until_sent(workspace)
    store, (found,) = runs_of(server, workspace)
    assert history(store, found, "a") == [(1, 1.0), (2, 2.0)]


def test_answers_that_get_lost_make_no_second_run_metric_or_file(
    slow, server, workspace, monkeypatch
):
    monkeypatch.setattr("engine.tracking.sender.RETRY_S", (0.05,))

    def lose(trainer):
        slow.lose_answers += 2

    toys.train(
        workspace, epochs=4, on_pretrain_routine_end=lose, on_fit_epoch_end=lose, on_train_end=lose
    )
    until_sent(workspace)
    store, (run,) = runs_of(server, workspace)
    assert_every_epoch_once(store, run, workspace)
    assert artifacts(store, run, "train") == {
        "metrics.json",
        "origin.json",
        "results.csv",
        "results.png",
    }
    for name in ("train/box_loss", "warm-up and lr/weight"):
        assert len(history(store, run, name)) == 4


def test_the_run_stays_one_when_the_tracker_was_down_at_the_start(slow, server, workspace):
    server.kill()
    try:
        toys.train(workspace, epochs=2)
    finally:
        server.start()
    toys.validate(workspace)
    assert send_left_behind(workspace) == 0
    store, (run,) = runs_of(server, workspace)
    assert_every_epoch_once(store, run, workspace)
