"""MLflow's SQLite file while another program has it locked, as a backup or a browser of databases
does: what a stage says, how long it takes, and that all of it is there afterwards.
"""

import contextlib
import sqlite3
import subprocess
import time

import pytest
import toys
from test_tracked import all_runs, assert_every_epoch_once, the_run

from engine.errors import WorkspaceError
from engine.stages import register
from engine.tracking.journal import journal_home, left_behind
from engine.tracking.mlflow_client import open_store
from engine.tracking.sender import send_left_behind, sender_of

pytestmark = pytest.mark.system


class Lock:
    """Nobody else can read or write the database until it is freed."""

    def __init__(self, root):
        self.file = root / "mlflow.db"

    def take(self):
        # The writes of another thread may be under way: wait for them.
        self.connection = sqlite3.connect(
            self.file, timeout=30, isolation_level=None, check_same_thread=False
        )
        self.connection.execute("BEGIN EXCLUSIVE")

    def free(self):
        self.connection.rollback()
        self.connection.close()


@pytest.fixture
def lock(workspace):
    held = Lock(workspace)
    yield held
    with contextlib.suppress(AttributeError, sqlite3.ProgrammingError):
        held.free()


def test_a_training_begins_goes_on_and_ends_beside_a_locked_database(workspace, lock, caplog):
    lock.take()
    started = time.monotonic()
    toys.train(workspace, epochs=2)
    toys.validate(workspace, value=0.75)
    assert time.monotonic() - started < 40
    assert "database is locked. Nothing is lost" in caplog.text and "Traceback" not in caplog.text
    assert len(left_behind(journal_home(workspace))) == 2
    lock.free()
    assert send_left_behind(workspace) == 0
    store = open_store(workspace)
    assert_every_epoch_once(store, the_run(store), workspace)
    assert the_run(store).data.metrics["test/mAP50-95"] == 0.75


def test_one_that_is_locked_in_the_middle_misses_no_epoch_and_has_none_twice(
    workspace, store, lock
):
    def outage(trainer):
        if trainer.epoch == 1:
            sender_of(workspace).wait(timeout_s=5)
            lock.take()
        if trainer.epoch == 3:
            time.sleep(6)  # longer than SQLite waits by itself
            lock.free()

    toys.train(workspace, epochs=5, on_fit_epoch_end=outage)
    assert send_left_behind(workspace) == 0
    assert the_run(store).info.status == "FINISHED"
    assert_every_epoch_once(store, the_run(store), workspace)


def test_register_says_what_is_locked_and_registers_once_it_is_free(workspace, store, lock):
    toys.train(workspace, epochs=1)
    toys.validate(workspace)
    toys.export(workspace)
    lock.take()
    other = subprocess.Popen(
        ["tail", "-f", str(lock.file)], stdout=subprocess.DEVNULL
    )  # has it open, as who locks it has
    named = rf"Another program has {lock.file} locked: process {other.pid} \(tail -f .*Wait until it is done, or end it"
    with pytest.raises(
        WorkspaceError, match=rf"(?s)mlflow\.db.*database is locked.*{named}"
    ) as reported:
        register.run(toys.params_of(workspace), workspace)
    other.kill()
    other.wait()
    assert (
        "\n" not in str(reported.value)
        and not (workspace / "reports" / "registration.json").exists()
    )
    lock.free()
    assert register.run(toys.params_of(workspace), workspace)["version"] == 1
    assert len(all_runs(store)) == 1
