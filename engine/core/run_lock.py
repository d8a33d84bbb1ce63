"""One process at a time writes a run folder: a lock that names its holder, and ends with it,
however it ends.

`flock` on a file in the folder, which is removed at the end; one that `kill -9` left behind locks
nobody out. Who only reads (validation, prediction) needs no lock: files of a run are replaced as a
whole.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path

from engine.errors import WorkspaceError

log = logging.getLogger("detectflow")

LOCK_FILE = ".lock"
TRIES, PAUSE_S = (
    200,
    0.005,
)  # while others take and release; where it never works that is one second


class RunLock:
    """Holds at most one folder, until the end of the block."""

    def __init__(self) -> None:
        self._folder: Path | None = None  # the one that is held
        self._descriptor = -1
        self._made: list[Path] = []  # folders that were not there before, the innermost first

    def take(self, folder: Path) -> str:
        """Hold `folder`, which is made where it is missing. Returns who holds it instead, or an
        empty string.

        Raises:
            WorkspaceError: the folder cannot be made or written.
        """
        lost: OSError | None = None
        for _ in range(TRIES):
            try:
                made = [each for each in (folder, *folder.parents) if not each.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(
                    folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
                )
            except (FileNotFoundError, FileExistsError) as error:
                # Somebody who gave up has just removed the folder; `mkdir` that then finds none
                # says "exists".
                if folder.exists() and not folder.is_dir():
                    raise _cannot_be_made(folder, error) from error
                lost = error
                time.sleep(PAUSE_S)
                continue
            except OSError as error:
                raise _cannot_be_made(folder, error) from error
            holder = _lock(descriptor, folder)
            if not holder and _is_current(descriptor, folder / LOCK_FILE):
                self._folder, self._descriptor, self._made = folder, descriptor, made
                _write_holder(descriptor)
                return ""
            os.close(descriptor)
            if holder:
                return holder
        raise _cannot_be_made(folder, lost or "others keep removing it") from lost

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go; the folders that were made go too where nothing was put into them."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            (
                self._folder / LOCK_FILE
            ).unlink()  # while it is held: who opens it from now on opens another file
        with contextlib.suppress(OSError):
            for made in self._made:
                made.rmdir()
        # Said out loud: a process that was forked meanwhile may have a copy of the descriptor.
        with contextlib.suppress(OSError):
            import fcntl

            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        self._folder = None


def _cannot_be_made(folder: Path, why: OSError | str) -> WorkspaceError:
    return WorkspaceError(
        f"{folder}: the run directory cannot be made: {why}. Choose another with project= and name="
    )


def _lock(descriptor: int, folder: Path) -> str:
    """Who holds it, or an empty string."""
    import fcntl  # not on every system, and not needed by everybody who imports this

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(descriptor)
    except OSError as error:  # a network file system without locks
        log.warning(
            "%s: this file system has no locks (%s): see to it yourself that no second process "
            "writes this run",
            folder,
            error.strerror,
        )
    return ""


def _is_current(descriptor: int, path: Path) -> bool:
    """Whether the file that was opened still has its name: its last holder removes it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
    with contextlib.suppress(
        OSError
    ):  # a full disk must not keep anybody out; the name is a courtesy
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _read_holder(descriptor: int) -> str:
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {told['pid']} on {told['host']} since {told['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
