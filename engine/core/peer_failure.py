"""One error for a run of several processes: the first to fail records it for the others, and all of
them leave.

The processes share a key-value store, torchrun's or rank 0's. The first to fail writes its rank and
error there. One that fails afterwards, mostly because its connection to the first one broke, learns
that it is not the cause and raises `PeerError` instead. A thread in each process reads the store
too: it interrupts a process that does not notice, and ends one that cannot even be interrupted
because it waits in a GPU kernel for a peer that is gone.

torchelastic's own error files would not do: an agent reads them when its processes have ended, and
those of another machine not at all, so no process would know before the time limit of a collective.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch.distributed as dist

from engine.errors import INTERRUPTED, EngineError, Terminated, TrainingError
from engine.signals import interrupts_are_heard, raised_safely

POLL_S = 1.0  # how often a process asks whether another has failed
# set where our own launcher watches the processes and reports one that was killed
LAUNCHED = "DETECTFLOW_LAUNCHED"
# what it then has to notice by itself, by a broken connection, before it is interrupted
NOTICE_S = 2.0
GRACE_S = 10.0  # what an interrupted process has to come out of whatever it waits in
STORE_TIMEOUT_S = 5.0
LOST = (
    "closed by peer",
    "reset by peer",
    "Broken pipe",
    "remote process exited",
    "Socket closed",
    "ncclRemoteError",
)

_groups = itertools.count(1)
# number of the process group this process is in or was in last; several trainings may follow each
# other
_group = 0


@dataclass(frozen=True)
class Failure:
    """What the others need to know about the first failure."""

    rank: int
    node: int
    text: str  # "TrainingError: the loss is not finite ..."
    exit_code: int


class PeerError(EngineError):
    """Another process of this run failed first. `reported`: that process shows its error on this
    machine, so this one need not.
    """

    def __init__(self, failure: Failure, node: int):
        super().__init__(f"this process ended because rank {failure.rank} failed: {failure.text}")
        self.failure = failure
        self.exit_code = failure.exit_code
        self.reported = failure.node == node


class FailureStore:
    """Where the first failure of a run is written. Without a store (one process, no launcher) only
    one's own is known.
    """

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        self.node = int(os.environ.get("GROUP_RANK", 0))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._key = (
            f"detectflow/{os.environ.get('TORCHELASTIC_RUN_ID', '')}/{attempt}/{_group}/failure"
        )
        self._store: dist.Store | None = None

    def post(self, error: BaseException) -> Failure:
        """Who failed first: this process, or another that had written before."""
        code = (
            getattr(error, "exit_code", 1)
            if not isinstance(error, KeyboardInterrupt)
            else INTERRUPTED
        )
        mine = Failure(self.rank, self.node, f"{type(error).__name__}: {error}", code)
        if not self._connected():
            return mine
        try:
            return Failure(
                **json.loads(self._store.compare_set(self._key, "", json.dumps(asdict(mine))))
            )
        except RuntimeError:  # the launcher is gone, and with it the store
            return mine

    def read(self) -> Failure | None:
        """The first failure, if there is one.

        Raises:
            RuntimeError: the store was there and is gone.
        """
        if not self._connected() or not self._store.check([self._key]):
            return None
        return Failure(**json.loads(self._store.get(self._key)))

    def explain(self, error: BaseException) -> BaseException:
        """What this process should raise for `error`: the error itself, or that another process
        failed before it.
        """
        if isinstance(error, PeerError) or self.size == 1:
            return error
        first = self.post(error)
        if first.rank != self.rank:
            return (
                KeyboardInterrupt()
                if first.exit_code == INTERRUPTED
                else PeerError(first, self.node)
            )
        if isinstance(error, RuntimeError) and any(word in str(error) for word in LOST):
            lost = TrainingError(
                f"rank {self.rank} lost its connection to another of the {self.size} processes: "
                "that one was killed (out of memory?) or its machine is gone. Start the same "
                "command with resume=true to go on after the last epoch"
            )
            lost.reported = LAUNCHED in os.environ
            return lost
        who = f"raised by rank {self.rank} of {self.size}"
        if who not in getattr(error, "__notes__", ()):
            error.add_note(who)
        return error

    def _connected(self) -> bool:
        """A connection of our own to the store. Without torchrun rank 0 makes the store only when
        the group is made.
        """
        host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
        if self._store is None and self.size > 1 and host and port.isdecimal():
            timeout = datetime.timedelta(seconds=STORE_TIMEOUT_S)
            try:
                self._store = dist.TCPStore(
                    host, int(port), is_master=False, wait_for_workers=False, timeout=timeout
                )
            except RuntimeError:
                return False
        return self._store is not None


class FailureWatcher:
    """Ends this process where another has failed and the main thread does not come to notice."""

    def __init__(self, store: FailureStore):
        self._store = store
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="detectflow-watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """This process leaves by itself, or the run is done."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(POLL_S):
            try:
                first = self._store.read()
            except RuntimeError:
                first = Failure(-1, -1, "the launcher of this run is gone", 1)
            if first is None:
                continue
            if first.rank != self._store.rank and not self._done.wait(NOTICE_S):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                if not self._done.wait(GRACE_S):
                    print(
                        f"rank {self._store.rank}: {PeerError(first, self._store.node)}",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(first.exit_code)
            return


def next_group() -> int:
    """Number the process group that is about to be made; equal in all processes."""
    global _group
    _group = next(_groups)
    return _group


@contextmanager
def reported_once(rank: int, size: int) -> Iterator[None]:
    """For a program: an error that several processes meet before they are joined is reported by
    one.
    """
    try:
        yield
    except Exception as error:
        cause = FailureStore(rank, size).explain(error)
        if cause is error:
            raise
        raise cause from None


@contextmanager
def terminable(several: bool) -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: `teardown` still fires. A handler that a single process
    has already is left alone.

    several: torchrun ends the others by it when one has failed; then it is an interrupt, else
    `Terminated`.
    The first one only: once a process is leaving, further ones are ignored. torchrun kills what is
    left after 30 s.
    """
    with interrupts_are_heard():
        before = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or (
            before is not signal.SIG_DFL and not several
        ):
            yield
            return
        signal.signal(signal.SIGTERM, _interrupt if several else _terminate)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def ignore_termination() -> None:
    """Within `terminable`: this process is leaving already."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is _interrupt
    ):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


@raised_safely
def _interrupt(*_: object) -> None:
    ignore_termination()
    raise KeyboardInterrupt


@raised_safely
def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
