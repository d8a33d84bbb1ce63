"""Locks between processes: a file each, which the system frees when its holder ends, however it
ends. The text in it names the holder, and is only believed while somebody holds the lock.

What is locked is a descriptor of our own, through filelock: its class `FileLock` refuses the file
of another user in a folder like /tmp, where the users of one GPU meet. Not re-entrant.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from filelock import lock_descriptor, unlock_descriptor

from engine.errors import WorkspaceError

log = logging.getLogger("detectflow")

POLL_S = 0.05


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. A command says more than a host; run folders, which several hosts may
    share, are locked without one.
    """

    pid: int
    command: str
    host: str
    since: str  # ISO 8601, UTC

    def __str__(self) -> str:
        what = f"({self.command})" if self.command else f"on {self.host}"
        return f"process {self.pid} {what} since {self.since}"


class Lock:
    """A lock file. As a block it is released at the end, whoever took it.

    for_all: other users of the machine may take it too, and so must be able to open the file.
    transient: the file is removed with the lock. optional: where the file system has no locks,
    nobody is kept out, and a warning says so.
    """

    def __init__(
        self,
        path: Path,
        *,
        for_all: bool = False,
        transient: bool = False,
        optional: bool = False,
    ):
        self.path, self.for_all = path, for_all
        self.transient, self.optional = transient, optional
        self._descriptor = -1

    @property
    def is_held(self) -> bool:
        """Whether it is held through this object."""
        return self._descriptor >= 0

    def try_take(self, command: str = "") -> bool:
        """Hold it, if nobody does; `command` says what for.

        Raises:
            OSError: the file cannot be made or opened, for example because its folder is missing,
                or the file system has no locks.
        """
        while True:
            descriptor = self._open()
            try:
                if not self._lock(descriptor):
                    os.close(descriptor)
                    return False
                is_current = _is(descriptor, self.path)
            except BaseException:
                os.close(descriptor)
                raise
            if is_current:
                break
            os.close(descriptor)  # its last holder has removed it since it was opened
        self._descriptor = descriptor
        _write(descriptor, command)
        return True

    def take(
        self,
        command: str = "",
        *,
        timeout_s: float | None = None,
        waiting: Callable[[str], None] | None = None,
        again_s: float = math.inf,
    ) -> bool:
        """Hold it; False where others have had it for `timeout_s`. `waiting` gets the name of the
        holder at once, and then every `again_s`.
        """
        started, next_s = time.monotonic(), 0.0
        while not self.try_take(command):
            waited_s = time.monotonic() - started
            if timeout_s is not None and waited_s >= timeout_s:
                return False
            if waiting is not None and waited_s >= next_s:
                waiting(self.holder())
                next_s = waited_s + again_s
            time.sleep(POLL_S)
        return True

    def holder(self) -> str:
        """Who holds it, for a message, where it could not be taken."""
        return str(_named_in(self.path) or "another process")

    def release(self) -> None:
        """Let go; nothing where it is not held."""
        if not self.is_held:
            return
        descriptor, self._descriptor = self._descriptor, -1
        if self.transient:  # while it is held: who opens it from now on opens another file
            with contextlib.suppress(OSError):
                self.path.unlink()
        # Said out loud: a process that was forked meanwhile may have a copy of the descriptor.
        with contextlib.suppress(OSError):
            unlock_descriptor(descriptor)
        os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _open(self) -> int:
        """First without O_CREAT, which Linux refuses to others in a folder like /tmp."""
        try:
            return os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            mode = 0o666 if self.for_all else 0o644
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
            if self.for_all:
                with contextlib.suppress(OSError):  # another user's, made between the two calls
                    os.fchmod(descriptor, mode)
            return descriptor

    def _lock(self, descriptor: int) -> bool:
        try:
            return lock_descriptor(descriptor, blocking=False)
        except OSError as error:
            if not self.optional:
                raise
            log.warning(
                "%s: this file system has no locks (%s): see to it yourself that no second "
                "process writes there",
                self.path.parent,
                error.strerror,
            )
            return True


def holder_of(path: Path) -> Holder | None:
    """Who holds the lock file `path` now; None: nobody."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not lock_descriptor(descriptor, blocking=False):
                return _named_in(path) or Holder(0, "unknown", "", "")
        finally:
            os.close(descriptor)
    return None


def _named_in(path: Path) -> Holder | None:
    """The holder that a lock file names; None: nobody that could be read."""
    try:
        return Holder(**json.loads(path.read_bytes()[:4096]))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; others wait. The file stays.

    Raises:
        WorkspaceError: the lock file cannot be written.
    """
    with Lock(path) as lock:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.take()
        except OSError as error:
            raise WorkspaceError(
                f"{path.parent}: cannot be written ({error.strerror}); check who owns it"
            ) from error
        yield


def _is(descriptor: int, path: Path) -> bool:
    """Whether `path` is what was opened as `descriptor`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write(descriptor: int, command: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps(asdict(Holder(os.getpid(), command[:200], socket.gethostname(), now)))
    # A full disk must not keep anybody out: the name is a courtesy.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
