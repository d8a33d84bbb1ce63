"""The thread that sends journals to MLflow, oldest first, and keeps trying while the tracker does
not answer.

The stage only appends to its journal; whatever happens here cannot end it or hold it up. What could
not be sent when the process ends stays on disk and goes out with the next stage, or by `python -m
engine.tracking.sender`.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path

from engine.errors import EngineError
from engine.project.redaction import hide
from engine.tracking.journal import Journal, Record, journal_home, left_behind
from engine.tracking.mlflow_client import (
    Store,
    is_forgotten,
    is_refusal,
    open_store,
    patience_s,
    quick,
    reason,
    tracking_uri,
)
from engine.tracking.mlflow_recorder import METRICS_PER_CALL, Recorder

logger = logging.getLogger("detectflow.tracking")

RETRY_S = (1.0, 2.0, 5.0, 15.0, 30.0)
CLOSE_S = 30.0  # a stage waits so long for a tracker that answers
LEFT_BEHIND_S = 600.0  # what earlier runs could not send may take so long
FAILING_CLOSE_S = 3.0  # and so long, or for one more try, for one that does not


class Sender:
    """One per workspace and tracker; its thread lives as long as the process."""

    def __init__(self, state: Path, uri: str):
        self.state, self.uri, self.shown = state, uri, hide(uri)
        self.failure = ""  # why the last attempt failed, empty while all is well
        self._attempts = 0  # failed ones, ever
        self._failed_in_a_row = 0
        self._sent = 0  # records or groups of them, ever
        self._queue: list[Journal] = []
        self._store: Store | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Take what was left behind, and let the thread begin, which imports MLflow."""
        with self._wake:
            taken = [Journal.take(folder) for folder in left_behind(journal_home(self.state))]
            self._queue += [journal for journal in taken if journal is not None]
            self._wake.notify_all()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name="detectflow-tracking", daemon=True
                )
                self._thread.start()

    def submit(self, journal: Journal) -> None:
        """Send this journal, after all earlier ones, while it is being written."""
        with self._wake:
            self._queue.append(journal)
        self.start()

    def notify(self) -> None:
        """Something was appended, or a journal closed: try now."""
        with self._wake:
            self._wake.notify_all()

    def wait(self, journal: Journal | None = None, timeout_s: float = CLOSE_S) -> bool:
        """Wait until `journal`, or everything, is sent; False when time is up or a further attempt
        failed.
        """
        started = time.monotonic()
        with self._wake:
            attempts = self._attempts
            self._wake.notify_all()
            while self._queue if journal is None else journal in self._queue:
                limit = min(timeout_s, FAILING_CLOSE_S) if self.failure else timeout_s
                left = started + limit - time.monotonic()
                lost = self._thread is None or not self._thread.is_alive()
                if left <= 0 or lost or (self.failure and self._attempts > attempts):
                    return False
                self._wake.wait(left)
        return True

    def drain(self) -> bool:
        """Wait until everything is sent, however slow the tracker is, as long as it takes something
        `CLOSE_S`.
        """
        while True:
            before = self._sent
            if self.wait():
                return True
            if self.failure or self._sent == before:
                return False

    def _work(self) -> None:
        try:
            while True:
                with self._wake:
                    while not self._queue:
                        self._wake.wait()
                    journal = self._queue[0]
                self._send_journal(journal)
                with self._wake:
                    self._queue.remove(journal)
                    self._wake.notify_all()
        except Exception as error:  # ours, or a missing MLflow; journals stay where they are
            self._failed(error)
            logger.warning(
                "tracking is off in this process: %s: %s", type(error).__name__, reason(error)
            )

    def _send_journal(self, journal: Journal) -> None:
        while True:
            unsent = journal.unsent()
            if unsent:
                try:
                    journal.sent(
                        self._persist(
                            lambda recorder, some=unsent: _send_some(recorder, some), journal
                        )
                    )
                except Unsendable as error:
                    logger.warning(
                        "MLflow at %s makes no run for %s: %s. It stays there.",
                        self.shown,
                        journal.folder,
                        error,
                    )
                    return journal.release()
            elif journal.closed:
                break
            else:
                with self._wake:
                    if not journal.closed and not journal.unsent():
                        self._wake.wait()
        if journal.first() and not _has_end(journal):
            self._persist(
                lambda recorder: recorder.finish_for_the_dead(int(time.time() * 1000)), journal
            )
        journal.remove()

    def _persist(self, action, journal: Journal):
        """Do `action(recorder)` until the tracker has answered, whatever it takes; returns its
        value.
        """
        pause, fresh = 0, False
        while True:
            began = time.monotonic()
            try:
                with quick(self._failed_in_a_row):
                    if self._store is None:
                        self._store = open_store(self.state, self.uri)
                    value = action(Recorder(self._store, journal))
                if self.failure:
                    logger.info("MLflow at %s answers again", self.shown)
                self.failure, self._sent = "", self._sent + 1
                if (
                    time.monotonic() - began < patience_s()
                ):  # else it is still as slow, and the patience needed
                    self._failed_in_a_row = 0
                return value
            except (ImportError, Unsendable):
                raise
            except (
                Exception
            ) as error:  # what a network, a server or a locked database can do has no common type
                was_open, self._store = self._store is not None, None
                if was_open and not fresh and not self.failure:
                    fresh = True  # a new connection may do
                    continue
                if not self.failure:
                    logger.warning(
                        "MLflow at %s: %s. Nothing is lost, it is tried again.",
                        self.shown,
                        reason(error),
                    )
                self._failed(error)
            with self._wake:
                self._wake.wait(RETRY_S[min(pause, len(RETRY_S) - 1)])
            pause += 1

    def _failed(self, error: Exception) -> None:
        with self._wake:
            self.failure = reason(error)
            self._attempts += 1
            self._failed_in_a_row += 1
            self._wake.notify_all()


class Unsendable(Exception):
    """The tracker refuses the record on which all others of a journal depend."""


def _send_some(recorder: Recorder, unsent: list[tuple[Record, int]]) -> int:
    """Send the first record, with the metrics that follow it if it is one; returns the offset
    reached.
    """
    kind, count, values = unsent[0][0].get("do"), 1, len(unsent[0][0].get("values", ()))
    if kind == "metrics":
        for record, _ in unsent[1:]:
            values += len(record.get("values", ()))
            if record.get("do") != "metrics" or values > METRICS_PER_CALL:
                break
            count += 1
    journal = recorder.journal
    try:
        recorder.perform([record for record, _ in unsent[:count]])
    except Exception as error:
        if is_forgotten(error) and journal.run_id is not None and not journal.rewound:
            logger.warning(
                "MLflow has forgotten the run of %s; it is sent from the beginning", journal.name
            )
            journal.run_id, journal.rewound = None, True
            return 0
        if is_refusal(error) and kind in {"start", "attach"}:
            raise Unsendable(reason(error)) from error
        if not is_refusal(error) and not isinstance(error, (FileNotFoundError, LookupError)):
            raise
        logger.warning("MLflow refused a record (%s) of %s: %s", kind, journal.name, reason(error))
    return unsent[count - 1][1]


def _has_end(journal: Journal) -> bool:
    before, journal.offset = journal.offset, 0
    try:
        return any(record.get("do") == "end" for record, _ in journal.unsent())
    finally:
        journal.offset = before


_senders: dict[tuple[Path, str, str], Sender] = {}
_guard = threading.Lock()


def sender_of(state: Path, lane: str = "") -> Sender:
    """The sender of this workspace to the tracker of the environment.

    Journals of one lane go out one after the other: what is open for long, beside others, needs a
    lane of its own.
    """
    key = (state, tracking_uri(state), lane)
    with _guard:
        return _senders.setdefault(key, Sender(*key[:2]))


def send_left_behind(state: Path) -> int:
    """Send what earlier runs could not; returns how many journals are still there."""
    sender = sender_of(state)
    sender.start()
    sender.wait(timeout_s=LEFT_BEHIND_S)
    return len(left_behind(journal_home(state)))


def main() -> int:
    """`python -m engine.tracking.sender`: send now what is waiting in this workspace."""
    from engine.project.environment import prepare_environment, state_root

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        state = state_root(prepare_environment())
    except EngineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    left = send_left_behind(state)
    print(
        f"{left} journals are waiting"
        if left
        else f"everything was sent to {hide(tracking_uri(state))}"
    )
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
